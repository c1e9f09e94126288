//! The addresses that the node sends from, by device, in their map.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::maps::{HashMap, MapData};
use headgate_abi::{Addr, SourceEntry, names};

use crate::{
    error::Error,
    pin::{pin_folder, typed},
};

/// Writes the addresses that packets get as source where they leave by a device, instead of those before: IPv4 and
/// IPv6 by number of the device. There is room for 4,096 devices.
///
/// # Errors
///
/// If there is no such map, or it cannot be written.
pub fn write_sources(
    pins: &Path,
    sources: &BTreeMap<u32, [Option<IpAddr>; 2]>,
) -> Result<(), Error> {
    let failed = |source| Error::map(names::SOURCES, source);
    let mut map: HashMap<MapData, u32, SourceEntry> = typed(&pin_folder(pins), names::SOURCES)?;
    let old = map
        .keys()
        .collect::<Result<Vec<u32>, _>>()
        .map_err(failed)?;
    for index in old.iter().filter(|index| !sources.contains_key(index)) {
        map.remove(index).map_err(failed)?;
    }
    for (index, addresses) in sources {
        let [v4, v6] = addresses.map(|address| address.map(Addr::from).unwrap_or_default());
        let entry = SourceEntry { v4, v6 };
        map.insert(index, entry, 0).map_err(failed)?;
    }
    Ok(())
}
