//! Takes over the maps and links of another version while traffic flows, whether it is older or newer.
//!
//! Maps of the same layout are shared: they get one more pin. Others are made, and filled by what the other version says
//! about its layout. Then the links get the programs of this version, and what the other programs have written since is
//! copied once more. Until then replies of connections that are not known are dropped, so that their senders repeat them:
//! the connection may be one that is not copied yet.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, MapData, MapError};
use headgate_abi::{BackendEntry, BackendKey, DatapathConfig, RECORDED_LAYOUTS, Takeover, names};

use crate::{
    array::{ReadOnly, SharedArray},
    attach::{Site, attached_programs, has_links, move_links, swap},
    copy::{Copy, Followed},
    error::Error,
    layouts::{Conversion, Layouts, Parts},
    load::{MapSizes, Programs, load_with, make_folder},
    pin::{array, hash},
    raw::RawMap,
    state_file::TextMap,
    store::insertion_error,
    sys,
    version::Version,
};

/// Maps that programs write, and read back.
const FOLLOWED: [&str; 4] = [
    names::AFFINITY,
    names::CONNTRACK,
    names::SOCKETS,
    names::FRAGMENTS,
];
/// Maps that each version has for itself.
const OWN: [&str; 4] = [
    names::LAYOUT,
    names::LOADED,
    names::PAUSED_BACKENDS,
    names::TAKEOVER,
];
/// Maps without which Services are not served, or connections are cut.
const ESSENTIAL: [&str; 6] = [
    names::ADDRESSES,
    names::BACKENDS,
    names::CONNTRACK,
    names::FRONTENDS,
    names::SERVICES,
    names::SLOTS,
];
/// The only key of `TAKEOVER`.
const TAKEOVER_KEY: [u8; 4] = [0; 4];
/// How long replies of unknown connections may be dropped, in seconds, if the agent is killed meanwhile.
const COPYING_S: u32 = 20;

/// Name of a map, and how its keys and values are converted.
type Converted = (&'static str, (Parts, Parts));

/// The maps of another version, and the folder for ours.
pub(crate) struct Migration<'a> {
    version: &'a Version,
    /// The other version.
    number: u32,
    from: PathBuf,
    theirs: Layouts,
    to: PathBuf,
    /// Whether our maps hold entries that count: a takeover was interrupted, in either direction.
    is_resumed: bool,
}

impl<'a> Migration<'a> {
    /// Finds another version whose programs are attached, or whose maps were not copied to the end. Removes what others
    /// have left behind: an agent may have ended while it removed the former maps, or before it attached anything.
    pub(crate) fn find(pins: &Path, version: &'a Version) -> Result<Option<Self>, Error> {
        let to = version.folder(pins);
        for (Reverse(number), from) in others(pins, version)? {
            let is_begun = has_links(&to);
            let is_unfinished = is_begun && mark(&to, &from).exists();
            if !has_links(&from) && !is_unfinished {
                if is_begun {
                    remove(&from)?;
                }
                continue;
            }
            let is_resumed = is_begun || mark(&from, &to).exists();
            let Some(theirs) = layouts(number, &from)? else {
                return Err(Error::OtherVersion {
                    version: number,
                    reason: "their layouts are not known".into(),
                });
            };
            return Ok(Some(Self {
                version,
                number,
                from,
                theirs,
                to,
                is_resumed,
            }));
        }
        Ok(None)
    }

    /// Returns programs of this version, which are attached wherever those of the other version were.
    pub(crate) fn run(self, config: &DatapathConfig, sizes: &MapSizes) -> Result<Programs, Error> {
        let (mut programs, mut copies) = self.prepare(config, sizes)?;
        exchange(&mut copies, &self.from, &self.to, |site| {
            move_links(&self.from, &self.to)?;
            swap(&mut programs, &self.to, site)
        })?;
        // From here on the former maps are only left behind.
        remove(&mark(&self.to, &self.from))?;
        remove(&self.from)?;
        Ok(programs)
    }

