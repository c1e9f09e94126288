//! What is done with requests and responses.

use std::time::Duration;

use ipnet::IpNet;

use super::{Auth, Cors, Scheme, Template, UpstreamKey};

/// What is done with requests of a route. Defaults are those of Ingresses, with times and sizes of
/// ingress-nginx; see also [`Policy::neutral`].
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
    /// The path that the backend gets, with the query of the request.
    pub path: Option<PathChange>,
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
    /// Backends that get copies of requests, each for its own share.
    pub mirrors: Vec<Mirror>,
    /// Backend that stands in for others.
    pub error_pages: Option<ErrorPages>,
    /// Names of the objects that parts of it are from, besides the object of the route, each with these parts. For
    /// operators.
    pub parts: Vec<String>,
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
            path: None,
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
            mirrors: Vec::new(),
            error_pages: None,
            parts: Vec::new(),
        }
    }
}

impl Policy {
    /// The policy that changes nothing: no HSTS, no limit of bodies, no request that an endpoint may have
    /// acted on is sent again.
    pub fn neutral() -> Self {
        Self {
            limits: Limits {
                body_bytes: None,
                ..Limits::default()
            },
            hsts: String::new(),
            retry: Retry {
                resend: Resend::Never,
                ..Retry::default()
            },
            ..Self::default()
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
pub enum Redirect {
    /// To an address.
    Location {
        /// `Location`.
        location: Template,
        /// Status code, 300 to 308.
        code: u16,
    },
    /// To the address of the request, with other parts.
    Parts(RedirectParts),
}

/// The address that clients are redirected to: that of the request, except for the parts that are set.
/// The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectParts {
    /// Scheme.
    pub scheme: Option<Scheme>,
    /// Host.
    pub host: Option<String>,
    /// Port; without it that of `scheme`, without that as well the one of the listener. The default port
    /// of the scheme is left out.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathChange>,
    /// Status code, 300 to 308.
    pub code: u16,
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// To another one.
    Full(String),
    /// What the prefix of the rule matched, to this. Other rules leave the path as it is.
    Prefix(String),
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

/// Fields that decide where a message ends, how it is sent, or where it goes: they cannot be set.
const FRAMING: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field, in lower case, decides where a message ends, how it is sent, or where it goes.
pub(crate) fn is_framing(name: &str) -> bool {
    FRAMING.contains(&name)
}

/// A change to headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Sets a header to a value.
    Set(String, String),
    /// Adds a value to a header, after those that it has.
    Add(String, String),
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
    /// From the request to the end of the response, with all tries.
    pub total: Option<Duration>,
    /// From the begin of a try to the end of its response.
    pub per_try: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(60),
            send: Duration::from_secs(60),
            total: None,
            per_try: None,
        }
    }
}

/// When another endpoint is tried. A request that an endpoint may have processed is sent again only
/// if `resend` allows it and its body can be sent again.
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
    /// Which requests are sent again although an endpoint may have processed them.
    pub resend: Resend,
    /// Whether an endpoint that failed may be tried again after a timeout or a status code.
    pub same_endpoint: bool,
    /// Shortest time between two tries.
    pub backoff: Duration,
}

/// Which requests are sent again although an endpoint may have processed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resend {
    /// None.
    Never,
    /// Those whose method is idempotent (RFC 9110, 9.2.2).
    #[default]
    Idempotent,
    /// All.
    Always,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 3,
            on_error: true,
            on_timeout: true,
            on_codes: Vec::new(),
            resend: Resend::default(),
            same_endpoint: false,
            backoff: Duration::ZERO,
        }
    }
}

/// A backend that gets a copy of requests; its responses are discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The backend.
    pub upstream: UpstreamKey,
    /// Which part of the requests it gets.
    pub share: Share,
}

/// A part of the requests, each chosen by chance: `part` of `whole`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Requests that are chosen.
    pub part: u32,
    /// All requests, not 0.
    pub whole: u32,
}

impl Share {
    /// All requests.
    pub const ALL: Self = Self { part: 1, whole: 1 };

    /// This percentage of the requests.
    pub fn percent(percent: u8) -> Self {
        Self {
            part: percent.into(),
            whole: 100,
        }
    }
}

/// A backend that gets requests while theirs has no endpoint, and has pages for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPages {
    /// The backend.
    pub upstream: UpstreamKey,
    /// Status codes of the responses that its pages replace.
    pub codes: Vec<u16>,
}
