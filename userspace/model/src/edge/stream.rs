//! Routes of TLS connections whose requests are not read.

use std::{collections::BTreeMap, sync::Arc};

use super::{RouteOrigin, UpstreamKey, WeightedTarget};

/// Where the TLS connections of a listener go, by the name in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Whether connections are decrypted before they are forwarded.
    pub is_decrypted: bool,
    /// By host: exact, or with `*.` for one label or more. Connections for other hosts are closed.
    pub hosts: BTreeMap<String, Arc<Stream>>,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The object that it is from.
    pub origin: RouteOrigin,
    /// By weight. Connections for a target without endpoints are closed, and without any weight all are.
    pub targets: Vec<WeightedTarget>,
}

impl Stream {
    /// Returns every backend that is named.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamKey> {
        let targets = self.targets.iter();
        targets.filter_map(|weighted| weighted.target.upstream())
    }
}
