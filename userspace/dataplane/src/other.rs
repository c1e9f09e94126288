//! Other versions of the maps, for tests: one whose entries of connections and fragments have a field more, and the one
//! before this one, as it was.

#[cfg(feature = "other-version")]
use std::{fs, path::Path};

#[cfg(feature = "other-version")]
use aya::maps::{MapData, MapType};
#[cfg(feature = "other-version")]
use aya_obj::{Map, generated::BPF_F_RDONLY_PROG};
use headgate_abi::ABI_VERSION;
#[cfg(feature = "other-version")]
use headgate_abi::{DatapathConfig, names};

use crate::version::Version;
#[cfg(feature = "other-version")]
use crate::{
    attach::move_links,
    copy::Copy,
    error::Error,
    layouts::{Conversion, Layouts, Parts},
    load::{MapSizes, Programs, load_as, make_folder},
    raw::RawMap,
    state_file::TextMap,
};

/// The layouts of ABI 2, as its last commit had them.
#[cfg(feature = "other-version")]
const BEFORE: (u32, &str) = (2, include_str!("abi-2.txt"));

/// Sizes of keys and values of the maps that differ, as `struct bpf_map_def` has them after the kind, and the number of
/// entries.
const CHANGED: [([u32; 4], u32); 2] = [([9, 40, 64, 1 << 18], 72), ([9, 40, 20, 1 << 14], 24)];

/// Loads the programs of that version, as [`load`](crate::load()) does it for this one. Its number is one more. The
/// programs are those of this version, over maps with larger values.
///
/// # Errors
///
/// As [`load`](crate::load()).
#[cfg(feature = "other-version")]
pub fn load_other_version(
    pins: &Path,
    config: &DatapathConfig,
    sizes: &MapSizes,
) -> Result<Programs, Error> {
    load_as(&other(), pins, config, sizes)
}

/// Replaces the pinned maps by those of the ABI before, with the same entries as far as these have the fields, and takes
/// the links along. The attached programs stay: they write the maps that were pinned. Returns the number of the ABI.
///
/// # Errors
///
/// If the kernel refuses a map.
#[cfg(feature = "other-version")]
pub fn become_former(pins: &Path) -> Result<u32, Error> {
    let (number, text) = BEFORE;
    let ours = Version::ours();
    let (from, to) = (ours.folder(pins), pins.join(format!("v{number}")));
    make_folder(&to)?;
    let (present, former) = (Layouts::parse(&ours.layouts), Layouts::parse(text));
    for name in names::MAPS {
        let there = RawMap::open(from.join(name))?;
        let has_entries = !matches!(
            there.kind(),
            MapType::RingBuf | MapType::SockHash | MapType::DevMapHash
        );
        let (key, value) = match present.conversion(&former, name) {
            _ if !has_entries => continue,
            Conversion::Same => [there.key_size(), there.element_size()]
                .map(Parts::all)
                .into(),
            Conversion::Copy { key, value } => (key, value),
            Conversion::Nothing => continue,
        };
        let path = to.join(name);
        make(&there, &key, &value)
            .and_then(|map| Ok(map.pin(&path)?))
            .map_err(|source: Box<dyn std::error::Error + Send + Sync>| Error::Grow(source))?;
        Copy::new(there, RawMap::open(path)?, (key, value), None).step()?;
    }
    // Its agents did not write their layouts; those of this test do.
    let layout = RawMap::open(from.join(names::LAYOUT))?;
    layout.pin(&to.join(names::LAYOUT))?;
    TextMap::open(to.join(names::LAYOUT))?.write(text)?;
    move_links(&from, &to)?;
    fs::remove_dir_all(&from).map_err(|source| Error::Pin { path: from, source })?;
    Ok(number)
}

/// Makes a map like this one, with keys and values of the sizes that these make.
#[cfg(feature = "other-version")]
fn make(
    there: &RawMap,
    key: &Parts,
    value: &Parts,
) -> Result<MapData, Box<dyn std::error::Error + Send + Sync>> {
    let sizes = [key, value].map(|parts| parts.to_size() as u32);
    let flags = there.flags() & !BPF_F_RDONLY_PROG;
    let kind = there.kind() as u32;
    let map = Map::new_from_params(kind, sizes[0], sizes[1], there.capacity(), flags);
    Ok(MapData::create(map, "former", None)?)
}

pub(crate) fn other() -> Version {
    let layouts = Version::ours().layouts;
    let layouts = layouts
        .replace("type CtEntry 64", "type CtEntry 72 more 64")
        .replace("type FragmentEntry 20", "type FragmentEntry 24 more 20");
    Version {
        number: ABI_VERSION + 1,
        layouts: layouts.into(),
        alter,
    }
}

fn alter(mut object: Vec<u8>) -> Vec<u8> {
    for (map, value_size) in CHANGED {
        let map: Vec<u8> = map.into_iter().flat_map(u32::to_ne_bytes).collect();
        let found = object.windows(map.len()).position(|bytes| bytes == map);
        let field = found.and_then(|at| object.get_mut(at + 8..at + 12));
        if let Some(field) = field {
            field.copy_from_slice(&value_size.to_ne_bytes());
        }
    }
    object
}
