//! Makes maps larger while traffic flows: larger maps, new programs over them, the contents, the links, and the pins.
//!
//! Of the maps that the agent writes, all attached programs see the same contents at every moment: from the copy on,
//! nothing is written until all of them use the larger maps, or none. Those that programs write are copied once more.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use headgate_abi::DatapathConfig;
#[cfg(test)]
use headgate_abi::names;

use crate::{
    attach::{attached_programs, has_links, swap},
    copy::{Copy, Followed},
    error::Error,
    layouts::{Layouts, Parts},
    load::{MapSizes, Programs, load_with, make_folder},
    maps::{capacity, memory},
    migrate::exchange,
    pin::{open, pin_folder},
    raw::RawMap,
    version::Version,
};

/// Makes larger maps, of at least these sizes and still empty, and loads programs over them: those that `former` has
/// loaded. This takes seconds, in which the present maps can be written. [`Larger::copy`] then fills the maps, the
/// programs are to be attached everywhere, and [`Larger::keep`] replaces the pins.
///
/// # Errors
///
/// If the maps that the agent writes would take more than `most_bytes` of memory, or there is too little, or the kernel
/// refuses a program.
pub fn grow(
    pins: &Path,
    config: &DatapathConfig,
    sizes: &MapSizes,
    most_bytes: u64,
    former: &[String],
) -> Result<(Programs, Larger), Error> {
    let folder = pin_folder(pins);
    let mut larger = Larger::below(&folder);
    let mut bytes = 0;
    for (name, size) in sizes.of_agent() {
        let map = open(&folder, name)?;
        let (now, used) = (capacity(&map, name)?, memory(&map).unwrap_or(0));
        bytes += used * u64::from(size.max(now)) / u64::from(now.max(1));
        if size > now {
            larger.names.push(name);
        }
    }
    if bytes > most_bytes {
        return Err(Error::MemoryLimit {
            wanted: bytes >> 20,
            most: most_bytes >> 20,
        });
    }
    larger.discard()?;
    make_folder(&larger.folder)?;
    let mut programs = Programs::new(load_with(&Version::ours(), config, sizes, |name| {
        larger.pin(name)
    })?);
    programs.load_all(former)?;
    Ok((programs, larger))
}

/// Makes the maps that programs write as large as these sizes, if they are smaller, and returns programs over them, which
/// are attached wherever programs are. `None` if the maps are large enough, or nothing is attached.
///
/// An agent that was killed meanwhile may have left larger maps that programs write already: then these become the maps.
///
/// # Errors
///
/// If the kernel refuses a map or a program.
pub(crate) fn grow_caches(
    version: &Version,
    folder: &Path,
    config: &DatapathConfig,
    sizes: &MapSizes,
) -> Result<Option<Programs>, Error> {
    let mut larger = Larger::below(folder);
    if !larger.is_in_use() || !has_links(folder) {
        larger.discard()?;
    }
    if !has_links(folder) {
        return Ok(None);
    }
    for (name, size) in sizes.of_programs() {
        let is_larger = match larger.is_in_use() {
            true => larger.folder.join(name).exists(),
            false => capacity(&open(folder, name)?, name)? < size,
        };
        if is_larger {
            larger.names.push(name);
        }
    }
    if larger.names.is_empty() {
        // It may have been killed when it had replaced all pins.
        larger.discard()?;
        return Ok(None);
    }
    make_folder(&larger.folder)?;
    let ebpf = load_with(version, config, sizes, |name| larger.pin(name))?;
    let mut programs = Programs::new(ebpf);
    programs.load_all(&attached_programs(folder)?)?;
    let mut copies = larger.copies(true)?;
    make_folder(&larger.mark())?;
    exchange(&mut copies, folder, folder, |site| {
        swap(&mut programs, folder, site)
    })?;
    larger.keep()?;
    larger.discard()?;
    Ok(Some(programs))
}

/// Larger maps, pinned beside those that they are to replace. Dropped, they are given up, unless programs may have written
/// them.
#[derive(Debug)]
pub struct Larger {
    /// Where the maps in use are pinned.
    present: PathBuf,
    folder: PathBuf,
    names: Vec<&'static str>,
}

impl Larger {
    pub(crate) fn below(present: &Path) -> Self {
        Self {
            present: present.to_owned(),
            folder: present.join("larger"),
            names: Vec::new(),
        }
    }

    /// The folder that exists from before programs write the larger maps until they have replaced the others. Maps that the
    /// agent writes need none: until then, the present ones have all that these have.
    fn mark(&self) -> PathBuf {
        self.folder.join("in-use")
    }

    fn is_in_use(&self) -> bool {
        self.mark().exists()
    }

    fn pin(&self, name: &str) -> PathBuf {
        match self.names.contains(&name) {
            true => self.folder.join(name),
            false => self.present.join(name),
        }
    }

    /// Copies what the present maps hold.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn copy(&self) -> Result<(), Error> {
        let mut copies = self.copies(false)?;
        copies.iter_mut().try_for_each(Copy::step)
    }

    fn copies(&self, is_followed: bool) -> Result<Vec<Copy>, Error> {
        let layouts = Layouts::parse(&Version::ours().layouts);
        let copy = |name: &&str| {
            let present = RawMap::open(self.present.join(name))?;
            let larger = RawMap::open(self.folder.join(name))?;
            let parts = [present.key_size(), present.value_size()].map(Parts::all);
            let seen_at = [layouts.seen_at(name); 2];
            let followed = is_followed.then(|| Followed::new(seen_at, layouts.identity(name)));
            Ok(Copy::new(present, larger, parts.into(), followed))
        };
        self.names.iter().map(copy).collect()
    }

    /// Replaces the pins of the present maps by those of the larger ones. An agent that ends between two of them leaves
    /// maps of the same contents.
    ///
    /// # Errors
    ///
    /// If a pin cannot be replaced.
    pub fn keep(&self) -> Result<(), Error> {
        for name in &self.names {
            let (from, path) = (self.folder.join(name), self.present.join(name));
            // The BPF file system has no exchange; programs hold their maps meanwhile.
            fs::rename(from, &path).map_err(|source| Error::Pin { path, source })?;
        }
        Ok(())
    }

    /// Removes the pins.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub(crate) fn discard(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
                path: self.folder.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }
}

impl Drop for Larger {
    fn drop(&mut self) {
        if !self.is_in_use() {
            // What is left is removed before the maps become larger again.
            let _left = self.discard();
        }
    }
}

/// Makes the maps that programs write as large as these sizes, and ends before they replace the present ones, as if killed.
/// Returns the folder of the larger ones.
#[cfg(test)]
pub(crate) fn interrupt(version: &Version, folder: &Path, sizes: &MapSizes) -> PathBuf {
    let mut larger = Larger::below(folder);
    larger.names = vec![names::AFFINITY, names::CONNTRACK];
    make_folder(&larger.folder).unwrap();
    let config = DatapathConfig::default();
    let loaded = load_with(version, &config, sizes, |name| larger.pin(name));
    drop(loaded.unwrap());
    let mut copies = larger.copies(true).unwrap();
    copies.iter_mut().try_for_each(Copy::step).unwrap();
    make_folder(&larger.mark()).unwrap();
    larger.folder.clone()
}
