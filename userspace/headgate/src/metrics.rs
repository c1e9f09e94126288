//! Prometheus metrics, under kube-proxy's names where the meaning is the same.

use std::sync::Arc;

use headgate_control::{Kind, Status};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::sync::watch;

type Codes = Family<[(&'static str, String); 1], Counter>;

/// What is counted as it happens; the rest is taken from the status when asked.
#[derive(Clone)]
pub(crate) struct Metrics {
    statuses: watch::Receiver<Status>,
    passes: Histogram,
    healthz: Codes,
    livez: Codes,
}

impl Metrics {
    pub(crate) fn new(statuses: watch::Receiver<Status>) -> Self {
        Self {
            statuses,
            // From 1 ms to 16 s, as kube-proxy's.
            passes: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            healthz: Codes::default(),
            livez: Codes::default(),
        }
    }

    /// Takes note of passes until the loop ends.
    pub(crate) async fn follow(self) {
        let mut statuses = self.statuses.clone();
        while statuses.changed().await.is_ok() {
            if let Some((_, took)) = statuses.borrow_and_update().last_pass {
                self.passes.observe(took.as_secs_f64());
            }
        }
    }

    pub(crate) fn count_healthz(&self, code: u16) {
        self.healthz.get_or_create(&label(code)).inc();
    }

    pub(crate) fn count_livez(&self, code: u16) {
        self.livez.get_or_create(&label(code)).inc();
    }

    /// All of them in the text format.
    pub(crate) fn text(&self) -> String {
        let status = Arc::new(self.statuses.borrow().clone());
        let mut registry = Registry::default();
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time from taking up changes to having written them",
            self.passes.clone(),
        );
        let last = status.last_pass.and_then(|(at, _)| {
            let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(since.as_secs_f64())
        });
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When changes were last written",
            ConstGauge::new(last.unwrap_or(0.0)),
        );
        for (name, kind) in [
            ("kubeproxy_sync_proxy_rules_service_changes", Kind::Service),
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes",
                Kind::EndpointSlice,
            ),
        ] {
            let count = status.events.get(&kind).copied().unwrap_or(0);
            registry.register(name, "Changes told by the source", ConstCounter::new(count));
        }
        registry.register(
            "kubeproxy_proxy_healthz",
            "Answers of /healthz by status code",
            self.healthz.clone(),
        );
        registry.register(
            "kubeproxy_proxy_livez",
            "Answers of /livez by status code",
            self.livez.clone(),
        );
        for (name, help, value) in [
            ("headgate_services", "Services in the maps", status.services),
            ("headgate_backends", "Backends in the maps", status.backends),
            (
                "headgate_frontends",
                "Frontends in the maps",
                status.frontends,
            ),
            (
                "headgate_refusals",
                "What was asked for and is refused",
                status.refusals.len(),
            ),
            (
                "headgate_failures",
                "Changes that failed and are tried again",
                status.failures.len(),
            ),
        ] {
            registry.register(name, help, ConstGauge::new(value as i64));
        }
        registry.register(
            "headgate_repaired",
            "Map entries that somebody else changed",
            ConstCounter::new(status.repaired),
        );
        let is_connected = status.disconnected.is_none();
        registry.register(
            "headgate_source_connected",
            "1 while the source can be reached",
            ConstGauge::new(i64::from(is_connected)),
        );
        let mut text = String::new();
        // Writing to a string does not fail.
        let _infallible = encode(&mut text, &registry);
        text
    }
}

fn label(code: u16) -> [(&'static str, String); 1] {
    [("code", code.to_string())]
}
