//! Routes: which requests go where.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use super::{HeaderEdit, Pattern, Policy, Rewrite, Target};
use crate::NamespacedName;

/// A route: which requests it matches, and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The rule that it is from.
    pub origin: RouteOrigin,
    /// The path.
    pub path: PathMatch,
    /// Conditions besides the path; all must hold.
    pub conditions: Vec<Condition>,
    /// Where requests go, by weight. Without any weight they get 500.
    pub targets: Vec<WeightedTarget>,
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

/// The rule that a route is from, for operators.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteOrigin {
    /// The kind of its object.
    pub kind: RouteKind,
    /// Its object.
    pub name: NamespacedName,
    /// The name of the rule, or its number, from 0, if it has none; `None` for Ingresses.
    pub rule: Option<String>,
}

impl RouteOrigin {
    /// An Ingress.
    pub fn ingress(name: NamespacedName) -> Self {
        Self {
            kind: RouteKind::Ingress,
            name,
            rule: None,
        }
    }
}

impl fmt::Display for RouteOrigin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind, self.name)?;
        match &self.rule {
            Some(rule) => write!(out, " rule {rule}"),
            None => Ok(()),
        }
    }
}

/// The kind of an object with routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `networking.k8s.io` Ingress.
    Ingress,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    TlsRoute,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Ingress => "Ingress",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
        })
    }
}

/// One of the targets of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedTarget {
    /// Its share of the requests is this of the sum of all weights; 0 for none.
    pub weight: u32,
    /// Where the requests go.
    pub target: Target,
    /// Changes to them, after those of the route.
    pub request_headers: Vec<HeaderEdit>,
    /// Changes to their responses, before those of the route.
    pub response_headers: Vec<HeaderEdit>,
}

impl WeightedTarget {
    /// The only target of a route.
    pub fn only(target: Target) -> Vec<Self> {
        vec![Self {
            weight: 1,
            target,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        }]
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
    /// On a query parameter of this name; one of several.
    Query(String, Text),
    /// On the first query parameter of this name.
    FirstQuery(String, Text),
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
