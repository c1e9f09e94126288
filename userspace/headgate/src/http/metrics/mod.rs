//! Prometheus metrics of the agent, under kube-proxy's names where the meaning is the same.

mod maps;
mod scrape;

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::Result;
use headgate_control::{Kind, Pass, Status};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::sync::{mpsc, watch};

pub(crate) use scrape::{Labels, Metric, Reader, Scrape};

type Codes = Family<[(&'static str, String); 1], Counter>;

const COUNTERS: [Reader<Status>; 3] = [
    Reader {
        name: "kubeproxy_sync_proxy_rules_service_changes",
        help: "Changes of Services from the source.",
        read: |status| events(status, Kind::Service),
    },
    Reader {
        name: "kubeproxy_sync_proxy_rules_endpoint_changes",
        help: "Changes of EndpointSlices from the source.",
        read: |status| events(status, Kind::EndpointSlice),
    },
    Reader {
        name: "headgate_repaired",
        help: "Map entries that another program changed, and the agent repaired.",
        read: |status| status.repaired,
    },
];

const GAUGES: [Reader<Status>; 8] = [
    Reader {
        name: "headgate_services",
        help: "Services in the maps.",
        read: |status| status.services as u64,
    },
    Reader {
        name: "headgate_backends",
        help: "Backends in the maps.",
        read: |status| status.backends as u64,
    },
    Reader {
        name: "headgate_frontends",
        help: "Frontends in the maps.",
        read: |status| status.frontends as u64,
    },
    Reader {
        name: "headgate_gateway_listeners",
        help: "TCP and UDP listeners of Gateways that are served.",
        read: |status| status.listeners.len() as u64,
    },
    Reader {
        name: "headgate_refusals",
        help: "Fields of objects that are refused.",
        read: |status| status.refusals.len() as u64,
    },
    Reader {
        name: "headgate_failures",
        help: "Changes that failed and are retried.",
        read: |status| status.failures.len() as u64,
    },
    Reader {
        name: "headgate_source_connected",
        help: "1 while the source is reachable.",
        read: |status| status.source.disconnected.is_none().into(),
    },
    Reader {
        name: "headgate_synced",
        help: "1 while the maps hold all that the completely listed source asks for.",
        read: |status| status.is_synced.into(),
    },
];

fn events(status: &Status, kind: Kind) -> u64 {
    status.source.events.get(&kind).copied().unwrap_or(0)
}

/// Metrics that are counted as they happen, and the sources of the others.
#[derive(Clone)]
pub(crate) struct Metrics {
    pins: PathBuf,
    max_series: usize,
    most_map_bytes: u64,
    statuses: watch::Receiver<Status>,
    passes: Histogram,
    latencies: Histogram,
    errors: Counter,
    healthz: Codes,
    livez: Codes,
}

/// kube-proxy's buckets for the time from a change of endpoints to having programmed it, in seconds:
/// fine up to a minute, coarse up to five.
fn latency_buckets() -> impl Iterator<Item = f64> {
    let quarters = (1..=2).map(|step| f64::from(step) * 0.25);
    let seconds = (1..60).map(f64::from);
    let minute = (60..120).step_by(5).map(f64::from);
    let minutes = (120..=300).step_by(30).map(f64::from);
    quarters.chain(seconds).chain(minute).chain(minutes)
}

impl Metrics {
    /// `max_series` Services, and backends, have series of their own.
    /// The maps may take `most_map_bytes` of memory.
    pub(crate) fn new(
        pins: &Path,
        max_series: usize,
        most_map_bytes: u64,
        statuses: watch::Receiver<Status>,
    ) -> Self {
        Self {
            pins: pins.into(),
            max_series,
            most_map_bytes,
            statuses,
            // From 1 ms to 16 s, as kube-proxy's.
            passes: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            latencies: Histogram::new(latency_buckets()),
            errors: Counter::default(),
            healthz: Codes::default(),
            livez: Codes::default(),
        }
    }

    /// Counts passes until the loop ends.
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

    /// All metrics in the text format. Reads the maps, which takes a while.
    pub(crate) fn text(&self) -> Result<String> {
        let mut registry = Registry::default();
        self.register_counted(&mut registry);
        let mut metrics = status(&self.statuses.borrow().clone());
        metrics.extend(maps::read(&self.pins, self.max_series)?);
        metrics.push(Metric::gauge(
            "headgate_map_memory_limit_bytes",
            "Memory that the maps may take as they become larger, in bytes (--max-map-memory).",
            [(Vec::new(), self.most_map_bytes as i64)],
        ));
        registry.register_collector(Box::new(Scrape(metrics)));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    /// Registers what is counted as it happens. The registry adds the period to each help.
    fn register_counted(&self, registry: &mut Registry) {
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Duration of a pass, which writes changes to the maps",
            self.passes.clone(),
        );
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            "Time from a change of endpoints until it is programmed",
            self.latencies.clone(),
        );
        registry.register(
            "headgate_sync_errors",
            "Changes that failed; every retry counts",
            self.errors.clone(),
        );
        registry.register(
            "kubeproxy_proxy_healthz",
            "Responses of /healthz by status code",
            self.healthz.clone(),
        );
        registry.register(
            "kubeproxy_proxy_livez",
            "Responses of /livez by status code",
            self.livez.clone(),
        );
    }
}

/// Metrics of the agent's status.
fn status(status: &Status) -> Vec<Metric> {
    let last = status.last_pass.and_then(|(at, _)| {
        let since = at.duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    });
    let mut metrics = vec![Metric::time(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "Time of the last pass, in seconds since 1970.",
        last.unwrap_or(0.0),
    )];
    metrics.extend(Metric::counters(&COUNTERS, status));
    metrics.extend(Metric::gauges(&GAUGES, status));
    metrics
}

fn label(code: u16) -> [(&'static str, String); 1] {
    [("code", code.to_string())]
}
