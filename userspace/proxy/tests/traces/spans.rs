//! Names, attributes and times of spans.

use std::collections::BTreeMap;

use headgate_model::edge::{Policy, Retry};
use http::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{
    Span, span::SpanKind, status::StatusCode as SpanStatus,
};
use tokio::net::TcpSocket;

use crate::{
    collector::{Collector, Mood, attributes},
    setup::Setup,
};

fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code() == SpanStatus::Error)
}

fn of_kind(setup: &Setup, kind: SpanKind) -> Vec<(Span, BTreeMap<String, String>)> {
    let spans = setup.collector.spans().into_iter();
    let spans = spans.filter(|span| span.kind() == kind);
    spans
        .map(|span| (span.clone(), attributes(&span.attributes)))
        .collect()
}

fn check(found: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    let expected = expected.iter();
    let expected = expected.map(|(key, value)| ((*key).into(), (*value).into()));
    assert_eq!(*found, expected.collect());
}

#[tokio::test]
async fn l91_spans_follow_the_conventions_without_queries() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    setup.place(&setup.backends[..1]);
    setup.pass(&[("user-agent", "me")]).await;
    setup.collected(2).await;

    let (server, mut found) = of_kind(&setup, SpanKind::Server).remove(0);
    assert_eq!(server.name, "GET /shop");
    assert!(!is_error(&server));
    assert!(found.remove("network.peer.port").is_some());
    let port = setup.address.port().to_string();
    check(
        &found,
        &[
            ("client.address", "127.0.0.1"),
            ("headgate.ingress", "shop/main"),
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("http.route", "/shop"),
            ("network.peer.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("server.address", "a.test"),
            ("server.port", &port),
            ("url.path", "/shop/cart"),
            ("url.scheme", "http"),
            ("user_agent.original", "me"),
        ],
    );

    let (client, found) = of_kind(&setup, SpanKind::Client).remove(0);
    assert_eq!(client.name, "GET");
    let backend = setup.backends[0];
    check(
        &found,
        &[
            ("headgate.service", "shop/web:80"),
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("server.address", "127.0.0.1"),
            ("server.port", &backend.port().to_string()),
            ("url.full", &format!("http://{backend}/shop/cart")),
        ],
    );
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.start_time_unix_nano < client.end_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    check(
        &setup.collector.resource(),
        &[
            ("k8s.node.name", "node-a"),
            ("service.name", "headgate-proxy"),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ],
    );
}

#[tokio::test]
async fn l91_each_try_is_a_span_and_parent_of_the_backend() {
    let policy = Policy {
        retry: Retry {
            on_codes: vec![503],
            ..Retry::default()
        },
        ..Policy::default()
    };
    let setup = Setup::new(policy, Collector::listening(Mood::Taking)).await;
    assert_eq!(setup.get("/shop/flaky", &[]).await, StatusCode::OK);
    setup.collected(3).await;
    let server = setup.collector.one(SpanKind::Server);
    assert!(!is_error(&server));
    let tries = of_kind(&setup, SpanKind::Client);
    let [(first, first_found), (second, second_found)] = &tries[..] else {
        panic!("{tries:?}");
    };
    assert!(is_error(first) && !is_error(second));
    assert_eq!(first_found["http.response.status_code"], "503");
    assert_eq!(first_found["error.type"], "503");
    assert_eq!(first_found.get("http.request.resend_count"), None);
    assert_eq!(second_found["http.request.resend_count"], "1");
    assert_ne!(first_found["server.port"], second_found["server.port"]);
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
    for ((span, _), seen) in tries.iter().zip(setup.seen()) {
        assert_eq!(span.parent_span_id, server.span_id);
        let parent = seen["traceparent"].to_str().unwrap();
        let id: String = span
            .span_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(parent.split('-').nth(2), Some(id.as_str()));
    }
}

#[tokio::test]
async fn l91_failures_have_an_error_type() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    // The port is reserved, and no process listens there.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    setup.place(&[socket.local_addr().unwrap()]);
    assert_eq!(setup.get("/shop", &[]).await, StatusCode::BAD_GATEWAY);
    setup.collected(1 + Retry::default().tries as usize).await;
    let (server, found) = of_kind(&setup, SpanKind::Server).remove(0);
    assert!(is_error(&server));
    assert_eq!(found["error.type"], "502");
    for (client, found) in of_kind(&setup, SpanKind::Client) {
        assert!(is_error(&client));
        assert_eq!(found["error.type"], "connect");
        assert_eq!(found.get("http.response.status_code"), None);
    }
}

#[tokio::test]
async fn l91_requests_without_a_rule_have_no_route_and_no_error() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    assert_eq!(setup.get("/nowhere", &[]).await, StatusCode::NOT_FOUND);
    setup.collected(1).await;
    let (server, found) = of_kind(&setup, SpanKind::Server).remove(0);
    assert_eq!(server.name, "GET");
    assert!(!is_error(&server));
    assert_eq!(found["http.response.status_code"], "404");
    assert_eq!(found.get("http.route"), None);
}
