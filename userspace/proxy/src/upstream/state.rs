//! What an upstream looks like from outside.

use std::{net::SocketAddr, time::Duration};

use headgate_model::ingress::UpstreamKey;

/// An upstream at a moment.
#[derive(Clone, Debug)]
pub struct UpstreamState {
    /// Which.
    pub key: UpstreamKey,
    /// Why no request can be sent: its TLS settings cannot be used.
    pub error: Option<String>,
    /// Whether more than half of the endpoints are not well, so that all are used.
    pub is_panicking: bool,
    /// Its endpoints by address.
    pub endpoints: Vec<EndpointState>,
}

/// An endpoint at a moment.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// Where.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: u32,
    /// Requests and opened connections right now.
    pub in_flight: u32,
    /// Requests and opened connections so far.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Whether it gets requests.
    pub health: EndpointHealth,
    /// Its recent time to answer.
    pub time: Duration,
}

/// Whether an endpoint gets requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointHealth {
    /// It does.
    Well,
    /// It does not: probes fail.
    Down {
        /// What the last of them said.
        reason: String,
    },
    /// It does not for a while: requests failed.
    Ejected {
        /// For how long.
        remaining: Duration,
        /// What happened.
        reason: String,
    },
}
