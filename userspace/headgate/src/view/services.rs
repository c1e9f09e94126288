//! Frontends with the services behind them, and backends.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use headgate_abi::{FrontendEntry, FrontendFlags, FrontendKey, ServiceFlags};
use headgate_dataplane::now_s;
use serde::Serialize;

use super::{Report, View, endpoint, protocol, service_of};

/// What answers on an address and port, or should.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frontend {
    pub(crate) service: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub(crate) kind: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) frontend: String,
    /// `programmed`, or `failed: ` and why.
    pub(crate) state: String,
    /// For how long, in seconds.
    pub(crate) since_s: u64,
    /// Traffic policy for what comes from outside.
    pub(crate) policy: &'static str,
    /// Traffic policy for what comes from this node and its pods.
    pub(crate) internal_policy: &'static str,
    /// Timeout of session affinity in seconds; 0 is off.
    pub(crate) affinity_s: u32,
    /// `maglev` or `random`.
    pub(crate) balancing: &'static str,
    /// Whether source ranges restrict it.
    pub(crate) is_restricted: bool,
    pub(crate) backends: Vec<String>,
    /// Of the services behind the frontend, other frontends' included.
    pub(crate) connections: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// What a Service is reached by.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) kind: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) frontend: String,
}

/// Where connections go.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Backend {
    pub(crate) id: u32,
    pub(crate) protocol: &'static str,
    pub(crate) backend: String,
    /// `this` or `other`.
    pub(crate) node: &'static str,
    pub(crate) services: Vec<String>,
    pub(crate) connections: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// The word for a kind of frontend.
fn kind(entry: &FrontendEntry) -> &'static str {
    match entry.flags.kind() {
        0 => "ClusterIP",
        1 => "NodePort",
        2 => "LoadBalancer",
        _ => "ExternalIP",
    }
}

impl View {
    /// Every frontend that is programmed, and for every Service that something of failed a row that
    /// says why.
    pub(crate) fn frontends(&self, report: Option<&Report>) -> Result<Vec<Frontend>> {
        let mut rows = Vec::new();
        for item in self.maps.frontends.iter() {
            let (key, entry) = item?;
            rows.push(self.frontend(&key, &entry)?);
        }
        for failure in report.iter().flat_map(|report| &report.failures) {
            rows.push(Frontend {
                service: failure.service.clone().unwrap_or_else(|| "?".into()),
                kind: "?",
                protocol: "?",
                frontend: failure.object.clone(),
                state: format!("failed: {}", failure.reason),
                since_s: failure.age_s(),
                policy: "?",
                internal_policy: "?",
                affinity_s: 0,
                balancing: "?",
                is_restricted: false,
                backends: Vec::new(),
                connections: 0,
                packets: 0,
                bytes: 0,
            });
        }
        rows.sort();
        Ok(rows)
    }

    pub(crate) fn frontend(&self, key: &FrontendKey, entry: &FrontendEntry) -> Result<Frontend> {
        let service = self.entry(entry.outside);
        let mut traffic = self.maps.service_traffic(entry.outside)?;
        let mut backends = self.backends_of(entry.outside);
        if entry.inside != entry.outside {
            let inside = self.maps.service_traffic(entry.inside)?;
            traffic.connections += inside.connections;
            traffic.packets += inside.packets;
            traffic.bytes += inside.bytes;
            backends.extend(self.backends_of(entry.inside));
            backends.sort_unstable();
            backends.dedup();
        }
        let policy = |id: u32| {
            let label = self.labels.get(&id).map_or("?", String::as_str);
            match label.ends_with("/local") {
                true => "Local",
                false => "Cluster",
            }
        };
        Ok(Frontend {
            service: self.service_name(entry.outside),
            kind: kind(entry),
            protocol: protocol(key.protocol),
            frontend: endpoint(key.address, key.port),
            state: "programmed".into(),
            since_s: now_s().saturating_sub(entry.programmed_s).into(),
            policy: policy(entry.outside),
            internal_policy: policy(entry.inside),
            affinity_s: service.affinity_timeout_s,
            balancing: match service.flags == ServiceFlags::CONSISTENT {
                true => "maglev",
                false => "random",
            },
            is_restricted: entry.flags.has(FrontendFlags::SOURCE_RANGES),
            backends: backends.iter().map(|id| self.backend_name(*id)).collect(),
            connections: traffic.connections,
            packets: traffic.packets,
            bytes: traffic.bytes,
        })
    }

    /// What is programmed for each Service: cheap to tell.
    pub(crate) fn addresses(&self) -> Result<BTreeMap<String, BTreeSet<Address>>> {
        let mut addresses: BTreeMap<String, BTreeSet<Address>> = BTreeMap::new();
        for item in self.maps.frontends.iter() {
            let (key, entry) = item?;
            let service = self.service_name(entry.outside);
            addresses.entry(service).or_default().insert(Address {
                kind: kind(&entry),
                protocol: protocol(key.protocol),
                frontend: endpoint(key.address, key.port),
            });
        }
        Ok(addresses)
    }

    /// Every backend, by id.
    pub(crate) fn backends(&self) -> Result<Vec<Backend>> {
        let mut users: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for (id, label) in &self.labels {
            for backend in self.backends_of(*id) {
                users.entry(backend).or_default().insert(service_of(label));
            }
        }
        let rows = self.backends.iter().map(|(id, entry)| {
            let traffic = self.maps.backend_traffic(*id)?;
            Ok(Backend {
                id: *id,
                protocol: protocol(entry.protocol),
                backend: endpoint(entry.address, entry.port),
                node: if entry.local != 0 { "this" } else { "other" },
                services: users.remove(id).unwrap_or_default().into_iter().collect(),
                connections: traffic.connections,
                packets: traffic.packets,
                bytes: traffic.bytes,
            })
        });
        rows.collect()
    }
}
