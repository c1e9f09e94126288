//! The routes of a proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Pattern, Policy, Rewrite, UpstreamPolicy};
use crate::{NamespacedName, Refusal};

/// Returns what `get` has for a host (lower case, without port): under its name, else with `*.` for
/// its first label.
pub fn for_host<T>(host: &str, get: impl Fn(&str) -> Option<T>) -> Option<T> {
    let wildcard = || {
        let (label, rest) = host.split_once('.')?;
        let key = (!label.is_empty()).then(|| format!("*.{rest}"))?;
        get(&key)
    };
    get(host).or_else(wildcard)
}

/// The routes of all Ingresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Hosts by name: exact, with `*.` for any one label in front, or empty for every other host.
    pub hosts: BTreeMap<String, Host>,
    /// The route for requests that no host has a route for; without it they get 404.
    pub default: Option<Arc<Route>>,
    /// Certificates by host: exact, with `*.`, or empty for every other host.
    pub certificates: BTreeMap<String, Arc<Certificate>>,
    /// Hosts that get no certificate of `certificates` but one of their own name: the wildcard
    /// certificate that covers them is of a younger Ingress of another namespace.
    pub withheld: BTreeSet<String>,
    /// The certificate for other hosts, if `--default-certificate` is set.
    pub default_certificate: Option<Arc<Certificate>>,
    /// Hosts whose TLS connections are forwarded to a backend without decryption.
    pub passthrough: BTreeMap<String, UpstreamKey>,
    /// Fields that are not served as written.
    pub refusals: Vec<Refusal>,
    /// Ingresses that are served.
    pub served: Vec<NamespacedName>,
}

impl Routes {
    /// Returns the host for requests for `name` (lower case, without port): the one with this name,
    /// with `*.` for its first label, or the one for every other host. If none of its routes
    /// matches, no other host is tried.
    pub fn host(&self, name: &str) -> Option<&Host> {
        let named = for_host(name, |name| self.hosts.get(name));
        named.or_else(|| self.hosts.get(""))
    }

    /// Returns every backend that the routes name.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamKey> {
        let routes = self.hosts.values().flat_map(|host| &host.routes);
        let of_routes = routes.chain(&self.default).flat_map(|route| {
            let canary = route.canary.iter().map(|canary| &canary.target);
            let targets = std::iter::once(&route.target).chain(canary);
            let keys = targets.filter_map(|target| match target {
                Target::Upstream(key) => Some(key),
                Target::Unavailable | Target::Missing => None,
            });
            let mirror = route.policy.mirror.iter().map(|mirror| &mirror.upstream);
            let pages = route.policy.error_pages.iter();
            keys.chain(mirror).chain(pages.map(|pages| &pages.upstream))
        });
        of_routes.chain(self.passthrough.values())
    }
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Whether clients must be asked for a certificate.
    pub asks_certificate: bool,
    /// Its routes; the first that matches is used.
    pub routes: Vec<Arc<Route>>,
}

/// A route: which requests it matches, and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The Ingress that it is from.
    pub ingress: NamespacedName,
    /// The path.
    pub path: PathMatch,
    /// Conditions besides the path; all must hold.
    pub conditions: Vec<Condition>,
    /// Where requests go.
    pub target: Target,
    /// Where some requests go instead.
    pub canary: Option<Canary>,
    /// What is done with requests and responses.
    pub policy: Arc<Policy>,
}

impl Route {
    /// Returns how paths are rewritten. Routes that fill gaps (`spec.defaultBackend`, `app-root`) match by
    /// prefix and send paths as they are.
    pub fn rewrite(&self) -> Option<&Rewrite> {
        let is_gap = matches!(self.path, PathMatch::Prefix(_));
        self.policy.rewrite.as_ref().filter(|_| !is_gap)
    }
}

/// How a path is compared. Paths are in their [decoded form](super::path::decoded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// This path and every path below it; without slash at the end.
    Prefix(String),
    /// A regular expression.
    Regex(Pattern),
}

impl PathMatch {
    /// Returns whether a path matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(pattern) => pattern.regex().is_match(path),
        }
    }

    /// Returns a group of a regular expression that matches a path.
    pub fn group<'a>(&self, path: &'a str, number: usize) -> Option<&'a str> {
        let Self::Regex(pattern) = self else {
            return None;
        };
        let group = pattern.regex().captures(path)?.get(number)?;
        Some(group.as_str())
    }

    /// Returns whether some path matches both. Of a regular expression and a prefix only the prefix
    /// itself is compared.
    pub fn overlaps(&self, other: &Self) -> bool {
        let matches = |path: &Self, one: &Self| match one {
            Self::Exact(text) => path.matches(text),
            Self::Prefix(text) => path.matches(text) || path.matches(&format!("{text}/")),
            Self::Regex(_) => path == one,
        };
        matches(self, other) || matches(other, self)
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(out, "= {path}"),
            Self::Prefix(path) => write!(out, "{path}/"),
            Self::Regex(pattern) => write!(out, "~ {pattern}"),
        }
    }
}

/// A condition for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// On the method.
    Method(Text),
    /// On a header of this name.
    Header(String, Text),
    /// On a query parameter of this name.
    Query(String, Text),
    /// On the client's address: one of these networks.
    Source(Vec<IpNet>),
}

/// A text to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Any text, if there is one.
    Any,
    /// One of these.
    OneOf(Vec<String>),
    /// Texts that a regular expression matches as a whole.
    Regex(Pattern),
}

impl Text {
    /// Returns whether a text matches.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(texts) => texts.iter().any(|one| one == text),
            Self::Regex(pattern) => pattern.regex().is_match(text),
        }
    }
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a Service.
    Upstream(UpstreamKey),
    /// A Service or port that does not exist: 503.
    Unavailable,
    /// An object that is not supported as a backend: 404.
    Missing,
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

/// Where some requests of a route go instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The canary's backend.
    pub target: Target,
    /// Rules that choose requests; the first that decides counts.
    pub rules: Vec<CanaryRule>,
}

/// A rule that chooses requests for a canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryRule {
    /// By header: requests with this value, or by `always` and `never` if there is no value.
    Header(String, Option<Text>),
    /// By cookie: `always` and `never` decide.
    Cookie(String),
    /// By weight: `weight` of `total` requests.
    Weight {
        /// Requests for the canary.
        weight: u32,
        /// All requests, not 0.
        total: u32,
    },
}

/// A certificate with its key, both PEM. The key is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret it is from.
    pub secret: NamespacedName,
    /// The chain, its own certificate first.
    pub chain: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Certificate({})", self.secret)
    }
}
