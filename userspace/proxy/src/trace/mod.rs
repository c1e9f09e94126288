//! Traces: which request of which service led to which other one (W3C Trace Context), told to a
//! collector (OTLP).
//!
//! ```text
//! headers ─► Trace, as long as the request ─► Record ─► queue ─► batches ─► spans ─► collector
//! (context)                                              └── full: dropped, and counted
//! ```
//!
//! What a request does here is to note down what it has at hand anyhow; spans are made of that
//! later, by a task that nobody waits for.

mod context;
mod export;
mod otlp;
mod record;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::{HeaderName, Uri, request::Parts};
use ipnet::IpNet;
use tokio::{
    sync::{
        mpsc::{self, Sender},
        oneshot,
    },
    time::timeout,
};

use crate::fetch::Fetch;

use context::SpanContext;
use export::{ExportMessage, Exporter};
use record::Record;

pub(crate) use record::{Arrival, Routed, Trace};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long the last spans may take.
const FLUSH: Duration = Duration::from_secs(5);

/// Which requests are told to whom.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// Where a collector takes OTLP over HTTP: what comes before `/v1/traces`.
    pub endpoint: Uri,
    /// Share of the traces that begin here which is told, from 0 to 1. Others follow their parent.
    pub rate: f64,
    /// The name of this node.
    pub node: String,
    /// Requests that may wait to be told. More of them are dropped.
    pub max_waiting: usize,
}

impl TraceSettings {
    /// Tells all of it.
    pub fn new(endpoint: Uri, node: &str) -> Self {
        Self {
            endpoint,
            rate: 1.0,
            node: node.into(),
            max_waiting: 4096,
        }
    }
}

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// The collector took them.
    pub exported: u64,
    /// There was no room for them while the collector was away or slow.
    pub dropped: u64,
    /// The collector did not want them.
    pub refused: u64,
}

/// Traces requests.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<TracerState>);

#[derive(Debug)]
struct TracerState {
    /// Traces with an id below it are told, as in `TraceIdRatioBased` of the OpenTelemetry SDKs:
    /// those that begin elsewhere by the same rule are the same.
    bound: u64,
    messages: Sender<ExportMessage>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
}

impl Tracer {
    /// Begins to export, as a task of the runtime that this is called in.
    pub fn start(settings: &TraceSettings) -> Result<Self> {
        let (messages, waiting) = mpsc::channel(settings.max_waiting);
        let counts = Arc::<Counts>::default();
        let base = settings.endpoint.to_string();
        let url = format!("{}/v1/traces", base.trim_end_matches('/'));
        let url = url.parse().with_context(|| format!("no URL: {url}"))?;
        let exporter = Exporter {
            messages: waiting,
            fetch: Fetch::new(None)?,
            url,
            resource: otlp::resource(&settings.node),
            counts: counts.clone(),
            is_away: false,
        };
        tokio::spawn(exporter.run());
        Ok(Self(Arc::new(TracerState {
            bound: (settings.rate * (1_u64 << 63) as f64) as u64,
            messages,
            counts,
        })))
    }

    /// What became of spans so far.
    pub(crate) fn counts(&self) -> SpanCounts {
        let counts = &self.0.counts;
        SpanCounts {
            exported: counts.exported.load(Relaxed),
            dropped: counts.dropped.load(Relaxed),
            refused: counts.refused.load(Relaxed),
        }
    }

    /// Tells what waits, if the collector takes it in a few seconds.
    pub(crate) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let flushed = timeout(FLUSH, async {
            self.0
                .messages
                .send(ExportMessage::Flush(done))
                .await
                .ok()?;
            is_done.await.ok()
        });
        if flushed.await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }

    /// Begins the trace of a request, unless its route has none: the client's if that is to be
    /// believed, else a new one. Its headers name it to backends.
    pub(crate) fn begin(
        &self,
        arrival: Arrival,
        routed: Option<Routed<'_>>,
        trusted: &[IpNet],
        parts: &mut Parts,
    ) -> Option<Trace> {
        let policy = routed.map(|routed| &routed.route.policy);
        if policy.is_some_and(|policy| !policy.traces) {
            return None;
        }
        let peer = arrival.peer.ip();
        let is_believed = policy.is_none_or(|policy| policy.trusts_traces)
            || trusted.iter().any(|network| network.contains(&peer));
        let parent = is_believed
            .then(|| SpanContext::of(&parts.headers))
            .flatten();
        let context = match parent {
            Some(parent) => parent.next(),
            None => {
                parts.headers.remove(TRACESTATE);
                let trace = fastrand::u128(1..);
                SpanContext::new(trace, self.samples(trace))
            }
        };
        let is_sampled = context.is_sampled();
        if is_sampled || parent.is_none() {
            // A parent that is not told stays the parent of whatever comes behind us.
            context.tell(&mut parts.headers);
        }
        let record = is_sampled.then(|| Record::new(context, parent, arrival, routed, parts));
        let told = record.map(|record| (self.clone(), Box::new(record)));
        Some(Trace::new(context.trace, told))
    }

    fn samples(&self, trace: u128) -> bool {
        (trace as u64) >> 1 < self.0.bound
    }

    fn push(&self, record: Box<Record>) {
        let spans = record.spans();
        if self
            .0
            .messages
            .try_send(ExportMessage::Record(record))
            .is_err()
        {
            self.0.counts.dropped.fetch_add(spans, Relaxed);
        }
    }
}
