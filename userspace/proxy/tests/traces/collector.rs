//! A collector of spans (OTLP over HTTP).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, response::IntoResponse, routing::post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use tokio::net::TcpSocket;

/// How it responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Taking,
    Busy,
    Refusing,
    Silent,
}

/// A collector. Its address stays reserved while it does not listen.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    socket: Option<TcpSocket>,
    state: Arc<Mutex<Kept>>,
}

struct Kept {
    mood: Mood,
    asked: usize,
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
}

impl Collector {
    pub(crate) fn away() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let kept = Kept {
            mood: Mood::Taking,
            asked: 0,
            spans: Vec::new(),
            resource: BTreeMap::new(),
        };
        Self {
            address: socket.local_addr().unwrap(),
            socket: Some(socket),
            state: Arc::new(Mutex::new(kept)),
        }
    }

    pub(crate) fn listen(&mut self) {
        let listener = self.socket.take().unwrap().listen(16).unwrap();
        let app = Router::new()
            .route("/v1/traces", post(take))
            .with_state(self.state.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
    }

    pub(crate) fn listening(mood: Mood) -> Self {
        let mut collector = Self::away();
        collector.set(mood);
        collector.listen();
        collector
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// Returns the number of export requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.state.lock().unwrap().spans.clone()
    }

    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        self.state.lock().unwrap().resource.clone()
    }

    /// Returns the only span of a kind.
    pub(crate) fn one(&self, kind: SpanKind) -> Span {
        let spans = self.spans();
        let mut of_kind = spans.iter().filter(|span| span.kind() == kind);
        let found = of_kind.next().unwrap_or_else(|| panic!("{spans:#?}"));
        assert_eq!(of_kind.next(), None);
        found.clone()
    }
}

async fn take(
    State(state): State<Arc<Mutex<Kept>>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let mood = {
        let mut state = state.lock().unwrap();
        state.asked += 1;
        state.mood
    };
    let status = match mood {
        Mood::Taking => StatusCode::OK,
        Mood::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Mood::Refusing => StatusCode::BAD_REQUEST,
        Mood::Silent => std::future::pending().await,
    };
    if mood == Mood::Taking {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let mut state = state.lock().unwrap();
        for of_resource in request.resource_spans {
            state.resource = attributes(&of_resource.resource.unwrap().attributes);
            let scopes = of_resource.scope_spans.into_iter();
            state.spans.extend(scopes.flat_map(|scope| scope.spans));
        }
    }
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    (status, [("content-type", "application/x-protobuf")], answer)
}

/// Returns attributes as texts.
pub(crate) fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let texts = all.iter().map(|one| {
        let value = one.value.as_ref().unwrap().value.as_ref().unwrap();
        let text = match value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (one.key.clone(), text)
    });
    texts.collect()
}
