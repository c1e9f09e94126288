//! States of the maps: small, so that random packets hit an entry.

use std::net::IpAddr;

use fastrand::Rng;
use headgate_abi::{
    Addr, AddressEntry, BackendEntry, DatapathConfig, FrontendEntry, FrontendFlags, FrontendKey,
    Location, Port, Protocol,
};
use headgate_packets::State;

use crate::input::one;

/// Number of states.
pub(crate) const STATES: u8 = 8;

/// Addresses with frontends: of the node, of a cluster IP, and of a load balancer.
pub(crate) const FRONTENDS: [&str; 6] = [
    "192.168.50.1",
    "10.96.0.1",
    "203.0.113.1",
    "fd50::1",
    "fd96::1",
    "fdcb::1",
];
/// Backends: two pods of this node, one of another, and a process of the node.
pub(crate) const BACKENDS: [&str; 8] = [
    "10.244.1.2",
    "10.244.1.3",
    "10.244.2.4",
    "192.168.50.1",
    "fd44:1::2",
    "fd44:1::3",
    "fd44:2::4",
    "fd50::1",
];
/// Ports with frontends.
pub(crate) const PORTS: [u16; 3] = [53, 80, 30_080];
/// The port of every backend.
pub(crate) const BACKEND_PORT: u16 = 9376;

pub(crate) fn address(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().expect("an address"))
}

/// The state of this number.
pub(crate) fn state(number: u8) -> State {
    let mut rng = Rng::with_seed(u64::from(number % STATES));
    let config = DatapathConfig {
        snat_port_first: Port::new(10_000),
        // Few ports, so that they run out.
        snat_port_last: Port::new(*one(&mut rng, &[10_000, 10_003, 19_999])),
        seed: rng.u32(..),
        ..DatapathConfig::default()
    };
    let mut state = State {
        config,
        ..State::default()
    };
    // Each address of the node may be missing.
    if rng.u8(..4) != 0 {
        state.config.snat_v4 = address(FRONTENDS[0]);
    }
    if rng.u8(..4) != 0 {
        state.config.snat_v6 = address(FRONTENDS[3]);
    }
    for (index, text) in (1..).zip(BACKENDS) {
        for (id, protocol) in [(index, Protocol::TCP), (index + 8, Protocol::UDP)] {
            let entry = BackendEntry {
                address: address(text),
                port: Port::new(BACKEND_PORT),
                protocol,
                location: match text.as_bytes().last() {
                    Some(b'4') => Location::OTHER_NODE,
                    Some(b'3') => Location::OUTSIDE,
                    _ => Location::THIS_NODE,
                },
            };
            state.backends.insert(id, entry);
        }
    }
    // Three services for each family and protocol: ids 1 to 12.
    for group in 0..4u32 {
        let first = 1 + (group & 1) * 4 + (group >> 1) * 8;
        for number in 0..3 {
            let mut backends: Vec<u32> = (first..first + 4).filter(|_| rng.bool()).collect();
            rng.shuffle(&mut backends);
            let affinity_timeout_s = if rng.u8(..3) == 0 { 100 } else { 0 };
            let id = 1 + group * 3 + number;
            state.add_service(id, &backends, affinity_timeout_s);
            for range in ["198.51.100.0", "fd50::"].iter().filter(|_| rng.bool()) {
                state.ranges.push((id, address(range), 96 + 24));
            }
        }
    }
    for (index, text) in FRONTENDS.iter().enumerate() {
        let is_v6 = u32::from(index >= 3);
        let kind = match index % 3 {
            0 => AddressEntry::NODE,
            _ => AddressEntry::SERVICE,
        };
        state.addresses.insert(address(text), kind);
        for port in PORTS {
            for (is_udp, protocol) in [(0, Protocol::TCP), (1, Protocol::UDP)] {
                if rng.u8(..4) == 0 {
                    continue;
                }
                let mut service = || 1 + (is_v6 + is_udp * 2) * 3 + rng.u32(..3);
                let (inside, outside) = (service(), service());
                let flags = *one(
                    &mut rng,
                    &[
                        FrontendFlags::default(),
                        FrontendFlags::default(),
                        FrontendFlags::DROP_INSIDE,
                        FrontendFlags::DROP_OUTSIDE,
                        FrontendFlags::SOURCE_RANGES,
                    ],
                );
                let key = FrontendKey::new(address(text), Port::new(port), protocol);
                let entry = FrontendEntry {
                    inside,
                    outside,
                    flags,
                    programmed_s: 0,
                };
                state.frontends.insert(key, entry);
            }
        }
    }
    state
}
