//! Sends spans to a collector, in batches (OTLP over HTTP, with protobuf).

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceResponse, resource::v1::Resource,
};
use prost::Message as _;
use tokio::{
    sync::{mpsc::Receiver, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use super::{Counts, otlp, record::Record};
use crate::fetch::Fetch;

/// Largest batch, in requests.
const BATCH: usize = 512;
/// How long the first request of a batch waits for others.
const DELAY: Duration = Duration::from_secs(2);
/// Pause after a failed export; it doubles with each failure up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) enum ExportMessage {
    Record(Box<Record>),
    /// Requests a reply once all earlier records are exported.
    Flush(oneshot::Sender<()>),
}

/// Exports requests to a collector. While that fails, one batch and a full queue are kept.
pub(super) struct Exporter {
    pub(super) messages: Receiver<ExportMessage>,
    pub(super) fetch: Fetch,
    pub(super) url: Uri,
    pub(super) resource: Resource,
    pub(super) counts: Arc<Counts>,
    /// Whether the last export failed, which was logged.
    pub(super) is_failing: bool,
}

#[derive(Default)]
struct SpanBatch {
    records: Vec<Record>,
    flush: Option<oneshot::Sender<()>>,
}

/// The response of a collector.
enum ExportResult {
    /// It accepted all spans but `refused`.
    Accepted { refused: u64 },
    /// It refused all spans.
    Refused(StatusCode),
    /// It asks to retry, possibly after a pause.
    Busy(StatusCode, Option<Duration>),
}

impl Exporter {
    /// Runs until the last sender is dropped.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.batch().await {
            if !batch.records.is_empty() {
                self.export(&batch.records).await;
            }
            if let Some(done) = batch.flush {
                // The receiver may have timed out.
                let _gone = done.send(());
            }
        }
    }

    async fn batch(&mut self) -> Option<SpanBatch> {
        let mut batch = SpanBatch::default();
        let mut end = None;
        while batch.records.len() < BATCH {
            let message = match end {
                None => self.messages.recv().await,
                Some(end) => match timeout_at(end, self.messages.recv()).await {
                    Ok(message) => message,
                    Err(_over) => break,
                },
            };
            match message {
                None if batch.records.is_empty() => return None,
                None => break,
                Some(ExportMessage::Record(record)) => batch.records.push(*record),
                Some(ExportMessage::Flush(done)) => {
                    batch.flush = Some(done);
                    break;
                }
            }
            end.get_or_insert_with(|| Instant::now() + DELAY);
        }
        Some(batch)
    }

    /// Sends a batch until the collector accepts or refuses it.
    async fn export(&mut self, records: &[Record]) {
        let spans = records.iter().map(|record| record.count_spans()).sum();
        let request = otlp::request(&self.resource, records);
        let bytes = Bytes::from(request.encode_to_vec());
        let mut wait = FIRST_WAIT;
        loop {
            let pause = match self.post(bytes.clone()).await {
                Ok(ExportResult::Accepted { refused }) => {
                    return self.accepted(spans, refused);
                }
                Ok(ExportResult::Refused(status)) => {
                    self.report_failure(&format!("status {status}"));
                    self.counts.refused.fetch_add(spans, Relaxed);
                    return;
                }
                Ok(ExportResult::Busy(status, pause)) => {
                    self.report_failure(&format!("status {status}"));
                    pause
                }
                Err(error) => {
                    self.report_failure(&format!("{error:#}"));
                    None
                }
            };
            sleep(pause.unwrap_or(wait).clamp(FIRST_WAIT, LAST_WAIT)).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    async fn post(&self, bytes: Bytes) -> Result<ExportResult> {
        let request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(bytes))?;
        Ok(interpret(&self.fetch.send(request).await?))
    }

    fn accepted(&mut self, spans: u64, refused: u64) {
        let refused = refused.min(spans);
        self.counts.exported.fetch_add(spans - refused, Relaxed);
        self.counts.refused.fetch_add(refused, Relaxed);
        if mem::take(&mut self.is_failing) {
            let dropped = self.counts.dropped.load(Relaxed);
            info!(url = %self.url, dropped, "the collector accepts spans again");
        }
    }

    /// Logs the first failure after a success.
    fn report_failure(&mut self, why: &str) {
        if !mem::replace(&mut self.is_failing, true) {
            warn!(url = %self.url, reason = why, "the collector does not accept spans");
        }
    }
}

/// Interprets a response (OTLP 1.x, "OTLP/HTTP Response").
fn interpret(response: &Response<Bytes>) -> ExportResult {
    let status = response.status();
    match status {
        _ if status.is_success() => {
            let message = ExportTraceServiceResponse::decode(response.body().clone());
            let partly = message.unwrap_or_default().partial_success;
            let refused = partly.map_or(0, |partly| partly.rejected_spans);
            ExportResult::Accepted {
                refused: refused.try_into().unwrap_or(0),
            }
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let pause = response.headers().get(header::RETRY_AFTER);
            let pause = pause.and_then(|pause| pause.to_str().ok()?.parse().ok());
            ExportResult::Busy(status, pause.map(Duration::from_secs))
        }
        _ => ExportResult::Refused(status),
    }
}
