//! Distributed traces (W3C Trace Context), exported to a collector (OTLP).
//!
//! ```text
//! headers ─► Trace, as long as the request ─► Record ─► queue ─► batches ─► spans ─► collector
//! (context)                                              └── full: dropped, and counted
//! ```
//!
//! A request only records values that it has anyway; a task makes spans of them later, and no request
//! waits for it.

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
use tokio::{
    sync::{
        mpsc::{self, Sender},
        oneshot,
    },
    time::timeout,
};

use crate::{fetch::Fetch, reach::Reach};

use context::SpanContext;
use export::{ExportMessage, Exporter};
use record::Record;

pub(crate) use record::{Arrival, Routed, Trace};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest time for the last spans.
const FLUSH: Duration = Duration::from_secs(5);

/// Settings of a [`Tracer`].
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// URL of a collector of OTLP over HTTP, without `/v1/traces`.
    pub endpoint: Uri,
    /// Sampling ratio of traces that begin here, from 0 to 1. Other traces follow their parent.
    pub rate: f64,
    /// Name of this node.
    pub node: String,
    /// Capacity of the queue, in requests. Requests beyond it are dropped.
    pub max_waiting: usize,
}

impl TraceSettings {
    /// Samples all traces, with a queue of 4,096 requests.
    pub fn new(endpoint: Uri, node: &str) -> Self {
        Self {
            endpoint,
            rate: 1.0,
            node: node.into(),
            max_waiting: 4096,
        }
    }
}

/// Numbers of spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// The collector accepted them.
    pub exported: u64,
    /// The queue was full as the collector failed or was slow.
    pub dropped: u64,
    /// The collector refused them.
    pub refused: u64,
}

/// Traces requests. Clones share one queue and one collector.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<TracerState>);

#[derive(Debug)]
struct TracerState {
    /// Traces with an id below it are sampled, as by `TraceIdRatioBased` of the OpenTelemetry SDKs, so
    /// that all services with the same ratio sample the same traces.
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
    /// Starts the export as a task of the current Tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails if the endpoint with `/v1/traces` is not a URL, or if no TLS client can be made.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    pub fn start(settings: &TraceSettings) -> Result<Self> {
        let (messages, waiting) = mpsc::channel(settings.max_waiting);
        let counts = Arc::<Counts>::default();
        let base = settings.endpoint.to_string();
        let url = format!("{}/v1/traces", base.trim_end_matches('/'));
        let url = url.parse().with_context(|| format!("not a URL: {url}"))?;
        let exporter = Exporter {
            messages: waiting,
            fetch: Fetch::new(None, &Reach::everything())?,
            url,
            resource: otlp::resource(&settings.node),
            counts: counts.clone(),
            is_failing: false,
        };
        tokio::spawn(exporter.run());
        Ok(Self(Arc::new(TracerState {
            bound: (settings.rate * (1_u64 << 63) as f64) as u64,
            messages,
            counts,
        })))
    }

    /// Returns the numbers of spans so far.
    pub(crate) fn counts(&self) -> SpanCounts {
        let counts = &self.0.counts;
        SpanCounts {
            exported: counts.exported.load(Relaxed),
            dropped: counts.dropped.load(Relaxed),
            refused: counts.refused.load(Relaxed),
        }
    }

    /// Exports what is queued, if the collector accepts it within [`FLUSH`].
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
            tracing::warn!("the collector did not accept the last spans in time");
        }
    }

    /// Begins the span of a request unless its route disables traces. The trace is the client's if the
    /// client is trusted with it, else a new one. `traceparent` is set for the backend.
    pub(crate) fn begin(
        &self,
        arrival: Arrival,
        routed: Option<Routed<'_>>,
        parts: &mut Parts,
    ) -> Option<Trace> {
        let policy = routed.map(|routed| &routed.route.policy);
        if policy.is_some_and(|policy| !policy.traces) {
            return None;
        }
        let is_trusted = arrival.is_trusted || policy.is_none_or(|policy| policy.trusts_traces);
        let parent = is_trusted
            .then(|| SpanContext::from_headers(&parts.headers))
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
            // A parent without sampling stays the parent of the backend.
            context.inject(&mut parts.headers);
        }
        let record = is_sampled.then(|| Record::new(context, parent, arrival, routed, parts));
        let record = record.map(|record| (self.clone(), Box::new(record)));
        Some(Trace::new(context.trace, record))
    }

    fn samples(&self, trace: u128) -> bool {
        (trace as u64) >> 1 < self.0.bound
    }

    fn push(&self, record: Box<Record>) {
        let spans = record.count_spans();
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
