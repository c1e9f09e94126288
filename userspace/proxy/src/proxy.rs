//! The proxy: its settings, its routes and the endpoints of their backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use arc_swap::ArcSwap;
use headgate_model::{
    Refusal,
    edge::{Edge, GatewayPort, UpstreamKey},
};
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::{
    access_log::AccessLog,
    reach::Reach,
    serving::{Endpoints, Serving},
    stats::{Answers, Counted},
    trace::{SpanCounts, Tracer},
    upstream::{UpstreamState, Upstreams},
};

/// Settings that apply to all routes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks of proxies whose `X-Forwarded-…` headers and traces are trusted.
    pub trusted: Vec<IpNet>,
    /// Networks of load balancers whose connections begin with a header of the PROXY protocol.
    pub proxy_protocol: Vec<IpNet>,
    /// Networks that guards may ask although only the node can reach them, e.g. its loopback.
    pub auth_local: Vec<IpNet>,
    /// Ports of the node on which this proxy serves clients: guards may ask its own services there.
    pub public_ports: Vec<u16>,
    /// The access log.
    pub log: Option<Arc<AccessLog>>,
    /// Exports traces.
    pub tracer: Option<Tracer>,
    /// The number of [workers](crate::work); others may serve as well, but share their connections.
    pub workers: usize,
    /// Limit of concurrent client connections over all listeners. Connections beyond it wait.
    pub max_connections: usize,
    /// Longest time for the head of a request, and longest idle time of a client connection.
    pub head_timeout: Duration,
    /// Longest silence of a client in the body of a request that has no response yet.
    pub body_timeout: Duration,
    /// Longest time that a client may accept no data that it is sent (`TCP_USER_TIMEOUT`).
    pub answer_timeout: Duration,
}

impl Default for Settings {
    /// Trusts no proxy, and logs and traces nothing. Limits are those of ingress-nginx.
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            proxy_protocol: Vec::new(),
            auth_local: Vec::new(),
            public_ports: vec![80, 443],
            log: None,
            tracer: None,
            workers: 0,
            max_connections: 16_384,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(60),
        }
    }
}

impl Settings {
    /// Whether connections of `peer` begin with a header of the PROXY protocol.
    pub(crate) fn has_proxy_header(&self, peer: IpAddr) -> bool {
        self.proxy_protocol
            .iter()
            .any(|network| network.contains(&peer))
    }
}

/// An HTTP proxy: routes, endpoints and settings. Share it in an [`Arc`].
#[derive(Debug)]
pub struct Proxy {
    pub(crate) settings: Settings,
    pub(crate) serving: Arc<ArcSwap<Serving>>,
    upstreams: Upstreams,
    /// One permit for each connection of a client.
    pub(crate) connections: Arc<Semaphore>,
}

impl Proxy {
    /// Makes a proxy without routes: it responds 404 to every request.
    ///
    /// # Errors
    ///
    /// Fails if no self-signed certificate can be made.
    pub fn new(settings: Settings) -> Result<Self> {
        let reach = Reach::beyond_node(settings.auth_local.clone(), settings.public_ports.clone());
        let serving = Arc::new(ArcSwap::from_pointee(Serving::new(reach)?));
        let workers = settings.workers;
        Ok(Self {
            connections: Arc::new(Semaphore::new(
                settings.max_connections.min(Semaphore::MAX_PERMITS),
            )),
            settings,
            serving,
            upstreams: Upstreams::new(workers),
        })
    }

    /// Serves these listeners from the next request on. Returns what it refused of them, e.g. an invalid
    /// certificate. Upstreams that no route names are dropped.
    pub fn serve(&self, edge: &Edge) -> Vec<Refusal> {
        let (next, refusals) = self.serving.load().update(edge, &self.upstreams);
        self.serving.store(Arc::new(next));
        let used: BTreeSet<&UpstreamKey> = edge.upstreams().collect();
        self.upstreams.retain(|key| used.contains(key));
        refusals
    }

    /// Sets the endpoints of a backend, from the next request on.
    pub fn place(&self, key: &UpstreamKey, endpoints: &Endpoints) {
        self.upstreams.update(key, endpoints);
    }

    /// Returns the ports of this node at which connections for ports of Gateways arrive, see
    /// [`Self::listen_for`].
    pub fn gateway_ports(&self) -> BTreeMap<u16, GatewayPort> {
        self.serving.load().target_ports()
    }

    /// Returns the state of every backend.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        self.upstreams.snapshot()
    }

    /// Returns the number of open connections of clients, also of upgraded ones and of those that are passed
    /// through.
    pub fn open_connections(&self) -> usize {
        let most = self.settings.max_connections.min(Semaphore::MAX_PERMITS);
        most.saturating_sub(self.connections.available_permits())
    }

    /// Returns the response counters of every Ingress, every rule and every listener.
    pub fn answers(&self) -> Vec<(Counted, Answers)> {
        let serving = self.serving.load();
        let stats = serving.stats.iter();
        stats
            .map(|(counted, stats)| (counted.clone(), stats.read()))
            .collect()
    }

    /// Returns the numbers of spans; `None` if requests are not traced.
    pub fn spans(&self) -> Option<SpanCounts> {
        self.settings.tracer.as_ref().map(Tracer::counts)
    }

    /// Writes the lines of the access log, and exports queued spans, if the collector accepts them within 5 s.
    pub async fn flush(&self) {
        if let Some(log) = &self.settings.log {
            log.flush();
        }
        if let Some(tracer) = &self.settings.tracer {
            tracer.flush().await;
        }
    }
}
