//! Prometheus metrics, under kube-proxy's names where the meaning is the same.

mod maps;

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use headgate_control::{Kind, Pass, Status};
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
use tokio::sync::{mpsc, watch};

type Codes = Family<[(&'static str, String); 1], Counter>;

/// What is counted as it happens; the rest is taken from the status when asked.
#[derive(Clone)]
pub(crate) struct Metrics {
    pins: PathBuf,
    max_series: usize,
    statuses: watch::Receiver<Status>,
    passes: Histogram,
    latencies: Histogram,
    errors: Counter,
    healthz: Codes,
    livez: Codes,
}

/// kube-proxy's buckets for the time from a change of endpoints to having programmed it: fine up to
/// a minute, coarse up to five.
fn latency_buckets() -> impl Iterator<Item = f64> {
    let quarters = (1..=2).map(|step| f64::from(step) * 0.25);
    let seconds = (1..60).map(f64::from);
    let minute = (60..120).step_by(5).map(f64::from);
    let minutes = (120..=300).step_by(30).map(f64::from);
    quarters.chain(seconds).chain(minute).chain(minutes)
}

impl Metrics {
    /// Counters of the maps below `pins` are told of `max_series` services and backends one by one.
    pub(crate) fn new(
        pins: &std::path::Path,
        max_series: usize,
        statuses: watch::Receiver<Status>,
    ) -> Self {
        Self {
            pins: pins.into(),
            max_series,
            statuses,
            // From 1 ms to 16 s, as kube-proxy's.
            passes: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            latencies: Histogram::new(latency_buckets()),
            errors: Counter::default(),
            healthz: Codes::default(),
            livez: Codes::default(),
        }
    }

    /// Takes note of passes until the loop ends.
    pub(crate) async fn follow(self, mut passes: mpsc::UnboundedReceiver<Pass>) {
        while let Some(pass) = passes.recv().await {
            self.passes.observe(pass.took.as_secs_f64());
            for latency in pass.latencies {
                self.latencies.observe(latency.as_secs_f64());
            }
            self.errors.inc_by(pass.failures as u64);
        }
    }

    pub(crate) fn count_healthz(&self, code: u16) {
        self.healthz.get_or_create(&label(code)).inc();
    }

    pub(crate) fn count_livez(&self, code: u16) {
        self.livez.get_or_create(&label(code)).inc();
    }

    /// All of them in the text format. Reads the maps, which takes a while.
    pub(crate) fn text(&self) -> Result<String> {
        let status = Arc::new(self.statuses.borrow().clone());
        let mut registry = Registry::default();
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time from taking up changes to having written them",
            self.passes.clone(),
        );
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            "Time from a change of endpoints to having programmed it",
            self.latencies.clone(),
        );
        registry.register(
            "headgate_sync_errors",
            "Changes that failed, counted each time they are tried",
            self.errors.clone(),
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
        registry.register(
            "headgate_synced",
            "1 when the maps are what a full list of the source asks for",
            ConstGauge::new(i64::from(status.is_synced)),
        );
        maps::register(&mut registry, &self.pins, self.max_series)?;
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn label(code: u16) -> [(&'static str, String); 1] {
    [("code", code.to_string())]
}
