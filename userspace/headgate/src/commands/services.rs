//! Frontends with the services behind them, and backends.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use serde::Serialize;

use super::{backend_entries, endpoint, labels, open, protocol, service_of};
use crate::output::{Options, print_rows};

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Frontend {
    service: String,
    kind: &'static str,
    protocol: &'static str,
    frontend: String,
    backends: Vec<String>,
    policy: &'static str,
    connections: u64,
}

pub(crate) fn services(pins: &Path, options: &Options) -> Result<()> {
    let maps = open(pins)?;
    let labels = labels(&maps);
    let backends = backend_entries(&maps);
    let mut rows = Vec::new();
    for item in maps.frontends.iter() {
        let (key, entry) = item?;
        let label = labels.get(&entry.outside).map_or("?", String::as_str);
        let slots = maps.services.get(entry.outside).unwrap_or_default().slots();
        let slots = slots.first..slots.first.saturating_add(slots.count);
        let ids: BTreeSet<u32> = slots.filter_map(|slot| maps.slots.get(slot)).collect();
        let mut connections = maps.service_traffic(entry.outside)?.connections;
        if entry.inside != entry.outside {
            connections += maps.service_traffic(entry.inside)?.connections;
        }
        rows.push(Frontend {
            service: service_of(label),
            kind: match entry.flags.kind() {
                0 => "ClusterIP",
                1 => "NodePort",
                2 => "LoadBalancer",
                _ => "ExternalIP",
            },
            protocol: protocol(key.protocol),
            frontend: endpoint(key.address, key.port),
            backends: ids
                .iter()
                .filter_map(|id| backends.get(id))
                .map(|backend| endpoint(backend.address, backend.port))
                .collect(),
            policy: if label.ends_with("/local") {
                "Local"
            } else {
                "Cluster"
            },
            connections,
        });
    }
    rows.sort();
    let header = [
        "service",
        "kind",
        "protocol",
        "frontend",
        "policy",
        "connections",
        "backends",
    ];
    print_rows(options, &header, rows)
}

#[derive(Serialize)]
struct Backend {
    id: u32,
    protocol: &'static str,
    backend: String,
    node: &'static str,
    connections: u64,
    packets: u64,
    bytes: u64,
}

pub(crate) fn backends(pins: &Path, options: &Options) -> Result<()> {
    let maps = open(pins)?;
    let mut rows = Vec::new();
    for (id, entry) in backend_entries(&maps) {
        let traffic = maps.backend_traffic(id)?;
        rows.push(Backend {
            id,
            protocol: protocol(entry.protocol),
            backend: endpoint(entry.address, entry.port),
            node: if entry.local != 0 { "this" } else { "other" },
            connections: traffic.connections,
            packets: traffic.packets,
            bytes: traffic.bytes,
        });
    }
    let header = [
        "id",
        "protocol",
        "backend",
        "node",
        "connections",
        "packets",
        "bytes",
    ];
    print_rows(options, &header, rows)
}
