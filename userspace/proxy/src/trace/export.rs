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

/// Requests that are told together at most.
const BATCH: usize = 512;
/// How long the first of them waits for others.
const DELAY: Duration = Duration::from_secs(2);
/// How long to wait before a collector is asked again that was away.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) enum ExportMessage {
    Record(Box<Record>),
    /// Says when all that came before was told.
    Flush(oneshot::Sender<()>),
}

/// Tells a collector of requests. While that is away, the batch at hand and a full queue are kept.
pub(super) struct Exporter {
    pub(super) messages: Receiver<ExportMessage>,
    pub(super) fetch: Fetch,
    pub(super) url: Uri,
    pub(super) resource: Resource,
    pub(super) counts: Arc<Counts>,
    /// As far as was said in the log.
    pub(super) is_away: bool,
}

#[derive(Default)]
struct SpanBatch {
    records: Vec<Record>,
    flush: Option<oneshot::Sender<()>>,
}

/// What a collector says.
enum Answer {
    /// It took all but so many.
    Taken { refused: u64 },
    /// It does not want any of them.
    Refused(StatusCode),
    /// Later, perhaps.
    Busy(StatusCode, Option<Duration>),
}

impl Exporter {
    /// Runs until nobody is left who could tell of requests.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.batch().await {
            if !batch.records.is_empty() {
                self.export(&batch.records).await;
            }
            if let Some(done) = batch.flush {
                // Whoever waited may have given up.
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

    /// Tells until the collector has answered.
    async fn export(&mut self, records: &[Record]) {
        let spans = records.iter().map(|record| record.spans()).sum();
        let request = otlp::request(&self.resource, records);
        let bytes = Bytes::from(request.encode_to_vec());
        let mut wait = FIRST_WAIT;
        loop {
            let pause = match self.post(bytes.clone()).await {
                Ok(Answer::Taken { refused }) => {
                    return self.taken(spans, refused);
                }
                Ok(Answer::Refused(status)) => {
                    self.complain(&format!("it answers {status}"));
                    self.counts.refused.fetch_add(spans, Relaxed);
                    return;
                }
                Ok(Answer::Busy(status, pause)) => {
                    self.complain(&format!("it answers {status}"));
                    pause
                }
                Err(error) => {
                    self.complain(&format!("{error:#}"));
                    None
                }
            };
            sleep(pause.unwrap_or(wait).clamp(FIRST_WAIT, LAST_WAIT)).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    async fn post(&self, bytes: Bytes) -> Result<Answer> {
        let request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(bytes))?;
        Ok(answer(&self.fetch.send(request).await?))
    }

    fn taken(&mut self, spans: u64, refused: u64) {
        let refused = refused.min(spans);
        self.counts.exported.fetch_add(spans - refused, Relaxed);
        self.counts.refused.fetch_add(refused, Relaxed);
        if mem::take(&mut self.is_away) {
            let dropped = self.counts.dropped.load(Relaxed);
            info!(
                "the collector at {} takes spans again; dropped so far: {dropped}",
                self.url
            );
        }
    }

    /// Once until it is well again.
    fn complain(&mut self, why: &str) {
        if !mem::replace(&mut self.is_away, true) {
            warn!("the collector at {} does not take spans: {why}", self.url);
        }
    }
}

/// What an answer means (OTLP 1.x, "OTLP/HTTP Response").
fn answer(response: &Response<Bytes>) -> Answer {
    let status = response.status();
    match status {
        _ if status.is_success() => {
            let told = ExportTraceServiceResponse::decode(response.body().clone());
            let partly = told.unwrap_or_default().partial_success;
            let refused = partly.map_or(0, |partly| partly.rejected_spans);
            Answer::Taken {
                refused: refused.try_into().unwrap_or(0),
            }
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let pause = response.headers().get(header::RETRY_AFTER);
            let pause = pause.and_then(|pause| pause.to_str().ok()?.parse().ok());
            Answer::Busy(status, pause.map(Duration::from_secs))
        }
        _ => Answer::Refused(status),
    }
}
