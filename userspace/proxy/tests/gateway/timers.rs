//! Timeouts and retries.

use std::{convert::Infallible, pin::pin, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use headgate_model::edge::{
    Policy, Resend, Retry, Route, RouteKind, Scheme, UpstreamPolicy, UpstreamProtocol,
};
use headgate_proxy::Settings;
use http::{Method, Request};
use http_body_util::StreamBody;
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::{
    client::{ask, get},
    setup::{RouteExt, Setup, listener, prefix, route, to, weighted, with},
};

const SHORT: Duration = Duration::from_millis(300);
/// Far longer than a test takes.
const LONG: Duration = Duration::from_secs(3600);

async fn setup(backend: &str, change: impl FnOnce(&mut Policy)) -> Setup {
    Setup::routes(vec![route(backend).policy(change)]).await
}

/// A retry as a route of a Gateway has it.
fn retry(attempts: u32, codes: &[u16]) -> Retry {
    Retry {
        tries: attempts + 1,
        on_codes: codes.into(),
        resend: Resend::Always,
        same_endpoint: true,
        ..Retry::default()
    }
}

#[tokio::test]
async fn g95_a_request_ends_in_time_with_all_tries() {
    let setup = setup("web", |policy| {
        policy.timeouts.total = Some(SHORT);
        policy.retry = retry(1000, &[500]);
        policy.retry.backoff = Duration::from_millis(20);
    })
    .await;
    assert_eq!(setup.send(80, get("a.test", "/")).await.by(), "web");
    assert_eq!(setup.send(80, get("a.test", "/silent")).await.status, 504);
    let before = setup.hits("web");
    assert_eq!(
        setup.send(80, get("a.test", "/status/500")).await.status,
        504
    );
    assert!(setup.hits("web") > before + 1, "it was tried again");
}

#[tokio::test]
async fn g96_each_try_ends_in_time() {
    let setup = setup("web", |policy| {
        policy.timeouts.per_try = Some(SHORT);
        policy.timeouts.total = Some(LONG);
        policy.retry = retry(2, &[]);
    })
    .await;
    assert_eq!(setup.send(80, get("a.test", "/silent")).await.status, 504);
    assert_eq!(setup.hits("web"), 3);
    // The backend counts all requests.
    assert_eq!(setup.send(80, get("a.test", "/late/4")).await.by(), "web");
    assert_eq!(setup.hits("web"), 5);
}

#[tokio::test]
async fn g97_a_response_that_began_is_cut() {
    for is_total in [true, false] {
        let setup = setup("web", |policy| {
            policy.timeouts.read = LONG;
            match is_total {
                true => policy.timeouts.total = Some(SHORT),
                false => policy.timeouts.per_try = Some(SHORT),
            }
        })
        .await;
        let asked = get("a.test", "/slow").body(Default::default()).unwrap();
        let error = setup.send_body(80, asked).await.unwrap_err();
        assert!(!error.is_timeout(), "{error}");
    }
}

#[tokio::test]
async fn g98_listed_codes_are_tried_again_and_the_last_response_passes() {
    let setup = setup("web", |policy| policy.retry = retry(2, &[503, 500])).await;
    assert_eq!(
        setup.send(80, get("a.test", "/flaky/503/2")).await.by(),
        "web"
    );
    assert_eq!(setup.hits("web"), 3);
    let posted = ask(Method::POST, "a.test", "/flaky/500/5");
    assert_eq!(setup.send(80, posted).await.by(), "web");
    assert_eq!(setup.hits("web"), 6);
    assert_eq!(
        setup.send(80, get("a.test", "/status/503")).await.status,
        503
    );
    assert_eq!(setup.hits("web"), 9);
    assert_eq!(
        setup.send(80, get("a.test", "/status/502")).await.status,
        502
    );
    assert_eq!(setup.hits("web"), 10, "a code that is not listed");
}

#[tokio::test]
async fn g99_failed_connections_are_tried_again_without_codes() {
    let setup = setup("dead", |policy| policy.retry = retry(2, &[])).await;
    assert_eq!(setup.send(80, get("a.test", "/")).await.status, 503);
    // With another endpoint that answers.
    let key = setup.edge.upstreams().next().unwrap().clone();
    let other = Setup::routes(vec![route("web")]).await;
    let places = ["127.0.0.1:1".parse().unwrap(), other.address(80)];
    setup
        .proxy
        .place(&key, &places.map(|place| (place, 1)).into());
    for _ in 0..4 {
        assert_eq!(setup.send(80, get("a.test", "/")).await.by(), "web");
    }
}

#[tokio::test]
async fn g100_tries_wait_for_the_backoff_and_none_begins_too_late() {
    let waiting = setup("web", |policy| {
        policy.retry = retry(2, &[500]);
        policy.retry.backoff = SHORT;
    })
    .await;
    let begin = std::time::Instant::now();
    assert_eq!(
        waiting.send(80, get("a.test", "/flaky/500/2")).await.by(),
        "web"
    );
    assert!(begin.elapsed() >= 2 * SHORT);
    let late = setup("web", |policy| {
        policy.retry = retry(2, &[500]);
        policy.retry.backoff = LONG;
        policy.timeouts.total = Some(SHORT);
    })
    .await;
    assert_eq!(
        late.send(80, get("a.test", "/status/500")).await.status,
        504
    );
    assert_eq!(late.hits("web"), 1);
}

#[tokio::test]
async fn g101_nothing_is_sent_twice_unless_a_route_says_so() {
    let targets = vec![weighted(1, to("web"))];
    let setup = Setup::routes(vec![route("web").targets(targets).policy(|policy| {
        policy.timeouts.per_try = Some(SHORT);
    })])
    .await;
    for (path, expected, hits) in [("/silent", 504, 1), ("/status/503", 503, 2)] {
        let got = setup.send(80, get("a.test", path)).await;
        assert_eq!((got.status.as_u16(), setup.hits("web")), (expected, hits));
    }
}

#[tokio::test]
async fn g96_a_connection_whose_endpoint_does_not_answer_in_time_gets_no_more_requests() {
    let http2 = UpstreamPolicy {
        protocol: UpstreamProtocol::Http2,
        ..UpstreamPolicy::default()
    };
    let route = route("web")
        .targets(vec![weighted(1, with("web", http2))])
        .policy(|policy| policy.timeouts.per_try = Some(SHORT));
    let setup = Setup::routes(vec![route]).await;
    for (path, status, connections) in [
        ("/", 200, 1),
        ("/", 200, 1),
        ("/silent", 504, 1),
        ("/", 200, 2),
        ("/", 200, 2),
    ] {
        let got = setup.send(80, get("a.test", path)).await;
        assert_eq!(got.status, status, "{path}");
        assert_eq!(setup.connections("web"), connections, "{path}");
    }
}

#[tokio::test]
async fn g121_calls_may_be_silent() {
    let call = |kind: RouteKind, path: &str| -> Route {
        let mut route = route("web").at(prefix(path));
        route.origin.kind = kind;
        route
    };
    let mut setup = Setup::with(Settings {
        body_timeout: SHORT,
        ..Settings::default()
    });
    let routes = vec![
        call(RouteKind::GrpcRoute, "/silent"),
        call(RouteKind::HttpRoute, ""),
    ];
    let all = listener("", [("", routes)]);
    setup.add_port(crate::setup::GATEWAY, 80, Scheme::Http, vec![all]);
    setup.serve().await;
    let stream = TcpStream::connect(setup.address(80)).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // A request whose body says nothing.
    let send = |path: &str| {
        let silent = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let request = Request::post(format!("http://a.test{path}"));
        let request = request.body(StreamBody::new(silent)).unwrap();
        let mut sender = sender.clone();
        async move { sender.send_request(request).await.unwrap().status() }
    };
    let mut call = pin!(send("/silent"));
    assert!(call.as_mut().now_or_never().is_none());
    setup.seen("web", 1).await;
    assert_eq!(send("/late/9").await, 408);
    assert!(call.now_or_never().is_none());
}
