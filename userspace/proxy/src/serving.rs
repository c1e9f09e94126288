//! Routes with the state that serves them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use headgate_model::{
    NamespacedName, ObjectName, Refusal,
    edge::{
        Auth, CanaryRule, Edge, GatewayPort, HostMode, Listener, Policy, PortListeners, Route,
        RouteOrigin, Scheme, Share, Target, UpstreamKey, for_host,
    },
};
use http::StatusCode;
use tracing::warn;

use crate::{
    auth::Authenticator,
    direct::Plan,
    headers,
    index::Index,
    limits::Limiter,
    reach::Reach,
    relay::ServedStreams,
    stats::{Counted, Stats},
    tls::{
        server::TlsSettings,
        store::{self, CertificateStore, Parsed},
    },
    upstream::{Upstream, Upstreams},
};

/// One configuration. A request sees the same one from its start to its end.
#[derive(Debug)]
pub(crate) struct Serving {
    /// For connections that are not to a port of a Gateway.
    pub(crate) ingress: ServedListener,
    gateways: HashMap<GatewayPort, ServedPort>,
    /// By their rules, so that their caches survive an update of routes.
    authenticators: Authenticators,
    limiters: Limiters,
    pub(crate) stats: HashMap<Counted, Arc<Stats>>,
    /// What authenticators may ask.
    reach: Reach,
}

type Authenticators = BTreeMap<Vec<Auth>, Arc<Authenticator>>;
/// By rule and the Gateway that its requests come through: each of its listeners may have other limits.
type Limiters = HashMap<(Option<NamespacedName>, RouteOrigin), Vec<Arc<Limiter>>>;

/// The listeners of a port of a Gateway.
#[derive(Debug)]
pub(crate) struct ServedPort {
    pub(crate) scheme: Scheme,
    target_port: u16,
    /// By hostname.
    listeners: HashMap<String, Arc<ServedListener>>,
}

impl ServedPort {
    /// Returns the listener for a host: the best one alone, so that no request is for two.
    pub(crate) fn listener(&self, host: &str) -> Option<&Arc<ServedListener>> {
        let mut listeners = HostMode::Suffix.all(host, |name| self.listeners.get(name));
        listeners.next()
    }
}

/// A listener with the state that serves it.
#[derive(Debug)]
pub(crate) struct ServedListener {
    pub(crate) name: String,
    pub(crate) index: Index<ServedRoute>,
    pub(crate) certificates: Arc<CertificateStore>,
    pub(crate) tls: TlsSettings,
    /// Hosts with TLS passthrough.
    pub(crate) passthrough: HashMap<String, Arc<Upstream>>,
    /// Where connections go whose requests are not read.
    pub(crate) streams: Option<ServedStreams>,
    /// What it is made from, if nothing of that was refused.
    model: Option<Arc<Listener>>,
    /// Hosts, exact or with `*.`, and whether clients are asked for a certificate. Empty if no client
    /// is.
    asks_certificate: HashMap<String, bool>,
}

/// A route with the state that serves it.
#[derive(Debug)]
pub(crate) struct ServedRoute {
    route: Arc<Route>,
    /// As the targets of the route.
    pub(crate) targets: Vec<ServedTarget>,
    pub(crate) canary: Option<(Vec<CanaryRule>, ServedTarget)>,
    pub(crate) mirrors: Vec<(Arc<Upstream>, Share)>,
    pub(crate) error_pages: Option<Arc<Upstream>>,
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    pub(crate) limiter: Option<Arc<Limiter>>,
    stats: Arc<Stats>,
    /// Those of the listener, if it is one of a Gateway.
    listener_stats: Option<Arc<Stats>>,
    /// For direct requests; `None` if it has none.
    pub(crate) plan: Option<Plan>,
}

/// The destination of requests.
#[derive(Clone, Debug)]
pub(crate) enum ServedTarget {
    Upstream(Arc<Upstream>),
    Unavailable,
    Missing,
    Invalid(String),
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

