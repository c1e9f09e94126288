//! Connections, and session affinities.

use std::net::IpAddr;

use anyhow::Result;
use headgate_abi::{Addr, CtEntry, CtFlags, FlowKey};
use headgate_datapath::{is_expired, timeout_s};
use headgate_dataplane::now_s;
use serde::Serialize;

use super::{View, endpoint, protocol};

/// One connection, as the client opened it and as the backend sees it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionRow {
    pub(crate) service: String,
    pub(crate) protocol: &'static str,
    pub(crate) client: String,
    pub(crate) frontend: String,
    /// The client as the backend sees it.
    pub(crate) source: String,
    pub(crate) backend: String,
    pub(crate) state: &'static str,
    pub(crate) idle_s: u32,
    pub(crate) timeout_s: u32,
}

/// The last backend of a client of a Service with session affinity.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AffinityRow {
    pub(crate) service: String,
    /// Address, or `netns` and the cookie of the network namespace for a process.
    pub(crate) client: String,
    pub(crate) backend: String,
    pub(crate) idle_s: u32,
    pub(crate) timeout_s: u32,
}

/// An address, or the network namespace in place of one.
pub(crate) fn client(address: Addr) -> String {
    match address.netns() {
        Some(cookie) => format!("netns {cookie}"),
        None => IpAddr::from(address).to_string(),
    }
}

impl View {
    /// Open connections, at most `most`.
    pub(crate) fn connections(&self, most: usize) -> Result<Vec<ConnectionRow>> {
        /// The other half of a row, and what the node opened itself.
        const NOT_SHOWN: CtFlags = CtFlags::REPLY.union(CtFlags::OWN);
        let now_s = now_s();
        let mut rows = Vec::new();
        for item in self.maps.all_connections()? {
            let (flow, entry) = item?;
            if !entry.flags.intersects(NOT_SHOWN)
                && !is_expired(&self.config, &entry, flow.protocol, now_s)
            {
                rows.push(self.connection(&flow, &entry, now_s));
            }
            if rows.len() == most {
                break;
            }
        }
        rows.sort();
        Ok(rows)
    }

    fn connection(&self, flow: &FlowKey, entry: &CtEntry, now_s: u32) -> ConnectionRow {
        ConnectionRow {
            service: match entry.service {
                0 => "none".into(),
                id => self.service_name(id),
            },
            protocol: protocol(flow.protocol),
            client: endpoint(flow.source, flow.source_port),
            frontend: endpoint(flow.destination, flow.destination_port),
            source: endpoint(entry.source, entry.source_port),
            backend: endpoint(entry.destination, entry.destination_port),
            state: entry.state.name(),
            idle_s: now_s.saturating_sub(entry.seen_s),
            timeout_s: timeout_s(&self.config, flow.protocol, entry.state),
        }
    }

    /// Session affinities that have not expired.
    pub(crate) fn affinities(&self) -> Result<Vec<AffinityRow>> {
        let now_s = now_s();
        let mut rows = Vec::new();
        for item in self.maps.all_affinities()? {
            let (key, entry) = item?;
            let idle_s = now_s.saturating_sub(entry.seen_s);
            let timeout_s = self.entry(key.service).affinity_timeout_s;
            let is_known = self.labels.contains_key(&key.service)
                && self.backends.contains_key(&entry.backend);
            if !is_known || idle_s > timeout_s {
                continue;
            }
            rows.push(AffinityRow {
                service: self.service_name(key.service),
                client: client(key.client),
                backend: self.backend_name(entry.backend),
                idle_s,
                timeout_s,
            });
        }
        rows.sort();
        Ok(rows)
    }
}