    /// Makes the maps, loads the programs over them, and says what is to be copied.
    fn prepare(
        &self,
        config: &DatapathConfig,
        sizes: &MapSizes,
    ) -> Result<(Programs, Vec<Copy>), Error> {
        if !self.is_resumed {
            // From an earlier time of this version: its entries are too old.
            remove(&self.to)?;
        }
        make_folder(&mark(&self.to, &self.from))?;
        let ours = Layouts::parse(&self.version.layouts);
        let mut sizes = *sizes;
        let converted = self.share(&mut sizes)?;
        let ebpf = load_with(self.version, config, &sizes, |name| self.to.join(name))?;
        let mut programs = Programs::new(ebpf);
        // Another version must be able to take over from here, if this agent ends before its takeover does.
        TextMap::open(self.to.join(names::LAYOUT))?.write(&self.version.layouts)?;
        let mut copies = Vec::new();
        for (name, parts) in converted {
            let is_followed = FOLLOWED.contains(&name);
            // An agent that was killed has copied the others before it moved the links.
            if is_followed || !self.is_resumed {
                let [from, to] =
                    [&self.from, &self.to].map(|folder| RawMap::open(folder.join(name)));
                let seen_at = [&self.theirs, &ours].map(|layouts| layouts.seen_at(name));
                let followed = is_followed.then(|| Followed::new(seen_at, ours.identity(name)));
                copies.push(Copy::new(from?, to?, parts, followed));
            }
        }
        let folder = match has_links(&self.to) {
            true => &self.to,
            false => &self.from,
        };
        programs.load_all(&attached_programs(folder)?)?;
        Ok((programs, copies))
    }

    /// Pins the maps that have the same layout. Returns those that are to be converted, and how; `sizes` become large
    /// enough for their entries.
    fn share(&self, sizes: &mut MapSizes) -> Result<Vec<Converted>, Error> {
        let ours = Layouts::parse(&self.version.layouts);
        let made = self.version.made()?;
        let mut converted = Vec::new();
        for name in names::MAPS {
            let path = self.from.join(name);
            if !path.exists() {
                continue;
            }
            let former = RawMap::open(path)?;
            sizes.raise(name, former.capacity());
            if OWN.contains(&name) {
                continue;
            }
            match self.theirs.conversion(&ours, name) {
                Conversion::Same if !made.is_like(name, &former) => {
                    let parts = [former.key_size(), former.value_size()].map(Parts::all);
                    converted.push((name, parts.into()));
                }
                Conversion::Same if self.to.join(name).exists() => {}
                Conversion::Same => former.pin(&self.to.join(name))?,
                Conversion::Copy { key, value } => converted.push((name, (key, value))),
                // Services would be away until the agent has written them again.
                Conversion::Nothing if ESSENTIAL.contains(&name) => {
                    return Err(Error::OtherVersion {
                        version: self.number,
                        reason: format!("the keys of map {name} are others"),
                    });
                }
                Conversion::Nothing => {}
            }
        }
        Ok(converted)
    }
}

/// Copies entries, lets `swap` replace the programs that write them, and copies what these have written meanwhile. The
/// folders are those of the former programs and of the new ones.
pub(crate) fn exchange(
    copies: &mut [Copy],
    from: &Path,
    to: &Path,
    mut swap: impl FnMut(Site) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut copy = || copies.iter_mut().try_for_each(Copy::step);
    // The second time takes less, so less remains for the third. While packets wait, only what is new is compared.
    for _ in 0..2 {
        copy()?;
    }
    let mut paused: HashMap<MapData, BackendKey, u32> = hash(to, names::PAUSED_BACKENDS)?;
    pause_backends(&mut paused, to)?;
    swap(Site::Sockets)?;
    copy()?;
    let takeover = RawMap::open(to.join(names::TAKEOVER))?;
    // Earlier versions have no such map.
    let former = from.join(names::TAKEOVER);
    let before = match former.exists() {
        true => RawMap::open(former)?.get(&TAKEOVER_KEY)?,
        false => None,
    };
    let before = before.unwrap_or_else(|| Takeover::DONE.0.to_ne_bytes().into());
    let until = Takeover::copying_until(sys::now_s().wrapping_add(COPYING_S));
    takeover.put(&TAKEOVER_KEY, &until.0.to_ne_bytes())?;
    swap(Site::Packets)?;
    copy()?;
    takeover.put(&TAKEOVER_KEY, &before)?;
    // A former program may still have run while this was copied.
    sys::wait_for_programs();
    copy()?;
    let backends: Vec<_> = paused.keys().collect::<Result<_, _>>().map_err(refused)?;
    for backend in backends {
        paused.remove(&backend).map_err(refused)?;
    }
    Ok(())
}

