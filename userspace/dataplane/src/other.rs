//! Another version of the maps, for tests: the entries of connections and fragments have a field more.

#[cfg(feature = "other-version")]
use std::path::Path;

use headgate_abi::ABI_VERSION;
#[cfg(feature = "other-version")]
use headgate_abi::DatapathConfig;

use crate::version::Version;
#[cfg(feature = "other-version")]
use crate::{
    error::Error,
    load::{MapSizes, Programs, load_as},
};

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
