//! The operator's commands. They read the pinned maps, so they work when the agent is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use headgate_abi::{Addr, BackendEntry, CtEntry, CtFlags, Fate, FlowKey, Port, Protocol};
use headgate_datapath::{is_expired, timeout_s};
use headgate_dataplane::{Maps, attached, pin_folder};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{
    leftovers,
    output::{Options, print, table},
};

fn open(pins: &Path) -> Result<Maps> {
    Maps::open(pins, false)
        .with_context(|| format!("no maps below {}: has an agent run here?", pins.display()))
}

fn endpoint(address: Addr, port: Port) -> String {
    SocketAddr::new(IpAddr::from(address), port.number()).to_string()
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        _ => "other",
    }
}

#[derive(Serialize)]
struct Status {
    hooks: Vec<String>,
    maps: Vec<Fill>,
    counters: Vec<Counter>,
}

#[derive(Serialize)]
struct Fill {
    map: &'static str,
    entries: usize,
}

#[derive(Serialize)]
struct Counter {
    fate: &'static str,
    reason: &'static str,
    count: u64,
    meaning: &'static str,
}

pub(crate) fn status(pins: &Path, options: &Options) -> Result<()> {
    let maps = open(pins)?;
    let status = Status {
        hooks: attached(pins)?,
        maps: vec![
            Fill {
                map: "frontends",
                entries: maps.frontends.keys().count(),
            },
            Fill {
                map: "services",
                entries: labels(&maps).len(),
            },
            Fill {
                map: "backends",
                entries: backend_entries(&maps).len(),
            },
            Fill {
                map: "connections",
                entries: maps.connections.keys().count(),
            },
            Fill {
                map: "sockets",
                entries: maps.sockets.keys().count(),
            },
        ],
        counters: maps
            .reasons()?
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| Counter {
                fate: match reason.fate() {
                    Fate::Pass => "pass",
                    Fate::Forward => "forward",
                    Fate::Reject => "reject",
                    Fate::Drop => "drop",
                },
                reason: reason.name(),
                count,
                meaning: reason.sentence().trim(),
            })
            .collect(),
    };
    let maps = table(&["map", "entries"], &status.maps)?;
    let counters = table(&["fate", "reason", "count", "meaning"], &status.counters)?;
    print(options, &status, || {
        format!(
            "hooks\n  {}\n\n{maps}\n\n{counters}",
            status.hooks.join("\n  ")
        )
    })
}

fn labels(maps: &Maps) -> BTreeMap<u32, String> {
    (1..maps.labels.len())
        .filter_map(|id| {
            let label = maps.labels.get(id)?;
            (!label.text().is_empty()).then(|| (id, label.text().to_owned()))
        })
        .collect()
}

fn backend_entries(maps: &Maps) -> BTreeMap<u32, BackendEntry> {
    (1..maps.backends.len())
        .filter_map(|id| {
            let entry = maps.backends.get(id)?;
            (entry.port.number() != 0).then_some((id, entry))
        })
        .collect()
}

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
            service: label.split('/').take(2).collect::<Vec<_>>().join("/"),
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
    let text = table(&header, &rows)?;
    print(options, &rows, || text)
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
    let text = table(&header, &rows)?;
    print(options, &rows, || text)
}

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
    // The programs' clock.
    let now_s = clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec() as u32;
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
    let text = table(&header, &rows)?;
    print(options, &rows, || text)
}

fn connection(flow: &FlowKey, entry: &CtEntry, label: Option<&String>, now_s: u32) -> Connection {
    Connection {
        service: label.cloned().unwrap_or_else(|| "?".into()),
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

/// Removing the last pin of a link detaches its program, and of a map frees it.
pub(crate) fn cleanup(pins: &Path) -> Result<()> {
    let folder = pin_folder(pins);
    match fs::remove_dir_all(&folder) {
        Ok(()) => println!("removed {}", folder.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("nothing at {}", folder.display());
        }
        Err(error) => return Err(error).context(format!("removing {}", folder.display())),
    }
    // The folder of another ABI version may still be there.
    if fs::read_dir(pins).is_ok_and(|mut entries| entries.next().is_none()) {
        fs::remove_dir(pins)?;
    }
    for line in leftovers::find() {
        println!("{line}");
    }
    Ok(())
}
