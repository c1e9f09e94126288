//! Routes with the state that serves them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::Result;
use arc_swap::ArcSwap;
use headgate_model::{
    NamespacedName, ObjectName, Refusal,
    ingress::{Auth, CanaryRule, Policy, Route, Routes, Target, UpstreamKey, for_host},
};
use tokio_rustls::rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{
    auth::Authenticator,
    headers,
    index::Index,
    limits::Limiter,
    reach::Reach,
    stats::Stats,
    tls::{server::server_name, store::CertificateStore},
    upstream::{Upstream, Upstreams},
};

/// One configuration. A request sees the same one from its start to its end.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) index: Index<ServedRoute>,
    pub(crate) certificates: CertificateStore,
    /// Hosts with TLS passthrough.
    pub(crate) passthrough: HashMap<String, Arc<Upstream>>,
    /// Hosts, exact or with `*.`, and whether clients are asked for a certificate. Empty if no client
    /// is.
    asks_certificate: HashMap<String, bool>,
    /// By their rules, so that their caches survive an update of routes.
    authenticators: Authenticators,
    limiters: HashMap<NamespacedName, Arc<Limiter>>,
    pub(crate) stats: HashMap<NamespacedName, Arc<Stats>>,
    /// What authenticators may ask.
    reach: Reach,
}

type Authenticators = BTreeMap<Vec<Auth>, Arc<Authenticator>>;

/// A route with the state that serves it.
#[derive(Debug)]
pub(crate) struct ServedRoute {
    route: Arc<Route>,
    pub(crate) target: ServedTarget,
    pub(crate) canary: Option<(Vec<CanaryRule>, ServedTarget)>,
    pub(crate) mirror: Option<(Arc<Upstream>, u8)>,
    pub(crate) error_pages: Option<Arc<Upstream>>,
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) stats: Arc<Stats>,
}

/// The destination of requests.
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

    /// Whether requests get a header of this name, with `-` for `_`, from the proxy only.
    pub(crate) fn reserves(&self, name: &str) -> bool {
        let guards = self.authenticator.as_ref();
        let edits = &self.route.policy.request_headers;
        guards.is_some_and(|guards| guards.reserves(name)) || headers::edits(edits, name)
    }

    /// The key of its upstream.
    pub(crate) fn key(&self) -> Option<&UpstreamKey> {
        match &self.route.target {
            Target::Upstream(key) => Some(key),
            Target::Unavailable | Target::Missing => None,
        }
    }

    /// Returns the route alone, for longer use.
    pub(crate) fn model(&self) -> &Arc<Route> {
        &self.route
    }
}

impl AsRef<Route> for ServedRoute {
    fn as_ref(&self) -> &Route {
        &self.route
    }
}

impl Serving {
    /// Serves no routes.
    ///
    /// # Errors
    ///
    /// Fails if no certificate can be made.
    pub(crate) fn new(reach: Reach) -> Result<Self> {
        Ok(Self {
            index: Index::new(std::iter::empty(), None),
            certificates: CertificateStore::new()?,
            passthrough: HashMap::new(),
            asks_certificate: HashMap::new(),
            authenticators: Authenticators::new(),
            limiters: HashMap::new(),
            stats: HashMap::new(),
            reach,
        })
    }

    /// Returns the configuration for `routes`, and what was refused of them, e.g. an invalid
    /// certificate. Connections to backends, and usage of limits, are kept.
    pub(crate) fn update(&self, routes: &Routes, upstreams: &Upstreams) -> (Self, Vec<Refusal>) {
        let mut refusals = Vec::new();
        let certificates = self.certificates.update(routes, &mut refusals);
        let mut authenticators = Authenticators::new();
        let (mut limiters, mut stats) = (HashMap::new(), HashMap::new());
        let mut serve = |route: &Arc<Route>| {
            let known = self.stats.get(&route.ingress);
            let stats: &Arc<Stats> = stats
                .entry(route.ingress.clone())
                .or_insert_with(|| known.cloned().unwrap_or_default());
            let mut served = served(route, stats.clone(), upstreams);
            served.authenticator = self.authenticator(route, &mut authenticators, &mut refusals);
            served.limiter = self.limiter(route, &mut limiters);
            Arc::new(served)
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
            asks_certificate: asks_certificate(routes),
            authenticators,
            limiters,
            stats,
            reach: self.reach.clone(),
        };
        (next, refusals)
    }

