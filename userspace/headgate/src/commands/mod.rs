//! The operator's commands. They read the pinned maps, so they work when the agent is dead.

mod cleanup;
mod connections;
mod services;
mod status;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use headgate_abi::{Addr, BackendEntry, Port, Protocol};
use headgate_dataplane::Maps;
use nix::time::{ClockId, clock_gettime};

pub(crate) use cleanup::cleanup;
pub(crate) use connections::{affinity, conntrack};
pub(crate) use services::{backends, services};
pub(crate) use status::{counters, drops, explain, maps, status};

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

/// Namespace and name of the Service in a label.
fn service_of(label: &str) -> String {
    label.split(':').next().unwrap_or_default().to_owned()
}

/// The clock of the programs, in seconds.
fn now_s() -> Result<u32> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec() as u32)
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
