//! What is done with a request besides sending it somewhere.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;

use super::{Auth, UpstreamKey};

/// What the annotations of an Ingress say about its requests. Times and sizes that are not given
/// have the defaults of ingress-nginx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Why nothing is let through: a guard of the Ingress cannot be read.
    pub closed: Option<String>,
    /// Who may come.
    pub sources: Sources,
    /// What they must prove; all of it.
    pub auth: Vec<Auth>,
    /// How much.
    pub limits: Limits,
    /// Whether plain HTTP is redirected to HTTPS (308).
    pub to_https: bool,
    /// Every request is redirected.
    pub redirect: Option<Redirect>,
    /// Where requests for `/` are redirected to.
    pub app_root: Option<String>,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
    /// The path that the backend gets; `$1` is the first group of a regular expression.
    pub rewrite: Option<String>,
    /// `Host` that the backend gets instead of the client's.
    pub host: Option<String>,
    /// `X-Forwarded-Prefix` that the backend gets.
    pub forwarded_prefix: Option<String>,
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
    /// Whether the trace of any client goes on, not just of proxies that are trusted.
    pub trusts_traces: bool,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// When to try another endpoint.
    pub retry: Retry,
    /// Who gets a copy of each request.
    pub mirror: Option<Mirror>,
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
        }
    }
}

/// Clients by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Those who may; `None` means everybody.
    pub allow: Option<Vec<IpNet>>,
    /// Those who may not, whatever `allow` says.
    pub deny: Vec<IpNet>,
}

/// Limits of each client address, on each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests over time; all of them hold.
    pub rates: Vec<Rate>,
    /// Requests at the same time.
    pub concurrent: Option<u32>,
    /// Who is not limited.
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

/// So many requests in a period, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in a period, not 0.
    pub requests: u32,
    /// The period.
    pub period: Duration,
    /// Requests that may come at once, not 0.
    pub burst: u32,
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `Location`.
    pub location: String,
    /// Status code, 300 to 308.
    pub code: u16,
}

/// Cross-origin resource sharing (Fetch standard, section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Who may read answers; empty means everybody.
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
    /// What comes before the host: `https://`.
    pub scheme: String,
    /// Whether one more label stands in front of `host`.
    pub is_wildcard: bool,
    /// Host and port.
    pub host: String,
}

/// A change to headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Has this value and no other.
    Set(String, String),
    /// Is gone.
    Remove(String),
}

/// How long to wait.
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

/// When another endpoint is tried. A request that an endpoint may have acted upon is sent again only
/// if its method is idempotent (RFC 9110, 9.2.2), and only while its body can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Endpoints to try in all; 1 means no other.
    pub tries: u32,
    /// After an endpoint could not be reached or broke the connection.
    pub on_error: bool,
    /// After an endpoint took too long.
    pub on_timeout: bool,
    /// After these status codes.
    pub on_codes: Vec<u16>,
    /// Also requests whose method is not idempotent.
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

/// Who gets a copy of requests, whose answers nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where.
    pub upstream: UpstreamKey,
    /// How many of a hundred requests.
    pub percent: u8,
}

/// How to talk to the endpoints of a Service's port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamPolicy {
    /// What they speak.
    pub protocol: UpstreamProtocol,
    /// How TLS endpoints are checked.
    pub tls: UpstreamTls,
    /// Which endpoint is next.
    pub balance: Balance,
    /// A cookie that keeps a client at its endpoint.
    pub sticky: Option<Sticky>,
    /// Weights of endpoints by the name of their node, not 0; 1 where none is given.
    pub weights: BTreeMap<String, u32>,
    /// How long a new endpoint gets less than its share.
    pub slow_start: Duration,
    /// How endpoints are asked whether they are well.
    pub probe: Option<Probe>,
    /// When an endpoint that fails requests is left alone.
    pub outlier: OutlierPolicy,
    /// Requests at the same time to one endpoint.
    pub concurrent: Option<u32>,
    /// Whether connections begin with a PROXY protocol header (version 2) that names the client.
    pub proxy_protocol: bool,
    /// Whether the cluster IP is used instead of endpoints.
    pub by_cluster_ip: bool,
}

/// What endpoints speak.
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
    /// Whether TLS is spoken.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }

    /// Whether nothing but HTTP/2 is spoken.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::Grpcs)
    }
}

/// TLS towards endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamTls {
    /// Authorities (PEM) that their certificates are checked with; without, nothing is checked.
    pub authorities: Option<Vec<u8>>,
    /// Name that is asked for and checked; the Service's host name if not given.
    pub name: Option<String>,
    /// Certificate chain and key (PEM) that they are shown.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// How the next endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Balance {
    /// One after another, as often as their weights say.
    #[default]
    RoundRobin,
    /// The one with the fewest requests for its weight.
    LeastConnections,
    /// The better of two at random, by requests.
    Random,
    /// The better of two at random, by their recent time to answer (EWMA).
    LeastTime,
    /// Always the same for the same text.
    Hash(HashBy),
}

/// What is hashed; several texts are taken together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HashBy {
    /// The client's address.
    Source,
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query.
    Query(String),
    /// Path and query.
    Uri,
    /// The host.
    Host,
}

/// A cookie that names an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sticky {
    /// Its name.
    pub name: String,
    /// Its other attributes, as they are sent: `; Path=/; HttpOnly`.
    pub attributes: String,
}

/// How endpoints are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Path of the request; a status below 400 is well.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// How long to wait for an answer.
    pub timeout: Duration,
}

/// When an endpoint that fails requests is left alone for a while.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutlierPolicy {
    /// After so many failures in a row; 0 for never.
    pub failures: u32,
    /// For how long, and longer each time.
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
