//! What a proxy should do.

use std::{collections::BTreeMap, fmt, sync::Arc};

use ipnet::IpNet;

use super::{Pattern, Policy, UpstreamPolicy};
use crate::{NamespacedName, Refusal};

/// What `get` has for a host, which is in lower case and without port: under its own name, else with
/// `*.` for its first label.
pub fn for_host<T>(host: &str, get: impl Fn(&str) -> Option<T>) -> Option<T> {
    let wildcard = || {
        let (label, rest) = host.split_once('.')?;
        let key = (!label.is_empty()).then(|| format!("*.{rest}"))?;
        get(&key)
    };
    get(host).or_else(wildcard)
}

/// What all Ingresses together ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// By host: exact, with `*.` for any one label in front, or empty for every other.
    pub hosts: BTreeMap<String, Host>,
    /// What gets every request that no host has a route for; without it those get 404.
    pub default: Option<Arc<Route>>,
    /// Certificates by host, exact, with `*.`, or empty for every other.
    pub certificates: BTreeMap<String, Arc<Certificate>>,
    /// What is shown to clients that ask for another host, if a Secret was named for it.
    pub default_certificate: Option<Arc<Certificate>>,
    /// Hosts whose TLS connections go to a backend unopened.
    pub passthrough: BTreeMap<String, UpstreamKey>,
    /// What was asked for and is not done.
    pub refusals: Vec<Refusal>,
    /// Ingresses that are served.
    pub served: Vec<NamespacedName>,
}

impl Routes {
    /// The host that decides about requests for `name`, which is in lower case and without port: one
    /// with this name, one with `*.` for its first label, or the one for every other. If none of
    /// its routes matches, no other host is asked.
    pub fn host(&self, name: &str) -> Option<&Host> {
        let named = for_host(name, |name| self.hosts.get(name));
        named.or_else(|| self.hosts.get(""))
    }

    /// Every backend that is sent to.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamKey> {
        let routes = self.hosts.values().flat_map(|host| &host.routes);
        let of_routes = routes.chain(&self.default).flat_map(|route| {
            let canary = route.canary.iter().map(|canary| &canary.target);
            let targets = std::iter::once(&route.target).chain(canary);
            let keys = targets.filter_map(|target| match target {
                Target::Upstream(key) => Some(key),
                Target::Unavailable | Target::Missing => None,
            });
            keys.chain(route.policy.mirror.iter().map(|mirror| &mirror.upstream))
        });
        of_routes.chain(self.passthrough.values())
    }
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Whether clients are asked for a certificate.
    pub asks_certificate: bool,
    /// Its routes; the first that matches is taken.
    pub routes: Vec<Arc<Route>>,
}

/// Which requests, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Who asked for it.
    pub ingress: NamespacedName,
    /// The path.
    pub path: PathMatch,
    /// What else must hold.
    pub conditions: Vec<Condition>,
    /// Where they go.
    pub target: Target,
    /// Where some of them go instead.
    pub canary: Option<Canary>,
    /// What else is done.
    pub policy: Arc<Policy>,
}

/// How a path is compared. Paths are normal: without dot segments and doubled slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// This path, or what lies below it; without slash at the end.
    Prefix(String),
    /// A regular expression.
    Regex(Pattern),
}

impl PathMatch {
    /// Whether a path matches.
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

/// What else must hold for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its method.
    Method(Text),
    /// A header of this name.
    Header(String, Text),
    /// A parameter of the query of this name.
    Query(String, Text),
    /// The client's address.
    Source(Vec<IpNet>),
}

/// A text to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Anything, if it is there.
    Any,
    /// One of these.
    OneOf(Vec<String>),
    /// A regular expression for the whole text.
    Regex(Pattern),
}

impl Text {
    /// Whether a text matches.
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
    /// A Service or port that is not there: 503.
    Unavailable,
    /// Something that cannot be served: 404.
    Missing,
}

/// A Service's port, and how to talk to its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamKey {
    /// The Service.
    pub service: NamespacedName,
    /// The port's number.
    pub port: u16,
    /// How.
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
    /// Where.
    pub target: Target,
    /// Which, the first that decides.
    pub rules: Vec<CanaryRule>,
}

/// Says which requests are a canary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryRule {
    /// Those whose header has this value; `always` and `never` decide if no value is given.
    Header(String, Option<Text>),
    /// Those whose cookie is `always`, and not those where it is `never`.
    Cookie(String),
    /// So many of so many.
    Weight {
        /// The canary's.
        weight: u32,
        /// Of this total, not 0.
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