/// Names the backends whose replies wait.
fn pause_backends(
    paused: &mut HashMap<MapData, BackendKey, u32>,
    folder: &Path,
) -> Result<(), Error> {
    let backends: SharedArray<BackendEntry, ReadOnly> = array(folder, names::BACKENDS)?;
    for backend in (1..backends.len()).filter_map(|id| backends.get(id)) {
        if backend.is_empty() {
            continue;
        }
        let paused = paused.insert(BackendKey::from(&backend), 0, 0);
        match paused.map_err(|source| insertion_error(names::PAUSED_BACKENDS, source)) {
            // An earlier build has made room for more backends, and had no such map.
            Err(Error::NoRoom { .. }) => break,
            result => result?,
        }
    }
    Ok(())
}

fn refused(source: MapError) -> Error {
    Error::map(names::PAUSED_BACKENDS, source)
}

/// The folder that exists in that of a version from before it copies the maps of another one until all is copied. Pins
/// without it, or links, are only left behind.
fn mark(to: &Path, from: &Path) -> PathBuf {
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    to.join(format!("from-{name}"))
}

/// The folders of other versions, the newest first.
fn others(pins: &Path, version: &Version) -> Result<BTreeMap<Reverse<u32>, PathBuf>, Error> {
    let entries = match fs::read_dir(pins) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(failed(pins)(source)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(failed(pins))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name
            .strip_prefix('v')
            .and_then(|number| number.parse().ok());
        if let Some(number) = number.filter(|number| *number != version.number) {
            found.insert(Reverse(number), path);
        }
    }
    Ok(found)
}

/// Returns the layouts of a version, which its agent has written; of one that did not yet, as they are recorded.
fn layouts(number: u32, folder: &Path) -> Result<Option<Layouts>, Error> {
    let path = folder.join(names::LAYOUT);
    let written = match path.exists() {
        true => TextMap::open(path)?.read()?,
        false => None,
    };
    let is_it = |(version, _): &&(u32, &str)| *version == number;
    let recorded = || Some(RECORDED_LAYOUTS.iter().find(is_it)?.1.to_owned());
    let parse = |text: String| Some(Layouts::parse(&text)).filter(|layouts| !layouts.is_empty());
    Ok(written
        .and_then(parse)
        .or_else(|| recorded().and_then(parse)))
}

/// Another version whose maps are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherVersion {
    /// Its number.
    pub number: u32,
    /// Where its maps are pinned.
    pub folder: PathBuf,
    /// Whether its programs are attached. Otherwise the maps are left behind: the next agent removes them.
    pub is_attached: bool,
    /// Whether it says what its maps hold, so that an agent can take them over.
    pub is_known: bool,
}

/// Returns the other versions whose maps are pinned below `pins`, the newest first.
///
/// # Errors
///
/// If the pins cannot be read.
pub fn other_versions(pins: &Path) -> Result<Vec<OtherVersion>, Error> {
    let others = others(pins, &Version::ours())?.into_iter();
    others
        .map(|(Reverse(number), folder)| {
            Ok(OtherVersion {
                number,
                is_attached: has_links(&folder),
                is_known: layouts(number, &folder)?.is_some(),
                folder,
            })
        })
        .collect()
}

/// Removes a folder of pins, if it exists.
fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed(folder)),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Pin {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
