//! What is done with requests and responses, from annotations.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;

use super::{Auth, Template, UpstreamKey};

/// What is done with requests of an Ingress. Defaults of times and sizes are those of
/// ingress-nginx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Why every request is rejected (503): the error of an invalid guard.
    pub closed: Option<String>,
    /// Clients that are admitted.
    pub sources: Sources,
    /// Required proofs; all of them.
    pub auth: Vec<Auth>,
    /// Limits per client address.
    pub limits: Limits,
    /// Whether plain HTTP is redirected to HTTPS (308).
    pub to_https: bool,
    /// Redirect of every request.
    pub redirect: Option<Redirect>,
    /// Path that requests for `/` are redirected to.
    pub app_root: Option<String>,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
    /// The path and query that the backend gets, or that clients are redirected to.
    pub rewrite: Option<Rewrite>,
    /// `Host` that the backend gets instead of the client's.
    pub host: Option<Template>,
    /// `X-Forwarded-Prefix` that the backend gets.
    pub forwarded_prefix: Option<Template>,
    /// Changes to requests, before they are sent.
    pub request_headers: Vec<HeaderEdit>,
    /// Changes to responses.
    pub response_headers: Vec<HeaderEdit>,
    /// `Strict-Transport-Security` over HTTPS; empty for none.
    pub hsts: String,
    /// Whether responses are compressed for clients that accept it.
    pub compress: bool,
    /// Whether requests are written to the access log.
    pub access_log: bool,
    /// Whether requests are traced, if the proxy traces at all.
    pub traces: bool,
    /// Whether traces of all clients are continued, not only those of trusted proxies.
    pub trusts_traces: bool,
    /// Timeouts of backends.
    pub timeouts: Timeouts,
    /// When to try another endpoint.
    pub retry: Retry,
    /// Backend that gets a copy of requests.
    pub mirror: Option<Mirror>,
    /// Backend that stands in for others.
    pub error_pages: Option<ErrorPages>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            closed: None,
            sources: Sources::default(),
            auth: Vec::new(),
            limits: Limits::default(),
            to_https: false,
            redirect: None,
            app_root: None,
            cors: None,
            rewrite: None,
            host: None,
            forwarded_prefix: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            hsts: "max-age=31536000; includeSubDomains".into(),
            compress: false,
            access_log: true,
            traces: true,
            trusts_traces: true,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            mirror: None,
            error_pages: None,
        }
    }
}

/// Clients by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Clients that are admitted; `None` means all.
    pub allow: Option<Vec<IpNet>>,
    /// Clients that are rejected, even if `allow` has them.
    pub deny: Vec<IpNet>,
}

/// Limits of each client address, on each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rate limits; all of them apply.
    pub rates: Vec<Rate>,
    /// Largest number of concurrent requests.
    pub concurrent: Option<u32>,
    /// Clients that are not limited.
    pub exempt: Vec<IpNet>,
    /// Largest body of a request in bytes; `None` for no limit.
    pub body_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rates: Vec::new(),
            concurrent: None,
            exempt: Vec::new(),
            body_bytes: Some(1 << 20),
        }
    }
}

/// A rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in a period, not 0.
    pub requests: u32,
    /// The period.
    pub period: Duration,
    /// Requests that may come at once beyond the first, not 0.
    pub burst: u32,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `Location`.
    pub location: Template,
    /// Status code, 300 to 308.
    pub code: u16,
}

/// What a path, and perhaps the query, is replaced by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The new path; or an address, if clients are redirected.
    pub target: Template,
    /// What the new query begins with, without `?`.
    pub query: Option<Template>,
    /// Whether the query of the request follows.
    pub keeps_query: bool,
    /// Whether clients are redirected (302).
    pub is_redirect: bool,
}

/// Cross-origin resource sharing (Fetch standard, section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may read responses; empty means all.
    pub origins: Vec<Origin>,
    /// `Access-Control-Allow-Methods`.
    pub methods: String,
    /// `Access-Control-Allow-Headers`.
    pub headers: String,
    /// `Access-Control-Expose-Headers`.
    pub expose: Option<String>,
    /// `Access-Control-Allow-Credentials`.
    pub credentials: bool,
    /// `Access-Control-Max-Age` in seconds.
    pub max_age_s: u32,
}

/// An origin: scheme and host with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Scheme with its separator: `https://`.
    pub scheme: String,
    /// Whether the origin has one more label in front of `host`.
    pub is_wildcard: bool,
    /// Host and port.
    pub host: String,
}

/// A change to headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Sets a header to a value.
    Set(String, String),
    /// Removes a header.
    Remove(String),
}

/// Timeouts of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to an endpoint.
    pub connect: Duration,
    /// Between two reads from an endpoint.
    pub read: Duration,
    /// Between two writes to an endpoint.
    pub send: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(60),
            send: Duration::from_secs(60),
        }
    }
}

/// When another endpoint is tried. A request that an endpoint may have processed is sent again only
/// if its method is idempotent (RFC 9110, 9.2.2) and its body can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Total number of endpoints to try; 1 means no retry.
    pub tries: u32,
    /// After a connection failed or was closed.
    pub on_error: bool,
    /// After a timeout.
    pub on_timeout: bool,
    /// After these status codes.
    pub on_codes: Vec<u16>,
    /// Whether requests with a method that is not idempotent are sent again too.
    pub non_idempotent: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 3,
            on_error: true,
            on_timeout: true,
            on_codes: Vec::new(),
            non_idempotent: false,
        }
    }
}

/// A backend that gets a copy of requests; its responses are discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The backend.
    pub upstream: UpstreamKey,
    /// Percentage of requests, 0 to 100.
    pub percent: u8,
}

/// A backend that gets requests while theirs has no endpoint, and has pages for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPages {
    /// The backend.
    pub upstream: UpstreamKey,
    /// Status codes of the responses that its pages replace.
    pub codes: Vec<u16>,
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
    /// CA certificates (PEM) that verify endpoints; without them nothing is verified.
    pub authorities: Option<Vec<u8>>,
    /// Server name to send and verify; the Service's host name if not set.
    pub name: Option<String>,
    /// Client certificate chain and key (PEM).
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
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