    /// Returns one authenticator for all routes with equal rules. Invalid rules reject every request.
    fn authenticator(
        &self,
        route: &Route,
        authenticators: &mut Authenticators,
        refusals: &mut Vec<Refusal>,
    ) -> Option<Arc<Authenticator>> {
        let auth = &route.policy.auth;
        if auth.is_empty() {
            return None;
        }
        let known = authenticators.get(auth);
        if let Some(known) = known.or_else(|| self.authenticators.get(auth)).cloned() {
            authenticators.insert(auth.clone(), known.clone());
            return Some(known);
        }
        match Authenticator::new(auth, &self.reach) {
            Ok(made) => {
                let made = Arc::new(made);
                authenticators.insert(auth.clone(), made.clone());
                Some(made)
            }
            Err(error) => {
                let object = ObjectName::Ingress(route.ingress.clone());
                let field = "metadata.annotations[auth-…]";
                let refusal = Refusal::new(object, field, format!("{error:#}"));
                if !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
                Some(Arc::new(Authenticator::closed()))
            }
        }
    }

    /// Returns one limiter for all routes of an Ingress, the previous one if its limits are unchanged.
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

    /// Whether the handling of TLS connections depends on their host.
    pub(crate) fn needs_name(&self) -> bool {
        !self.passthrough.is_empty() || !self.asks_certificate.is_empty()
    }

    /// Whether clients of a host are asked for a certificate. Hosts match as those of routes.
    pub(crate) fn asks_certificate(&self, name: Option<&str>) -> bool {
        let hosts = &self.asks_certificate;
        let found = name.and_then(|name| for_host(name, |host| hosts.get(host)));
        found.or_else(|| hosts.get("")).is_some_and(|asks| *asks)
    }

    /// Returns the backend of a host with TLS passthrough. Rules of an exact host come before the
    /// passthrough of a wildcard.
    pub(crate) fn passthrough(&self, host: &str) -> Option<&Arc<Upstream>> {
        let known = |host: &str| match self.passthrough.get(host) {
            None => self.index.has_host(host).then_some(None),
            known => Some(known),
        };
        for_host(host, known).flatten()
    }
}

fn asks_certificate(routes: &Routes) -> HashMap<String, bool> {
    let hosts = routes.hosts.iter();
    let hosts: HashMap<_, _> = hosts
        .map(|(name, host)| (name.clone(), host.asks_certificate))
        .collect();
    match hosts.values().any(|asks| *asks) {
        true => hosts,
        false => HashMap::new(),
    }
}

fn served(route: &Arc<Route>, stats: Arc<Stats>, upstreams: &Upstreams) -> ServedRoute {
    let target = |target: &Target| match target {
        Target::Upstream(key) => ServedTarget::Upstream(upstreams.ensure(key)),
        Target::Unavailable => ServedTarget::Unavailable,
        Target::Missing => ServedTarget::Missing,
    };
    let mirror = route.policy.mirror.as_ref();
    let pages = route.policy.error_pages.as_ref();
    ServedRoute {
        target: target(&route.target),
        canary: route
            .canary
            .as_ref()
            .map(|canary| (canary.rules.clone(), target(&canary.target))),
        error_pages: pages.map(|pages| upstreams.ensure(&pages.upstream)),
        mirror: mirror.map(|mirror| (upstreams.ensure(&mirror.upstream), mirror.percent)),
        authenticator: None,
        limiter: None,
        stats,
        route: route.clone(),
    }
}

/// Finds the certificate of a host in the current configuration.
#[derive(Debug)]
pub(crate) struct CertificateResolver(pub(crate) Arc<ArcSwap<Serving>>);

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = server_name(&hello);
        Some(self.0.load().certificates.find(name.as_deref()).clone())
    }
}

/// Endpoints of a backend and their weights.
pub type Endpoints = BTreeMap<SocketAddr, u32>;
