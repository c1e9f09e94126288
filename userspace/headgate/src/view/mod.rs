//! What the pinned maps say, in rows for people and programs: tables of the commands, screens and
//! pages all show these.

mod connections;
mod counters;
pub(crate) mod flow;
mod rates;
mod report;
mod sample;
mod services;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Result, bail, ensure};
use headgate_abi::{Addr, BackendEntry, Port, Protocol, ServiceEntry};
use headgate_dataplane::{Maps, pin_folder};

pub(crate) use connections::{Connection, client};
pub(crate) use counters::{Counter, Fill, fate};
pub(crate) use rates::{Rate, Rates, Totals};
pub(crate) use report::{INTERVAL, Report};
pub(crate) use sample::{Sample, Service};
pub(crate) use services::{Address, Backend};

/// The maps, with the names and backends that most rows refer to.
pub(crate) struct View {
    pub(crate) maps: Maps,
    labels: BTreeMap<u32, String>,
    backends: BTreeMap<u32, BackendEntry>,
}

impl View {
    /// Reads the maps pinned below `pins`.
    pub(crate) fn open(pins: &Path) -> Result<Self> {
        ensure_pinned(pins)?;
        let maps = Maps::open(pins)?;
        let labels = (1..maps.labels.len()).filter_map(|id| {
            let label = maps.labels.get(id)?;
            (!label.text().is_empty()).then(|| (id, label.text().to_owned()))
        });
        let backends = (1..maps.backends.len()).filter_map(|id| {
            let entry = maps.backends.get(id)?;
            (entry.port.number() != 0).then_some((id, entry))
        });
        Ok(Self {
            labels: labels.collect(),
            backends: backends.collect(),
            maps,
        })
    }

    /// Ids of the services.
    pub(crate) fn service_ids(&self) -> impl Iterator<Item = u32> {
        self.labels.keys().copied()
    }

    /// Namespace and name of a service, or `?`.
    pub(crate) fn service_name(&self, id: u32) -> String {
        self.labels
            .get(&id)
            .map_or_else(|| "?".into(), |label| service_of(label))
    }

    /// Ids of the backends of a service.
    pub(crate) fn backends_of(&self, service: u32) -> Vec<u32> {
        let slots = self.entry(service).slots();
        let slots = slots.first..slots.first.saturating_add(slots.count);
        let mut ids: Vec<u32> = slots.filter_map(|slot| self.maps.slots.get(slot)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn entry(&self, service: u32) -> ServiceEntry {
        self.maps.services.get(service).unwrap_or_default()
    }

    /// Address and port of a backend, or `?`.
    pub(crate) fn backend_name(&self, id: u32) -> String {
        self.backends
            .get(&id)
            .map_or_else(|| "?".into(), |entry| endpoint(entry.address, entry.port))
    }
}

/// Says so if there is nothing at all, or what another version left.
fn ensure_pinned(pins: &Path) -> Result<()> {
    let folder = pin_folder(pins);
    if folder.try_exists()? {
        return Ok(());
    }
    let others: Vec<String> = fs::read_dir(pins)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
        .collect();
    ensure!(
        others.is_empty(),
        "there are no maps at {}, but {}: is this the version that the agent is?",
        folder.display(),
        others.join(" ")
    );
    bail!(
        "there are no maps at {}: has an agent run here?",
        folder.display()
    )
}

/// Namespace and name of the Service in a label.
fn service_of(label: &str) -> String {
    label.split(':').next().unwrap_or_default().to_owned()
}

/// `address:port`.
pub(crate) fn endpoint(address: Addr, port: Port) -> String {
    SocketAddr::new(IpAddr::from(address), port.number()).to_string()
}

/// The word for a protocol.
pub(crate) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        _ => "other",
    }
}
