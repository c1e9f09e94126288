//! The addresses that the node sends from, by device, in their map.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::maps::{HashMap, MapData};
use headgate_abi::{Addr, SourceEntry, names};

use crate::{
    error::Error,
    pin::{pin_folder, typed},
};

/// Writes the addresses that packets get as source where they leave by a device, instead of those before: by
/// number of the device, the first address of each family. There is room for 4,096 devices.
///
/// # Errors
///
/// If there is no such map, or it cannot be written.
pub fn write_sources(pins: &Path, sources: &BTreeMap<u32, Vec<IpAddr>>) -> Result<(), Error> {
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
        let first = |is_wanted: fn(&IpAddr) -> bool| {
            let address = addresses.iter().copied().find(is_wanted);
            address.map(Addr::from).unwrap_or_default()
        };
        let entry = SourceEntry {
            v4: first(IpAddr::is_ipv4),
            v6: first(IpAddr::is_ipv6),
        };
        map.insert(index, entry, 0).map_err(failed)?;
    }
    Ok(())
}
