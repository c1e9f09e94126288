//! Spans as OTLP messages, with names and attributes of the semantic conventions of OpenTelemetry
//! for HTTP (1.29).
//!
//! `url.query`, and the query in `url.full`, are left out: queries often contain secrets.

use std::time::{SystemTime, UNIX_EPOCH};

use headgate_model::edge::{PathMatch, Route, RouteKind};
use http::{Method, StatusCode, Version};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, SpanFlags, Status, span::SpanKind,
        status::StatusCode as SpanStatus,
    },
};

use super::record::{Attempt, Record, RouteRecord};
use crate::upstream::ErrorKind;

const NAME: &str = "headgate-proxy";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// `error.type` of a request whose client closed before the response.
const CANCELLED: &str = "cancelled";

/// Returns the resource that all spans belong to: the proxy on this node.
pub(super) fn resource(node: &str) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text("service.name", NAME);
    attributes.text("service.version", VERSION);
    attributes.text("k8s.node.name", node);
    Resource {
        attributes: attributes.0,
        ..Resource::default()
    }
}

/// Returns the message to a collector.
pub(super) fn request(resource: &Resource, records: &[Record]) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: NAME.into(),
        version: VERSION.into(),
        ..InstrumentationScope::default()
    };
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans: records.iter().flat_map(spans).collect(),
        ..ScopeSpans::default()
    };
    let resource_spans = ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![resource_spans],
    }
}

/// Returns a server span for the request, and a client span for each attempt.
fn spans(record: &Record) -> Vec<Span> {
    let attempts = record.attempts();
    let client_spans = attempts.iter().enumerate();
    let client_spans = client_spans.map(|(number, attempt)| client_span(record, attempt, number));
    std::iter::once(server_span(record))
        .chain(client_spans)
        .collect()
}

fn server_span(record: &Record) -> Span {
    let mut attributes = Attributes::default();
    attributes.method(&record.method);
    attributes.text("url.path", &record.path);
    attributes.text("url.scheme", scheme(record.is_secure));
    attributes.number("server.port", record.port);
    attributes.text("network.peer.address", &record.peer.ip().to_string());
    attributes.number("network.peer.port", record.peer.port());
    attributes.text("network.protocol.version", version(record.version));
    if !record.agent.is_empty() {
        attributes.text("user_agent.original", &record.agent);
    }
    let mut name = method(&record.method).unwrap_or("HTTP").to_owned();
    if let Some(RouteRecord {
        route,
        host,
        client,
    }) = &record.routed
    {
        let path = http_route(route);
        name += &format!(" {path}");
        attributes.text("server.address", host);
        attributes.text("client.address", &client.to_string());
        attributes.text("http.route", &path);
        match route.origin.kind {
            RouteKind::Ingress => {
                attributes.text("headgate.ingress", &route.origin.name.to_string());
            }
            _ => attributes.text("headgate.route", &route.origin.to_string()),
        }
    }
    if let Some(status) = record.status {
        attributes.number("http.response.status_code", status.as_u16());
    }
    let error = match record.status {
        // An error of the client (4xx) is not an error of a server span.
        Some(status) if status.is_server_error() => Some(status.as_str().to_owned()),
        Some(_) => None,
        None => Some(CANCELLED.into()),
    };
    let parent = record.parent.as_ref();
    let is_remote = match parent {
        Some(_) => SpanFlags::ContextIsRemoteMask as u32,
        None => 0,
    };
    Span {
        name,
        kind: SpanKind::Server.into(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| id(parent.span)),
        start_time_unix_nano: nanoseconds(record.begin),
        end_time_unix_nano: nanoseconds(record.begin + record.took),
        ..span(record, record.context.span, is_remote, attributes, error)
    }
}

fn client_span(record: &Record, attempt: &Attempt, number: usize) -> Span {
    let scheme = scheme(attempt.upstream.policy.protocol.is_tls());
    let mut attributes = Attributes::default();
    attributes.method(&record.method);
    attributes.text("server.address", &attempt.endpoint.ip().to_string());
    attributes.number("server.port", attempt.endpoint.port());
    let url = format!("{scheme}://{}{}", attempt.endpoint, record.path);
    attributes.text("url.full", &url);
    attributes.text("headgate.service", &attempt.upstream.to_string());
    if number > 0 {
        attributes.number("http.request.resend_count", number);
    }
    if let Some(Ok(status)) = attempt.result {
        attributes.number("http.response.status_code", status.as_u16());
    }
    let is_bad = |status: &StatusCode| status.is_client_error() || status.is_server_error();
    let error = match attempt.result {
        Some(Ok(status)) => Some(status.as_str().to_owned()).filter(|_| is_bad(&status)),
        Some(Err(kind)) => Some(error_type(kind).into()),
        None => Some(CANCELLED.into()),
    };
    let begin = record.begin + attempt.begin;
    let took = attempt
        .took
        .unwrap_or(record.took.saturating_sub(attempt.begin));
    Span {
        name: method(&record.method).unwrap_or("HTTP").into(),
        kind: SpanKind::Client.into(),
        parent_span_id: id(record.context.span),
        start_time_unix_nano: nanoseconds(begin),
        end_time_unix_nano: nanoseconds(begin + took),
        ..span(record, attempt.span, 0, attributes, error)
    }
}

/// Returns the fields of both kinds of spans.
fn span(
    record: &Record,
    span: u64,
    is_remote: u32,
    mut attributes: Attributes,
    error: Option<String>,
) -> Span {
    let status = error.map(|error| {
        attributes.text("error.type", &error);
        Status {
            code: SpanStatus::Error.into(),
            ..Status::default()
        }
    });
    let known = SpanFlags::ContextHasIsRemoteMask as u32;
    Span {
        trace_id: record.context.trace.to_be_bytes().into(),
        span_id: id(span),
        trace_state: record.state.clone(),
        flags: u32::from(record.context.flags) | known | is_remote,
        attributes: attributes.0,
        status,
        ..Span::default()
    }
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: &str) {
        self.add(key, Value::StringValue(value.into()));
    }

    fn number(&mut self, key: &str, value: impl TryInto<i64>) {
        self.add(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }

    fn method(&mut self, used: &Method) {
        self.text("http.request.method", method(used).unwrap_or("_OTHER"));
        if method(used).is_none() {
            self.text("http.request.method_original", used.as_str());
        }
    }

    fn add(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue {
            key: key.into(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
    }
}

/// Returns the name of a standard method; other methods would let clients choose span names.
fn method(method: &Method) -> Option<&str> {
    const KNOWN: [Method; 9] = [
        Method::CONNECT,
        Method::DELETE,
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::POST,
        Method::PUT,
        Method::TRACE,
    ];
    KNOWN.contains(method).then(|| method.as_str())
}

fn http_route(route: &Route) -> String {
    match &route.path {
        PathMatch::Prefix(path) if path.is_empty() => "/".into(),
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.clone(),
        PathMatch::Regex(pattern) => pattern.to_string(),
    }
}

fn scheme(is_secure: bool) -> &'static str {
    if is_secure { "https" } else { "http" }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn error_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Connect => "connect",
        ErrorKind::Tls => "tls",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Broken => "broken",
        ErrorKind::Body => "body",
    }
}

fn id(span: u64) -> Vec<u8> {
    span.to_be_bytes().into()
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
