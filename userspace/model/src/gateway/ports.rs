//! Ports at which proxies get the connections of Gateways: one of their own for each port of each Gateway.

use std::collections::{BTreeMap, BTreeSet};

use super::object::Age;
use crate::edge::GatewayPort;

/// The first port, and how many there are: below node ports (30000) and ephemeral ports (32768), above those
/// of common services.
const FIRST: u16 = 12000;
const COUNT: u16 = 16000;

/// Returns whether a port of a node can be a target port of a Gateway.
pub fn can_be_target(port: u16) -> bool {
    (FIRST..FIRST + COUNT).contains(&port)
}

/// Chooses a port for each port of a Gateway, none of those that are `reserved`. It depends on the name alone,
/// unless an older one has the same: so all nodes choose alike, without a memory that some of them lack. The
/// youngest get none if there are more than there are target ports.
pub(super) fn target_ports(
    wanted: &BTreeMap<GatewayPort, Age>,
    reserved: &BTreeSet<u16>,
) -> BTreeMap<GatewayPort, u16> {
    let mut used = reserved.clone();
    let mut chosen = BTreeMap::new();
    let mut ports: Vec<(&Age, &GatewayPort)> =
        wanted.iter().map(|(port, age)| (age, port)).collect();
    ports.sort();
    for (_, port) in ports {
        // Lossless: the remainder is below `COUNT`.
        let first = u16::try_from(hash(&port.to_string()) % u64::from(COUNT)).unwrap_or_default();
        let mut candidates = (0..COUNT).map(|step| FIRST + (first + step) % COUNT);
        let Some(target) = candidates.find(|target| !used.contains(target)) else {
            break;
        };
        used.insert(target);
        chosen.insert(port.clone(), target);
    }
    chosen
}

/// The hash FNV-1a, the same on every machine.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
