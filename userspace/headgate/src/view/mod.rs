//! What the pinned maps hold, as rows for people and programs. Commands, `top` and the pages show the
//! same rows.

mod connections;
mod counters;
pub(crate) mod flow;
#[cfg(any(feature = "top", feature = "page"))]
mod rates;
#[cfg(any(feature = "top", feature = "page"))]
mod sample;
mod services;
mod state;
mod text;
mod versioned;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Result, bail, ensure};
use headgate_abi::{BackendEntry, DatapathConfig, REFUSED, ServiceEntry};
use headgate_dataplane::{Maps, loaded_config, pin_folder};

pub(crate) use connections::{ConnectionRow, client};
pub(crate) use counters::{CounterRow, FillRow, fate};
#[cfg(any(feature = "top", feature = "page"))]
pub(crate) use rates::{Rate, Rates, Totals};
#[cfg(any(feature = "top", feature = "page"))]
pub(crate) use sample::{Sample, ServiceRow};
#[cfg(feature = "page")]
pub(crate) use services::AddressRow;
#[cfg(any(feature = "top", feature = "page"))]
pub(crate) use services::BackendRow;
pub(crate) use state::{AgentState, ListenerState, STATE_INTERVAL};
#[cfg(feature = "proxy")]
pub(crate) use text::days;
pub(crate) use text::{endpoint, in_one_line, protocol};
pub(crate) use versioned::{List, Versioned};

/// The maps, with the names and backends that most rows need.
pub(crate) struct View {
    pub(crate) maps: Maps,
    /// What the programs were loaded with.
    config: DatapathConfig,
    labels: BTreeMap<u32, String>,
    backends: BTreeMap<u32, BackendEntry>,
    /// TCP and UDP listeners of Gateways, as far as the agent has reported them.
    listeners: Vec<ListenerState>,
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
        // Without its state the rest is still true.
        let state = AgentState::read(pins).ok().flatten();
        Ok(Self {
            listeners: state.map_or_else(Vec::new, |state| state.listeners),
            labels: labels.collect(),
            backends: backends.collect(),
            config: loaded_config(pins)?,
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
        let ids = slots.filter_map(|slot| self.maps.slots.get(slot));
        let mut ids: Vec<u32> = ids.filter(|id| *id != REFUSED).collect();
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

/// Fails if there are no maps, and names those of another version.
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
        "there are no maps at {}, but {}: is the agent of another version?",
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
