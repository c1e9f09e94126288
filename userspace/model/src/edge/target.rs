//! Targets: backends, and how requests are sent to them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use crate::NamespacedName;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a Service.
    Upstream(UpstreamKey),
    /// A Service or port that does not exist: 503.
    Unavailable,
    /// An object that is not supported as a backend: 404.
    Missing,
    /// A reference that is not allowed or leads nowhere, and why: 500.
    Invalid(String),
}

impl Target {
    /// Returns the backend, if there is one.
    pub fn upstream(&self) -> Option<&UpstreamKey> {
        match self {
            Self::Upstream(key) => Some(key),
            Self::Unavailable | Self::Missing | Self::Invalid(_) => None,
        }
    }
}

/// A backend: a port of a Service, and how requests are sent to its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamKey {
    /// The Service.
    pub service: NamespacedName,
    /// The port's number.
    pub port: u16,
    /// How requests are sent.
    pub policy: Arc<UpstreamPolicy>,
}

impl fmt::Display for UpstreamKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.service, self.port)
    }
}

/// How requests are sent to the endpoints of a Service's port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamPolicy {
    /// Their protocol.
    pub protocol: UpstreamProtocol,
    /// TLS of connections to them.
    pub tls: UpstreamTls,
    /// How the next endpoint is chosen.
    pub balance: Balance,
    /// Cookie that pins a client to its endpoint.
    pub sticky: Option<Sticky>,
    /// Weights of endpoints by the name of their node, not 0; 1 if not set.
    pub weights: BTreeMap<String, u32>,
    /// Time in which the share of a new endpoint grows to its weight.
    pub slow_start: Duration,
    /// Health checks.
    pub probe: Option<Probe>,
    /// When a failing endpoint is ejected.
    pub outlier: OutlierPolicy,
    /// Largest number of concurrent requests to one endpoint, from this node.
    pub concurrent: Option<u32>,
    /// Whether connections begin with a PROXY protocol header (version 2) that names the client.
    pub proxy_protocol: bool,
    /// Whether requests go to the cluster IP instead of endpoints.
    pub by_cluster_ip: bool,
}

/// Protocol of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/1.1 or HTTP/2 over TLS, as the endpoint chooses.
    Https,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC without TLS.
    Grpc,
    /// gRPC over TLS.
    Grpcs,
}

impl UpstreamProtocol {
    /// Returns whether it uses TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }

    /// Returns whether it is HTTP/2 only.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::Grpcs)
    }
}

/// TLS towards endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamTls {
    /// What verifies the certificates of endpoints.
    pub trust: Trust,
    /// Server name to send and, without `names`, to verify; the Service's host name if not set.
    pub name: Option<String>,
    /// Names of which one must be in the certificate of an endpoint, instead of the server name.
    pub names: Vec<SubjectName>,
    /// Client certificate chain and key (PEM).
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// What verifies the certificates of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Nothing.
    #[default]
    Unverified,
    /// CA certificates of the system.
    System,
    /// These CA certificates (PEM).
    Authorities(Arc<[u8]>),
}

/// A subject alternative name of a certificate (RFC 5280, 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectName {
    /// A DNS name; `*.` stands for one label.
    Dns(String),
    /// A URI.
    Uri(String),
}

/// How the next endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Balance {
    /// One after another, in proportion to their weights.
    #[default]
    RoundRobin,
    /// The endpoint with the fewest requests in relation to its weight.
    LeastConnections,
    /// Of two at random, the one with fewer requests.
    Random,
    /// Of two at random, the one that answers faster (EWMA).
    LeastTime,
    /// The same endpoint for the same value.
    Hash(HashBy),
}

/// The value that is hashed; several values of a name are hashed together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HashBy {
    /// The client's address.
    Source,
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
    /// Path and query.
    Uri,
    /// The path.
    Path,
    /// The query.
    Args,
    /// The host.
    Host,
    /// All of these together. Those that a request lacks count as empty, unless it lacks all.
    Several(Vec<HashBy>),
}

impl HashBy {
    /// Whether headers are part of the value.
    pub fn reads_headers(&self) -> bool {
        match self {
            Self::Header(_) | Self::Cookie(_) => true,
            Self::Source | Self::Query(_) | Self::Uri | Self::Path | Self::Args | Self::Host => {
                false
            }
            Self::Several(all) => all.iter().any(Self::reads_headers),
        }
    }
}

/// A cookie that names an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sticky {
    /// Its name.
    pub name: String,
    /// Its path. Empty stands for that of the rule, in settings that no route has yet.
    pub path: String,
    /// Its other attributes, as they are sent: `; Max-Age=60; HttpOnly`.
    pub attributes: String,
    /// The secret of its values: clients cannot compute the address of an endpoint from them.
    pub secret: String,
}

/// Health checks of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Path of the request; a status below 400 is healthy.
    pub path: String,
    /// Interval.
    pub interval: Duration,
    /// Timeout.
    pub timeout: Duration,
}

/// When a failing endpoint is ejected for a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutlierPolicy {
    /// Number of consecutive failures; 0 for never.
    pub failures: u32,
    /// Duration of the first ejection; later ones are longer.
    pub ejection: Duration,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            ejection: Duration::from_secs(10),
        }
    }
}