    /// The key of its first upstream.
    pub(crate) fn key(&self) -> Option<&UpstreamKey> {
        let mut targets = self.route.targets.iter();
        targets.find_map(|weighted| weighted.target.upstream())
    }

    /// Counts a response.
    pub(crate) fn count(&self, status: StatusCode, took: Duration) {
        self.stats.count(status, took);
        if let Some(stats) = &self.listener_stats {
            stats.count(status, took);
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
        let certificates = Arc::new(CertificateStore::with_own()?);
        Ok(Self {
            ingress: ServedListener {
                name: String::new(),
                index: Index::new(HostMode::OneLabel, std::iter::empty(), None),
                tls: TlsSettings::new(certificates.clone())?,
                certificates,
                passthrough: HashMap::new(),
                streams: None,
                model: None,
                asks_certificate: HashMap::new(),
            },
            gateways: HashMap::new(),
            authenticators: Authenticators::new(),
            limiters: Limiters::new(),
            stats: HashMap::new(),
            reach,
        })
    }

    /// Returns the configuration for `edge`, and what was refused of it, e.g. an invalid certificate.
    /// Connections to backends, and usage of limits, are kept.
    pub(crate) fn update(&self, edge: &Edge, upstreams: &Upstreams) -> (Self, Vec<Refusal>) {
        let mut update = Update {
            old: self,
            upstreams,
            refusals: Vec::new(),
            parsed: Parsed::new(),
            authenticators: Authenticators::new(),
            limiters: Limiters::new(),
            stats: HashMap::new(),
        };
        let ingress = update.listener(None, &edge.ingress, &self.ingress);
        let gateways = edge.gateways.iter();
        let gateways = gateways.map(|(key, port)| (key.clone(), update.port(key, port)));
        let gateways = gateways.collect();
        let next = Self {
            ingress,
            gateways,
            authenticators: update.authenticators,
            limiters: update.limiters,
            stats: update.stats,
            reach: self.reach.clone(),
        };
        update.refusals.extend(store::ended(&update.parsed));
        (next, update.refusals)
    }

    /// Returns the listeners of a port of a Gateway.
    pub(crate) fn port(&self, key: &GatewayPort) -> Option<&ServedPort> {
        self.gateways.get(key)
    }

    /// Returns the ports at which connections for ports of Gateways arrive.
    pub(crate) fn target_ports(&self) -> BTreeMap<u16, GatewayPort> {
        let ports = self.gateways.iter();
        let ports = ports.map(|(key, port)| (port.target_port, key.clone()));
        ports.collect()
    }

    /// Returns all listeners, those of Ingresses first.
    pub(crate) fn listeners(
        &self,
    ) -> impl Iterator<Item = (Option<&GatewayPort>, &str, &ServedListener)> {
        let mut ports: Vec<_> = self.gateways.iter().collect();
        ports.sort_by_key(|(key, _)| *key);
        let gateways = ports.into_iter().flat_map(|(key, port)| {
            let mut listeners: Vec<_> = port.listeners.iter().collect();
            listeners.sort_by_key(|(hostname, _)| *hostname);
            let named = listeners.into_iter();
            named.map(move |(hostname, listener)| (Some(key), hostname.as_str(), &**listener))
        });
        std::iter::once((None, "", &self.ingress)).chain(gateways)
    }
}

/// An update of what is served.
struct Update<'a> {
    old: &'a Serving,
    upstreams: &'a Upstreams,
    refusals: Vec<Refusal>,
    parsed: Parsed,
    authenticators: Authenticators,
    limiters: Limiters,
    stats: HashMap<Counted, Arc<Stats>>,
}

