//! Snapshots of upstreams for the table, metrics and logs.

use std::{net::SocketAddr, time::Duration};

use headgate_model::edge::UpstreamKey;

/// A snapshot of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamState {
    /// The upstream.
    pub key: UpstreamKey,
    /// Why no request can be sent: the TLS settings are invalid.
    pub error: Option<String>,
    /// Panic mode: more than half of the endpoints are unhealthy, so requests go to all.
    pub is_panicking: bool,
    /// The endpoints, ordered by address.
    pub endpoints: Vec<EndpointState>,
}

/// A snapshot of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// The address.
    pub address: SocketAddr,
    /// The configured weight.
    pub weight: u32,
    /// Requests and raw connections in flight.
    pub in_flight: u32,
    /// Requests and raw connections so far.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Whether it gets requests.
    pub health: EndpointHealth,
    /// The recent response time (see `ewma.rs`).
    pub time: Duration,
}

/// Whether an endpoint gets requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointHealth {
    /// It gets requests.
    Healthy,
    /// It gets none until health checks succeed.
    Unhealthy {
        /// The error of the last health check.
        reason: String,
    },
    /// It gets none for a while, because requests failed.
    Ejected {
        /// The rest of the ejection.
        remaining: Duration,
        /// The last failure.
        reason: String,
    },
}
