//! The record of a request, written while it is served.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use headgate_model::edge::{Route, UpstreamKey};
use http::{
    HeaderMap, HeaderName, Method, Response, StatusCode, Version, header::USER_AGENT,
    request::Parts,
};

use super::{SpanContext, TRACESTATE, Tracer};
use crate::{
    body::Body,
    upstream::{ErrorKind, Pick, SendError, Upstream},
};

/// Longest recorded text of a client, in bytes. Texts are copied: a shared slice would keep the whole
/// head in memory.
const MAX_TEXT: usize = 1024;
/// Longest `tracestate` that is recorded (W3C Trace Context, 3.3.1.5), in bytes. Backends get any length.
const MAX_STATE: usize = 512;

/// The trace of a request. It is exported when this is dropped, after the response was sent.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) id: u128,
    /// `None` if the trace is not sampled.
    record: Option<(Tracer, Box<Record>)>,
}

/// A request and its response.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) context: SpanContext,
    pub(super) parent: Option<SpanContext>,
    pub(super) state: String,
    pub(super) begin: SystemTime,
    since: Instant,
    pub(super) took: Duration,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) path: String,
    pub(super) agent: String,
    pub(super) is_secure: bool,
    pub(super) peer: SocketAddr,
    pub(super) port: u16,
    pub(super) routed: Option<RouteRecord>,
    /// `None` until the response.
    pub(super) status: Option<StatusCode>,
    attempts: Mutex<Vec<Attempt>>,
}

/// The route of a request, recorded.
#[derive(Debug)]
pub(super) struct RouteRecord {
    pub(super) route: Arc<Route>,
    pub(super) host: String,
    pub(super) client: IpAddr,
}

/// Where and when a request arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) peer: SocketAddr,
    /// The local port.
    pub(crate) port: u16,
    pub(crate) is_secure: bool,
    /// Whether the peer is a trusted proxy.
    pub(crate) is_trusted: bool,
    pub(crate) since: Instant,
}

/// The route, host and client of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routed<'a> {
    pub(crate) route: &'a Arc<Route>,
    pub(crate) host: &'a str,
    pub(crate) client: IpAddr,
}

/// One attempt to send a request.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) span: u64,
    /// Time after the begin of the request.
    pub(super) begin: Duration,
    /// `None` while it lasts; it ends with the request.
    pub(super) took: Option<Duration>,
    pub(super) upstream: UpstreamKey,
    pub(super) endpoint: SocketAddr,
    /// `None` until the response.
    pub(super) result: Option<Result<StatusCode, ErrorKind>>,
}

impl Trace {
    pub(super) fn new(id: u128, record: Option<(Tracer, Box<Record>)>) -> Self {
        Self { id, record }
    }

    /// Begins an attempt, and names it in the headers for the endpoint.
    pub(crate) fn begin_attempt(&self, upstream: &Upstream, pick: &Pick, headers: &mut HeaderMap) {
        let Some((_, record)) = &self.record else {
            return;
        };
        let context = record.context.next();
        context.inject(headers);
        let begin = record.since.elapsed();
        let mut attempts = record.attempts();
        if let Some(last) = attempts.last_mut() {
            last.took.get_or_insert(begin.saturating_sub(last.begin));
        }
        attempts.push(Attempt {
            span: context.span,
            begin,
            took: None,
            upstream: upstream.key().clone(),
            endpoint: pick.address(),
            result: None,
        });
    }

    /// Records the result of the last attempt. One with a response ends with the request.
    pub(crate) fn record_result(&self, result: &Result<Response<Body>, SendError>) {
        let Some((_, record)) = &self.record else {
            return;
        };
        if let Some(last) = record.attempts().last_mut() {
            last.result = Some(match result {
                Ok(response) => Ok(response.status()),
                Err(error) => Err(error.kind),
            });
            let is_over = result.is_err();
            last.took = is_over.then(|| record.since.elapsed().saturating_sub(last.begin));
        }
    }

    /// Records the status of the response.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        if let Some((_, record)) = &mut self.record {
            record.status = Some(status);
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Some((tracer, mut record)) = self.record.take() {
            record.took = record.since.elapsed();
            tracer.push(record);
        }
    }
}

impl Record {
    pub(super) fn new(
        context: SpanContext,
        parent: Option<SpanContext>,
        arrival: Arrival,
        routed: Option<Routed<'_>>,
        parts: &Parts,
    ) -> Self {
        let state = joined(&parts.headers, &TRACESTATE);
        let agent = parts.headers.get(USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        Self {
            context,
            parent,
            state: Some(state)
                .filter(|state| state.len() <= MAX_STATE)
                .unwrap_or_default(),
            begin: SystemTime::now() - arrival.since.elapsed(),
            since: arrival.since,
            took: Duration::ZERO,
            method: parts.method.clone(),
            version: parts.version,
            path: short(parts.uri.path()),
            agent: short(agent.unwrap_or_default()),
            is_secure: arrival.is_secure,
            peer: arrival.peer,
            port: arrival.port,
            routed: routed.map(|routed| RouteRecord {
                route: routed.route.clone(),
                host: routed.host.to_owned(),
                client: routed.client,
            }),
            status: None,
            attempts: Mutex::default(),
        }
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of spans of the record.
    pub(super) fn count_spans(&self) -> u64 {
        1 + self.attempts().len() as u64
    }
}

/// Joins all values of a header.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let fields = headers.get_all(name).iter();
    let texts: Vec<&str> = fields.filter_map(|value| value.to_str().ok()).collect();
    texts.join(",")
}

fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].into()
}
