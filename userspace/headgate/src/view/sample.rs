//! Everything that `top` and the page show, at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Result;
use headgate_abi::Traffic;
use jiff::Timestamp;
use serde::Serialize;

use super::{AgentState, BackendRow, CounterRow, FillRow, View};

/// A Service, with the traffic of all its ports and frontends.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ServiceRow {
    pub(crate) service: String,
    pub(crate) backends: Vec<String>,
    pub(crate) connections: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// State of the maps and the agent at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) time: Timestamp,
    pub(crate) agent: Option<AgentState>,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) backends: Vec<BackendRow>,
    pub(crate) counters: Vec<CounterRow>,
    /// Maps that the agent writes.
    pub(crate) maps: Vec<FillRow>,
}

impl Sample {
    /// Reads the maps pinned below `pins`.
    pub(crate) fn take(pins: &Path) -> Result<Self> {
        Self::read(&View::open(pins)?, pins)
    }

    /// Reads maps that are open already.
    pub(crate) fn read(view: &View, pins: &Path) -> Result<Self> {
        Ok(Self {
            time: Timestamp::now(),
            agent: AgentState::read(pins)?,
            services: view.services()?,
            backends: view.backends()?,
            counters: view.counters()?,
            maps: view.agent_fills(pins)?,
        })
    }

    /// Seconds since an earlier sample.
    pub(crate) fn seconds_since(&self, before: &Self) -> f64 {
        self.time.duration_since(before.time).as_secs_f64()
    }
}

impl View {
    /// Services by name.
    fn services(&self) -> Result<Vec<ServiceRow>> {
        let mut services: BTreeMap<String, (Traffic, BTreeSet<String>)> = BTreeMap::new();
        for id in self.service_ids() {
            let (sum, backends) = services.entry(self.service_name(id)).or_default();
            let traffic = self.maps.service_traffic(id)?;
            sum.connections += traffic.connections;
            sum.packets += traffic.packets;
            sum.bytes += traffic.bytes;
            let ids = self.backends_of(id);
            backends.extend(ids.into_iter().map(|id| self.backend_name(id)));
        }
        let rows = services
            .into_iter()
            .map(|(service, (sum, backends))| ServiceRow {
                service,
                backends: backends.into_iter().collect(),
                connections: sum.connections,
                packets: sum.packets,
                bytes: sum.bytes,
            });
        Ok(rows.collect())
    }
}