impl Update<'_> {
    fn port(&mut self, key: &GatewayPort, port: &PortListeners) -> ServedPort {
        let old = self.old.gateways.get(key);
        let mut listeners = HashMap::new();
        for listener in &port.listeners {
            let known = old.and_then(|old| old.listeners.get(&listener.hostname));
            let is_same = |known: &&Arc<ServedListener>| {
                let model = known.model.as_ref();
                model.is_some_and(|model| Arc::ptr_eq(model, listener))
            };
            let made = match known.filter(is_same) {
                Some(known) => {
                    self.keep(key, known);
                    Ok(known.clone())
                }
                None => self.remake(key, listener, known),
            };
            match made {
                Ok(made) => drop(listeners.insert(listener.hostname.clone(), made)),
                Err(error) => warn!(%error, port = %key, listener = listener.name, "not served"),
            }
        }
        ServedPort {
            scheme: port.scheme,
            target_port: port.target_port,
            listeners,
        }
    }

    fn remake(
        &mut self,
        port: &GatewayPort,
        listener: &Arc<Listener>,
        known: Option<&Arc<ServedListener>>,
    ) -> Result<Arc<ServedListener>> {
        let empty = match known {
            Some(_) => None,
            None => Some(ServedListener::empty()?),
        };
        let before = self.refusals.len();
        let old = known.map(|known| &**known).or(empty.as_ref());
        let old = old.context("no listener")?;
        let mut made = self.listener(Some(port), listener, old);
        made.model = (self.refusals.len() == before).then(|| listener.clone());
        Ok(Arc::new(made))
    }

    /// Keeps a listener as it is, with all that it shares with others.
    fn keep(&mut self, port: &GatewayPort, listener: &ServedListener) {
        listener.certificates.keep(&mut self.parsed);
        let counted = Counted::Listener(port.clone(), listener.name.clone());
        if let Some(stats) = self.old.stats.get(&counted) {
            self.stats.insert(counted, stats.clone());
        }
        for served in listener.index.all() {
            let origin = &served.route.origin;
            let counted = Counted::Rule(origin.clone());
            let stats = self.stats.entry(counted);
            stats.or_insert_with(|| served.stats.clone());
            if let Some(authenticator) = &served.authenticator {
                let auth = served.route.policy.auth.clone();
                self.authenticators.insert(auth, authenticator.clone());
            }
            if let Some(limiter) = &served.limiter {
                let key = (Some(port.gateway.clone()), origin.clone());
                let limiters = self.limiters.entry(key).or_default();
                if !limiters.iter().any(|known| Arc::ptr_eq(known, limiter)) {
                    limiters.push(limiter.clone());
                }
            }
        }
    }

    fn listener(
        &mut self,
        port: Option<&GatewayPort>,
        listener: &Listener,
        old: &ServedListener,
    ) -> ServedListener {
        let certificates = old
            .certificates
            .update(listener, &mut self.parsed, &mut self.refusals);
        let certificates = Arc::new(certificates);
        let tls = old
            .tls
            .of(listener, certificates.clone())
            .unwrap_or_else(|error| {
                warn!(%error, listener = listener.name, "TLS connections are refused");
                old.tls.closed()
            });
        let counted = port.map(|port| Counted::Listener(port.clone(), listener.name.clone()));
        let stats = counted.map(|counted| self.stats(counted));
        let mut serve = |route: &Arc<Route>| self.route(port, stats.as_ref(), route);
        let default = listener.default.as_ref().map(&mut serve);
        let hosts: Vec<_> = listener
            .hosts
            .iter()
            .map(|(name, host)| (name.clone(), host.routes.iter().map(&mut serve).collect()))
            .collect();
        let passthrough = listener.passthrough.iter();
        let streams = listener.streams.as_ref();
        ServedListener {
            name: listener.name.clone(),
            index: Index::new(listener.mode, hosts.into_iter(), default),
            tls,
            certificates,
            passthrough: passthrough
                .map(|(host, key)| (host.clone(), self.upstreams.ensure(key)))
                .collect(),
            streams: streams.map(|streams| ServedStreams::new(streams, self.upstreams)),
            model: None,
            asks_certificate: asks_certificate(listener),
        }
    }

    /// The counters of a rule or a listener: those that it had.
    fn stats(&mut self, counted: Counted) -> Arc<Stats> {
        let known = self.old.stats.get(&counted);
        let stats = self.stats.entry(counted);
        let stats = stats.or_insert_with(|| known.cloned().unwrap_or_default());
        stats.clone()
    }

    fn route(
        &mut self,
        port: Option<&GatewayPort>,
        listener: Option<&Arc<Stats>>,
        route: &Arc<Route>,
    ) -> Arc<ServedRoute> {
        let stats = self.stats(Counted::Rule(route.origin.clone()));
        let mut served = served(route, stats, self.upstreams);
        served.listener_stats = listener.cloned();
        served.authenticator = self.authenticator(route);
        served.limiter = self.limiter(port, route);
        served.plan = Plan::of(&served);
        Arc::new(served)
    }

    /// Returns one authenticator for all routes with equal rules. Invalid rules reject every request.
    fn authenticator(&mut self, route: &Route) -> Option<Arc<Authenticator>> {
        let auth = &route.policy.auth;
        if auth.is_empty() {
            return None;
        }
        let known = self.authenticators.get(auth);
        let known = known.or_else(|| self.old.authenticators.get(auth));
        if let Some(known) = known.cloned() {
            self.authenticators.insert(auth.clone(), known.clone());
            return Some(known);
        }
        match Authenticator::new(auth, &self.old.reach) {
            Ok(made) => {
                let made = Arc::new(made);
                self.authenticators.insert(auth.clone(), made.clone());
                Some(made)
            }
            Err(error) => {
                let object = ObjectName::Ingress(route.origin.name.clone());
                let field = "metadata.annotations[auth-…]";
                let refusal = Refusal::new(object, field, format!("{error:#}"));
                if !self.refusals.contains(&refusal) {
                    self.refusals.push(refusal);
                }
                Some(Arc::new(Authenticator::closed()))
            }
        }
    }

    /// Returns one limiter for all routes of a rule at the listeners of a Gateway that have these limits, or of an
    /// Ingress: the previous one if there is one.
    fn limiter(&mut self, port: Option<&GatewayPort>, route: &Route) -> Option<Arc<Limiter>> {
        let limits = &route.policy.limits;
        let key = (port.map(|port| port.gateway.clone()), route.origin.clone());
        let of = |limiters: &Limiters| {
            let mut known = limiters.get(&key)?.iter();
            known.find(|known| known.keeps(limits)).cloned()
        };
        if let Some(known) = of(&self.limiters) {
            return Some(known);
        }
        let limiter = match of(&self.old.limiters) {
            Some(known) => known,
            None => Arc::new(Limiter::new(limits)?),
        };
        let limiters = self.limiters.entry(key).or_default();
        limiters.push(limiter.clone());
        Some(limiter)
    }
}

