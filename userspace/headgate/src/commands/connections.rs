//! Connections, and the clients that affinity remembers.

use std::path::Path;

use anyhow::Result;
use headgate_abi::{CtEntry, CtFlags, FlowKey};
use headgate_datapath::{is_expired, timeout_s};
use serde::Serialize;

use super::{backend_entries, endpoint, labels, now_s, open, protocol, service_of};
use crate::output::{Options, print_rows};

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Connection {
    service: String,
    protocol: &'static str,
    client: String,
    frontend: String,
    source: String,
    backend: String,
    state: &'static str,
    idle_s: u32,
    timeout_s: u32,
}

pub(crate) fn conntrack(pins: &Path, options: &Options) -> Result<()> {
    let maps = open(pins)?;
    let labels = labels(&maps);
    let now_s = now_s()?;
    let mut rows = Vec::new();
    for item in maps.connections.iter() {
        let (flow, entry) = item?;
        if !entry.flags.has(CtFlags::REPLY) && !is_expired(&entry, flow.protocol, now_s) {
            rows.push(connection(&flow, &entry, labels.get(&entry.service), now_s));
        }
    }
    rows.sort();
    let header = [
        "service", "protocol", "client", "frontend", "source", "backend", "state", "idle_s",
    ];
    print_rows(options, &header, rows)
}

fn connection(flow: &FlowKey, entry: &CtEntry, label: Option<&String>, now_s: u32) -> Connection {
    Connection {
        service: label.map_or_else(|| "?".into(), |label| service_of(label)),
        protocol: protocol(flow.protocol),
        client: endpoint(flow.source, flow.source_port),
        frontend: endpoint(flow.destination, flow.destination_port),
        source: endpoint(entry.source, entry.source_port),
        backend: endpoint(entry.destination, entry.destination_port),
        state: entry.state.name(),
        idle_s: now_s.saturating_sub(entry.seen_s),
        timeout_s: timeout_s(flow.protocol, entry.state),
    }
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Affinity {
    service: String,
    client: String,
    backend: String,
    idle_s: u32,
    timeout_s: u32,
}

pub(crate) fn affinity(pins: &Path, options: &Options) -> Result<()> {
    let maps = open(pins)?;
    let labels = labels(&maps);
    let backends = backend_entries(&maps);
    let now_s = now_s()?;
    let mut rows = Vec::new();
    for item in maps.affinities.iter() {
        let (key, entry) = item?;
        let idle_s = now_s.saturating_sub(entry.seen_s);
        let service = maps.services.get(key.service).unwrap_or_default();
        let (Some(label), Some(backend)) = (labels.get(&key.service), backends.get(&entry.backend))
        else {
            continue;
        };
        if idle_s > service.affinity_timeout_s {
            continue;
        }
        rows.push(Affinity {
            service: service_of(label),
            client: match key.client.netns() {
                Some(cookie) => format!("netns {cookie}"),
                None => std::net::IpAddr::from(key.client).to_string(),
            },
            backend: endpoint(backend.address, backend.port),
            idle_s,
            timeout_s: service.affinity_timeout_s,
        });
    }
    rows.sort();
    let header = ["service", "client", "backend", "idle_s", "timeout_s"];
    print_rows(options, &header, rows)
}
