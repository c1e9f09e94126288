//! Ports at which proxies get the connections of Gateways: one of their own for each port of each Gateway.

use std::collections::{BTreeMap, BTreeSet};

use super::object::Age;
use crate::edge::GatewayPort;

/// The first port, and how many there are: below node ports (30000) and ephemeral ports (32768), above those
/// of common services.
const FIRST: u16 = 12000;
const COUNT: u16 = 16000;

/// Chooses a port for each port of a Gateway. Those that are known stay; others depend on the name alone,
/// unless an older one has the same.
pub(super) fn target_ports(
    wanted: &BTreeMap<GatewayPort, Age>,
    known: &BTreeMap<GatewayPort, u16>,
) -> BTreeMap<GatewayPort, u16> {
    let mut used = BTreeSet::new();
    let mut chosen = BTreeMap::new();
    let mut rest: Vec<(&Age, &GatewayPort)> = Vec::new();
    for (port, age) in wanted {
        match known.get(port) {
            Some(target) if used.insert(*target) => {
                chosen.insert(port.clone(), *target);
            }
            _ => rest.push((age, port)),
        }
    }
    rest.sort();
    for (_, port) in rest {
        // Lossless: the remainder is below `COUNT`.
        let first = u16::try_from(hash(&port.to_string()) % u64::from(COUNT)).unwrap_or_default();
        let mut candidates = (0..COUNT).map(|step| FIRST + (first + step) % COUNT);
        if let Some(target) = candidates.find(|target| !used.contains(target)) {
            used.insert(target);
            chosen.insert(port.clone(), target);
        }
    }
    chosen
}

/// The hash FNV-1a, the same on every machine.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