impl ServedListener {
    /// A listener of a Gateway without routes.
    fn empty() -> Result<Self> {
        let certificates = Arc::new(CertificateStore::default());
        Ok(Self {
            name: String::new(),
            index: Index::new(HostMode::Suffix, std::iter::empty(), None),
            tls: TlsSettings::new(certificates.clone())?,
            certificates,
            passthrough: HashMap::new(),
            streams: None,
            model: None,
            asks_certificate: HashMap::new(),
        })
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

fn asks_certificate(listener: &Listener) -> HashMap<String, bool> {
    let hosts = listener.hosts.iter();
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
        Target::Invalid(why) => ServedTarget::Invalid(why.clone()),
    };
    let targets = route.targets.iter();
    let mirrors = route.policy.mirrors.iter();
    let pages = route.policy.error_pages.as_ref();
    ServedRoute {
        targets: targets.map(|weighted| target(&weighted.target)).collect(),
        canary: route
            .canary
            .as_ref()
            .map(|canary| (canary.rules.clone(), target(&canary.target))),
        error_pages: pages.map(|pages| upstreams.ensure(&pages.upstream)),
        mirrors: mirrors
            .map(|mirror| (upstreams.ensure(&mirror.upstream), mirror.share))
            .collect(),
        authenticator: None,
        limiter: None,
        listener_stats: None,
        stats,
        plan: None,
        route: route.clone(),
    }
}

/// Endpoints of a backend and their weights.
pub type Endpoints = BTreeMap<SocketAddr, u32>;
