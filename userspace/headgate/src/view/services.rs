//! Frontends with their Services, and backends.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use headgate_abi::{
    FrontendEntry, FrontendFlags, FrontendKey, FrontendKind, Location, ServiceFlags,
};
use headgate_dataplane::now_s;
use serde::Serialize;

use super::{AgentState, ListenerState, View, endpoint, protocol, service_of};

/// A frontend, or one that could not be programmed.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FrontendRow {
    pub(crate) service: String,
    /// The listener of a Gateway behind it, and the route.
    pub(crate) listener: Option<String>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub(crate) kind: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) frontend: String,
    /// `programmed`, or `failed: ` and the error.
    pub(crate) state: String,
    /// Seconds since the last change of the state.
    pub(crate) since_s: u64,
    /// Traffic policy for packets from outside.
    pub(crate) policy: &'static str,
    /// Traffic policy for packets from this node and its pods.
    pub(crate) internal_policy: &'static str,
    /// Timeout of session affinity in seconds; 0 is off.
    pub(crate) affinity_s: u32,
    /// `maglev` or `random`.
    pub(crate) balancing: &'static str,
    /// Whether source ranges restrict it.
    pub(crate) is_restricted: bool,
    pub(crate) backends: Vec<String>,
    /// Connections of the services behind the frontend, which other frontends may share.
    pub(crate) connections: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// An address of a Service.
#[cfg(feature = "page")]
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressRow {
    pub(crate) kind: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) frontend: String,
}

/// A backend and its traffic.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BackendRow {
    pub(crate) id: u32,
    pub(crate) protocol: &'static str,
    pub(crate) backend: String,
    /// `this`, `other`, or `outside` of the cluster.
    pub(crate) node: &'static str,
    pub(crate) services: Vec<String>,
    pub(crate) connections: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Name of the kind of a frontend.
fn kind(entry: &FrontendEntry) -> &'static str {
    match entry.flags.kind() {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
    }
}

impl View {
    /// Every programmed frontend, and a row for each failure of a Service.
    pub(crate) fn frontends(&self, state: Option<&AgentState>) -> Result<Vec<FrontendRow>> {
        let mut rows = Vec::new();
        for item in self.maps.frontends.iter() {
            let (key, entry) = item?;
            rows.push(self.frontend(&key, &entry)?);
        }
        for failure in state.iter().flat_map(|state| &state.failures) {
            rows.push(FrontendRow {
                service: failure.service.clone().unwrap_or_else(|| "?".into()),
                listener: None,
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

    pub(crate) fn frontend(&self, key: &FrontendKey, entry: &FrontendEntry) -> Result<FrontendRow> {
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
        let service_name = self.service_name(entry.outside);
        Ok(FrontendRow {
            listener: self.listener(key, &service_name).map(ToString::to_string),
            service: service_name,
            kind: kind(entry),
            protocol: protocol(key.protocol),
            frontend: endpoint(key.address, key.port),
            state: "programmed".into(),
            since_s: now_s().saturating_sub(entry.programmed_s).into(),
            policy: policy(entry.outside),
            internal_policy: policy(entry.inside),
            affinity_s: service.affinity_timeout_s,
            balancing: match service.flags.contains(ServiceFlags::CONSISTENT) {
                true => "maglev",
                false => "random",
            },
            is_restricted: entry.flags.contains(FrontendFlags::SOURCE_RANGES),
            backends: backends.iter().map(|id| self.backend_name(*id)).collect(),
            connections: traffic.connections,
            packets: traffic.packets,
            bytes: traffic.bytes,
        })
    }

    /// The listener of a Gateway behind a frontend of a Service.
    fn listener(&self, key: &FrontendKey, service: &str) -> Option<&ListenerState> {
        self.listeners.iter().find(|listener| {
            listener.service == service
                && listener.protocol == protocol(key.protocol)
                && listener.port == key.port.number()
        })
    }

    /// Addresses of each Service: cheaper than `frontends`, which reads counters.
    #[cfg(feature = "page")]
    pub(crate) fn addresses(&self) -> Result<BTreeMap<String, BTreeSet<AddressRow>>> {
        let mut addresses: BTreeMap<String, BTreeSet<AddressRow>> = BTreeMap::new();
        for item in self.maps.frontends.iter() {
            let (key, entry) = item?;
            let service = self.service_name(entry.outside);
            addresses.entry(service).or_default().insert(AddressRow {
                kind: kind(&entry),
                protocol: protocol(key.protocol),
                frontend: endpoint(key.address, key.port),
            });
        }
        Ok(addresses)
    }

    /// Every backend, by id.
    pub(crate) fn backends(&self) -> Result<Vec<BackendRow>> {
        let mut users: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for (id, label) in &self.labels {
            for backend in self.backends_of(*id) {
                users.entry(backend).or_default().insert(service_of(label));
            }
        }
        let rows = self.backends.iter().map(|(id, entry)| {
            let traffic = self.maps.backend_traffic(*id)?;
            Ok(BackendRow {
                id: *id,
                protocol: protocol(entry.protocol),
                backend: endpoint(entry.address, entry.port),
                node: match entry.location {
                    Location::THIS_NODE => "this",
                    Location::OUTSIDE => "outside",
                    _ => "other",
                },
                services: users.remove(id).unwrap_or_default().into_iter().collect(),
                connections: traffic.connections,
                packets: traffic.packets,
                bytes: traffic.bytes,
            })
        });
        rows.collect()
    }
}
