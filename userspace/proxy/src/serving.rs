//! Routes with what it takes to serve them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::Result;
use headgate_model::{
    NamespacedName, Refusal,
    ingress::{CanaryRule, Policy, Route, Routes, Target},
};

use crate::{
    index::Index,
    limits::Limiter,
    stats::Stats,
    tls::Certificates,
    upstream::{Upstream, Upstreams},
};

/// What is served now. A request sees one of these from its begin to its end.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) index: Index<ServedRoute>,
    pub(crate) certificates: Certificates,
    /// Hosts whose TLS is not ours to open.
    pub(crate) passthrough: HashMap<String, Arc<Upstream>>,
    limiters: HashMap<NamespacedName, Arc<Limiter>>,
    pub(crate) stats: HashMap<NamespacedName, Arc<Stats>>,
}

/// A route with what it takes to serve it.
#[derive(Debug)]
pub(crate) struct ServedRoute {
    route: Arc<Route>,
    pub(crate) target: ServedTarget,
    pub(crate) canary: Option<(Vec<CanaryRule>, ServedTarget)>,
    pub(crate) mirror: Option<(Arc<Upstream>, u8)>,
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) stats: Arc<Stats>,
    /// The rewritten path, with `${1}` for the first group.
    pub(crate) rewrite: Option<String>,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) enum ServedTarget {
    Upstream(Arc<Upstream>),
    Unavailable,
    Missing,
}

impl ServedRoute {
    pub(crate) fn policy(&self) -> &Policy {
        &self.route.policy
    }
}

impl AsRef<Route> for ServedRoute {
    fn as_ref(&self) -> &Route {
        &self.route
    }
}

impl Serving {
    /// Nothing.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            index: Index::new(std::iter::empty(), None),
            certificates: Certificates::new()?,
            passthrough: HashMap::new(),
            limiters: HashMap::new(),
            stats: HashMap::new(),
        })
    }

    /// What `routes` say. Connections to backends, and what clients used up of their limits, go on;
    /// certificates that cannot be used are refused.
    pub(crate) fn update(&self, routes: &Routes, upstreams: &Upstreams) -> (Self, Vec<Refusal>) {
        let mut refusals = Vec::new();
        let certificates = self.certificates.update(routes, &mut refusals);
        let (mut limiters, mut stats) = (HashMap::new(), HashMap::new());
        let mut serve = |route: &Arc<Route>| {
            let limiter = self.limiter(route, &mut limiters);
            let known = self.stats.get(&route.ingress);
            let stats: &Arc<Stats> = stats
                .entry(route.ingress.clone())
                .or_insert_with(|| known.cloned().unwrap_or_default());
            Arc::new(served(route, limiter, stats.clone(), upstreams))
        };
        let default = routes.default.as_ref().map(&mut serve);
        let hosts: Vec<_> = routes
            .hosts
            .iter()
            .map(|(name, host)| (name.clone(), host.routes.iter().map(&mut serve).collect()))
            .collect();
        let passthrough = routes.passthrough.iter();
        let next = Self {
            index: Index::new(hosts.into_iter(), default),
            certificates,
            passthrough: passthrough
                .map(|(host, key)| (host.clone(), upstreams.ensure(key)))
                .collect(),
            limiters,
            stats,
        };
        (next, refusals)
    }

    /// One limiter for all routes of an Ingress, kept as long as its limits stay.
    fn limiter(
        &self,
        route: &Route,
        limiters: &mut HashMap<NamespacedName, Arc<Limiter>>,
    ) -> Option<Arc<Limiter>> {
        let limits = &route.policy.limits;
        let known = [
            limiters.get(&route.ingress),
            self.limiters.get(&route.ingress),
        ];
        let kept = known
            .into_iter()
            .flatten()
            .find(|known| known.keeps(limits));
        let limiter = match kept {
            Some(known) => known.clone(),
            None => Arc::new(Limiter::new(limits)?),
        };
        limiters.insert(route.ingress.clone(), limiter.clone());
        Some(limiter)
    }

    /// The backend of a host whose TLS is not ours to open.
    pub(crate) fn passthrough(&self, host: &str) -> Option<&Arc<Upstream>> {
        let wildcard = || {
            let (_, rest) = host.split_once('.')?;
            self.passthrough.get(&format!("*.{rest}"))
        };
        self.passthrough.get(host).or_else(wildcard)
    }
}

fn served(
    route: &Arc<Route>,
    limiter: Option<Arc<Limiter>>,
    stats: Arc<Stats>,
    upstreams: &Upstreams,
) -> ServedRoute {
    let target = |target: &Target| match target {
        Target::Upstream(key) => ServedTarget::Upstream(upstreams.ensure(key)),
        Target::Unavailable => ServedTarget::Unavailable,
        Target::Missing => ServedTarget::Missing,
    };
    let mirror = route.policy.mirror.as_ref();
    ServedRoute {
        target: target(&route.target),
        canary: route
            .canary
            .as_ref()
            .map(|canary| (canary.rules.clone(), target(&canary.target))),
        mirror: mirror.map(|mirror| (upstreams.ensure(&mirror.upstream), mirror.percent)),
        limiter,
        stats,
        rewrite: route.policy.rewrite.as_deref().map(with_braces),
        route: route.clone(),
    }
}

/// `$1a` is the first group and an `a`, as in ingress-nginx.
fn with_braces(template: &str) -> String {
    let mut out = String::new();
    let mut characters = template.chars().peekable();
    while let Some(character) = characters.next() {
        let digit = characters.peek().copied().filter(char::is_ascii_digit);
        match (character, digit) {
            ('$', Some(digit)) => {
                characters.next();
                out.push_str(&format!("${{{digit}}}"));
            }
            ('$', None) => out.push_str("$$"),
            (character, _) => out.push(character),
        }
    }
    out
}

/// Where the endpoints of a backend are, and their weights.
pub type Endpoints = BTreeMap<SocketAddr, u32>;

#[cfg(test)]
mod tests {
    use super::with_braces;

    #[test]
    fn groups_have_one_digit() {
        assert_eq!(with_braces("/$1/x$2a"), "/${1}/x${2}a");
        assert_eq!(with_braces("/a$b"), "/a$$b");
    }
}
