//! The proxy: its settings, its routes and the endpoints of their backends.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use anyhow::Result;
use arc_swap::ArcSwap;
use headgate_model::{
    NamespacedName, Refusal,
    ingress::{Routes, UpstreamKey},
};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio_rustls::rustls::ServerConfig;

use crate::{
    access_log::AccessLog,
    serving::{CertificateResolver, Endpoints, Serving},
    stats::Answers,
    tls::server::server_config,
    trace::{SpanCounts, Tracer},
    upstream::{UpstreamState, Upstreams},
};

/// What holds for all routes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Proxies whose `X-Forwarded-…` headers are believed.
    pub trusted: Vec<IpNet>,
    /// Load balancers whose connections begin with a header of the PROXY protocol.
    pub proxy_protocol: Vec<IpNet>,
    /// Where requests are logged.
    pub log: Option<Arc<AccessLog>>,
    /// Who tells of requests as parts of traces.
    pub tracer: Option<Tracer>,
    /// Connections of clients at the same time, over all listeners. More of them wait to be accepted.
    pub max_connections: usize,
    /// How long a client may take for the head of a request, and have none.
    pub head_timeout: Duration,
    /// How long a client may be silent in the body of a request that has no answer yet.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what it is sent (`TCP_USER_TIMEOUT`).
    pub answer_timeout: Duration,
}

impl Default for Settings {
    /// Trusts nobody, logs and traces nothing; limits are those of ingress-nginx.
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            proxy_protocol: Vec::new(),
            log: None,
            tracer: None,
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

/// A proxy.
#[derive(Debug)]
pub struct Proxy {
    pub(crate) settings: Settings,
    pub(crate) serving: Arc<ArcSwap<Serving>>,
    upstreams: Upstreams,
    pub(crate) tls: Arc<ServerConfig>,
    /// For hosts that ask clients for a certificate.
    pub(crate) asking_tls: Arc<ServerConfig>,
    /// One permit for each connection of a client.
    pub(crate) connections: Arc<Semaphore>,
}

impl Proxy {
    /// Serves nothing yet. Fails if no certificate can be made.
    pub fn new(settings: Settings) -> Result<Self> {
        let serving = Arc::new(ArcSwap::from_pointee(Serving::new()?));
        Ok(Self {
            connections: Arc::new(Semaphore::new(
                settings.max_connections.min(Semaphore::MAX_PERMITS),
            )),
            settings,
            tls: server_config(Arc::new(CertificateResolver(serving.clone())), false)?,
            asking_tls: server_config(Arc::new(CertificateResolver(serving.clone())), true)?,
            serving,
            upstreams: Upstreams::new(),
        })
    }

    /// Serves these routes from the next request on. What cannot be served is returned.
    pub fn serve(&self, routes: &Routes) -> Vec<Refusal> {
        let (next, refusals) = self.serving.load().update(routes, &self.upstreams);
        self.serving.store(Arc::new(next));
        let used: BTreeSet<&UpstreamKey> = routes.upstreams().collect();
        self.upstreams.retain(|key| used.contains(key));
        refusals
    }

    /// Sends to these endpoints from the next request on.
    pub fn place(&self, key: &UpstreamKey, endpoints: &Endpoints) {
        self.upstreams.update(key, endpoints);
    }

    /// How backends are.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        self.upstreams.snapshot()
    }

    /// What became of requests, by Ingress.
    pub fn answers(&self) -> Vec<(NamespacedName, Answers)> {
        let serving = self.serving.load();
        let stats = serving.stats.iter();
        stats
            .map(|(ingress, stats)| (ingress.clone(), stats.read()))
            .collect()
    }

    /// What became of the spans of requests, if these are traced.
    pub fn spans(&self) -> Option<SpanCounts> {
        self.settings.tracer.as_ref().map(Tracer::counts)
    }

    /// Tells the collector what it was not told yet, if it takes that in a few seconds.
    pub async fn flush_spans(&self) {
        if let Some(tracer) = &self.settings.tracer {
            tracer.flush().await;
        }
    }
}
