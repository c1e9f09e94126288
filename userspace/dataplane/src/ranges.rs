//! The ranges of Service addresses, in their map.

use std::net::IpAddr;

use headgate_abi::{Addr, SERVICE_RANGES, ServiceRange};
use ipnet::IpNet;

use crate::{array::ReadWrite, maps::Maps};

/// Writes the ranges of addresses that the cluster assigns to Services, instead of those before.
/// Returns the ranges that do not fit: there are 8 entries.
pub fn write_service_ranges(maps: &Maps<ReadWrite>, ranges: &[IpNet]) -> Vec<IpNet> {
    let mut entries = ranges.iter().map(entry);
    for index in 0..SERVICE_RANGES {
        let new = entries.next().unwrap_or_default();
        if maps.service_ranges.get(index) != Some(new) {
            let _exists = maps.service_ranges.set(index, new);
        }
    }
    ranges
        .iter()
        .skip(SERVICE_RANGES as usize)
        .copied()
        .collect()
}

fn entry(range: &IpNet) -> ServiceRange {
    let address = Addr::from(range.network());
    let mask = match range.netmask() {
        IpAddr::V4(mask) => {
            let [_, _, _, mask] = Addr::from(IpAddr::V4(mask)).words();
            Addr::from_words([u32::MAX, u32::MAX, u32::MAX, mask])
        }
        mask @ IpAddr::V6(_) => Addr::from(mask),
    };
    ServiceRange { address, mask }
}

#[cfg(test)]
mod tests {
    use super::{Addr, IpAddr, entry};

    #[test]
    fn entries_hold_the_addresses_of_their_ranges() {
        for (range, inside, outside) in [
            ("10.96.0.0/12", "10.111.255.255", "10.112.0.0"),
            ("10.96.0.0/12", "10.96.0.0", "10.95.255.255"),
            ("10.96.0.7/32", "10.96.0.7", "10.96.0.6"),
            ("fd96::/108", "fd96::f:ffff", "fd96::10:0"),
            ("fd96::/112", "fd96::1", "10.96.0.1"),
        ] {
            let entry = entry(&range.parse().unwrap());
            let holds = |text: &str| entry.contains(&Addr::from(text.parse::<IpAddr>().unwrap()));
            assert!(entry.is_used());
            assert_eq!((holds(inside), holds(outside)), (true, false), "{range}");
        }
    }
}
