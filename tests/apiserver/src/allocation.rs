//! Allocation of cluster addresses and node ports.
//!
//! The API picks at random. Here the next available one after the last is picked, so that tests are
//! repeatable and a released address is not assigned again at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;

use crate::storage::Key;

/// `IPv4` or `IPv6`, as in `spec.ipFamilies`.
pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A range of addresses and the offset to try first.
struct Pool {
    range: IpNet,
    next: u128,
}

impl Pool {
    /// Offsets that may be assigned: not the network address, nor the broadcast address.
    fn offsets(&self) -> RangeInclusive<u128> {
        let host_bits = u32::from(self.range.max_prefix_len() - self.range.prefix_len());
        let last = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |n| n - 1);
        let last = match self.range {
            IpNet::V4(_) => last.saturating_sub(1),
            IpNet::V6(_) => last,
        };
        1..=last
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.range.network() {
            IpAddr::V4(network) => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                IpAddr::V4(Ipv4Addr::from(u32::from(network).wrapping_add(offset)))
            }
            IpAddr::V6(network) => {
                IpAddr::V6(Ipv6Addr::from(u128::from(network).wrapping_add(offset)))
            }
        }
    }

    fn offset_of(&self, address: IpAddr) -> Option<u128> {
        match (self.range.network(), address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => u32::from(address)
                .checked_sub(u32::from(network))
                .map(u128::from),
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                u128::from(address).checked_sub(u128::from(network))
            }
            _ => None,
        }
    }
}

/// Addresses and node ports in use by Services.
pub(crate) struct Allocations {
    pools: Vec<Pool>,
    node_ports: RangeInclusive<u16>,
    next_port: u16,
    addresses: HashMap<IpAddr, Key>,
    ports: HashMap<u16, Key>,
}

impl Allocations {
    /// The first range is of the cluster's primary family.
    pub(crate) fn new(ranges: &[IpNet], node_ports: RangeInclusive<u16>) -> Self {
        Self {
            pools: ranges
                .iter()
                .map(|range| Pool {
                    range: range.trunc(),
                    next: 1,
                })
                .collect(),
            next_port: *node_ports.start(),
            node_ports,
            addresses: HashMap::new(),
            ports: HashMap::new(),
        }
    }

    /// Families of the ranges, the primary one first.
    pub(crate) fn families(&self) -> Vec<&'static str> {
        self.pools
            .iter()
            .map(|pool| family(pool.range.network()))
            .collect()
    }

    /// The range of a family, for messages.
    pub(crate) fn range(&self, family: &str) -> Option<IpNet> {
        self.pool(family).map(|pool| pool.range)
    }

    pub(crate) fn node_ports(&self) -> &RangeInclusive<u16> {
        &self.node_ports
    }

    fn pool(&self, wanted: &str) -> Option<&Pool> {
        self.pools
            .iter()
            .find(|pool| family(pool.range.network()) == wanted)
    }

    /// Whether `key` may have `address`.
    pub(crate) fn address_is_free(&self, address: IpAddr, key: &Key) -> bool {
        self.addresses
            .get(&address)
            .is_none_or(|holder| holder == key)
    }

    /// Whether `key` may have the node port. One Service may use a port for two protocols.
    pub(crate) fn port_is_free(&self, port: u16, key: &Key) -> bool {
        self.ports.get(&port).is_none_or(|holder| holder == key)
    }

    pub(crate) fn next_address(&self, family: &str) -> Option<IpAddr> {
        let pool = self.pool(family)?;
        let all = pool.offsets();
        (pool.next..=*all.end())
            .chain(*all.start()..pool.next)
            .map(|offset| pool.at(offset))
            .find(|address| !self.addresses.contains_key(address))
    }

    /// The next node port that no Service uses, and that this request has not picked.
    pub(crate) fn next_port(&self, picked: &[u16]) -> Option<u16> {
        (self.next_port..=*self.node_ports.end())
            .chain(*self.node_ports.start()..self.next_port)
            .find(|port| !self.ports.contains_key(port) && !picked.contains(port))
    }

    /// Records that the object under `key` was replaced.
    pub(crate) fn replace(&mut self, key: &Key, before: Option<&Value>, after: Option<&Value>) {
        if key.table != "services" {
            return;
        }
        if let Some(before) = before {
            for address in addresses_of(before) {
                self.addresses.remove(&address);
            }
            for port in ports_of(before) {
                self.ports.remove(&port);
            }
        }
        let Some(after) = after else { return };
        for address in addresses_of(after) {
            let new = self.addresses.insert(address, key.clone()).is_none();
            for pool in self
                .pools
                .iter_mut()
                .filter(|p| new && p.range.contains(&address))
            {
                let end = *pool.offsets().end();
                if let Some(offset) = pool.offset_of(address) {
                    pool.next = if offset >= end { 1 } else { offset + 1 };
                }
            }
        }
        for port in ports_of(after) {
            if self.ports.insert(port, key.clone()).is_none() && self.node_ports.contains(&port) {
                self.next_port = if port == *self.node_ports.end() {
                    *self.node_ports.start()
                } else {
                    port + 1
                };
            }
        }
    }
}

/// The cluster addresses of a Service; a headless one has none.
fn addresses_of(service: &Value) -> Vec<IpAddr> {
    service["spec"]["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect()
}

/// The node ports of a Service, including the health-check node port.
fn ports_of(service: &Value) -> Vec<u16> {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten();
    ports
        .map(|port| &port["nodePort"])
        .chain([&spec["healthCheckNodePort"]])
        .filter_map(|port| u16::try_from(port.as_u64()?).ok())
        .filter(|port| *port != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key {
            table: "services",
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    fn service(address: &str, port: u16) -> Value {
        json!({"spec": {"clusterIPs": [address], "ports": [{"nodePort": port}]}})
    }

    #[test]
    fn a_small_range_runs_out_and_recovers() {
        let range = "10.0.0.0/30".parse().unwrap();
        let mut pool = Allocations::new(&[range], 30000..=30001);
        let first = pool.next_address("IPv4").unwrap();
        assert_eq!(first.to_string(), "10.0.0.1");
        let a = service("10.0.0.1", 30000);
        pool.replace(&key("a"), None, Some(&a));
        pool.replace(&key("b"), None, Some(&service("10.0.0.2", 30001)));
        assert_eq!(pool.next_address("IPv4"), None);
        assert_eq!(pool.next_port(&[]), None);
        pool.replace(&key("a"), Some(&a), None);
        assert_eq!(pool.next_address("IPv4"), Some(first));
        assert_eq!(pool.next_port(&[]), Some(30000));
        assert_eq!(pool.next_port(&[30000]), None);
    }

    #[test]
    fn a_family_without_range_has_no_address() {
        let pool = Allocations::new(&["10.0.0.0/24".parse().unwrap()], 30000..=30001);
        assert_eq!(pool.families(), ["IPv4"]);
        assert_eq!(pool.next_address("IPv6"), None);
    }
}
