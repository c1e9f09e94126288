//! Pooling of connections to endpoints.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::SocketAddr,
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use futures::future::join_all;
use headgate_model::edge::{UpstreamPolicy, UpstreamProtocol};
use headgate_proxy::{Body, ErrorKind};
use http::{
    Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    server::Server,
    setup::{Setup, channel, get, text, unfinished, until, whole},
};

#[tokio::test]
async fn l30_round_robin_over_real_servers() {
    let servers = [
        Server::named("a").await,
        Server::named("b").await,
        Server::named("c").await,
    ];
    let addresses = servers.each_ref().map(|server| server.address);
    let setup = Setup::new(UpstreamPolicy::default(), &addresses);
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..30 {
        let (status, name) = setup.read("/").await;
        assert_eq!(status, StatusCode::OK);
        *answers.entry(name).or_default() += 1;
    }
    let expected = ["a", "b", "c"].map(|name| (name.to_owned(), 10));
    assert_eq!(answers, BTreeMap::from(expected));
    assert_eq!(servers.map(|server| server.accepted()), [1, 1, 1]);
}

#[tokio::test]
async fn l43_connection_is_reused() {
    let server = Server::named("a").await;
    let setup = Setup::http(server.address);
    for _ in 0..50 {
        assert_eq!(setup.read("/").await.1, "a");
    }
    assert_eq!(server.accepted(), 1);
    let state = setup.endpoint();
    assert_eq!(
        (state.requests, state.in_flight, state.failures),
        (50, 0, 0)
    );
}

#[tokio::test]
async fn l43_response_without_a_body_returns_the_connection_at_once() {
    let server = Server::http(|_| async {
        let response = Response::builder().status(StatusCode::NO_CONTENT);
        response.body(Body::empty()).unwrap()
    })
    .await;
    let setup = Setup::http(server.address);
    let held: Vec<_> = [setup.get("/").await.unwrap(), setup.get("/").await.unwrap()].into();
    assert_eq!((server.accepted(), held.len()), (1, 2));
}

/// Responds with a body in two parts; the second one never comes if the path is `/half`.
async fn in_parts(request: Request<hyper::body::Incoming>) -> Response<Body> {
    if request.uri().path() == "/half" {
        return Response::new(unfinished("first"));
    }
    let (sender, body) = channel();
    for part in ["first", "second"] {
        sender.unbounded_send(Ok(Frame::data(part.into()))).unwrap();
    }
    Response::new(body)
}

#[tokio::test]
async fn l43_half_read_response_closes_its_connection() {
    let server = Server::http(in_parts).await;
    let setup = Setup::http(server.address);
    let mut body = setup.get("/half").await.unwrap().into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "first"
    );
    assert_eq!(
        setup.endpoint().in_flight,
        1,
        "in flight until the body is dropped"
    );
    drop(body);
    assert_eq!(setup.endpoint().in_flight, 0);
    assert_eq!(setup.read("/").await.1, "firstsecond");
    assert_eq!(server.accepted(), 2);
    until(|| server.open() == 1).await;
}

#[tokio::test]
async fn l43_broken_connection_is_not_reused() {
    let server = Server::raw(|mut stream| async move {
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
            let is_bad = bytes.starts_with(b"GET /bad");
            let length = if is_bad { "xyz" } else { "2" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let setup = Setup::http(server.address);
    assert_eq!(setup.read("/").await.1, "ok");
    let error = setup.get("/bad").await.unwrap_err();
    assert_eq!((error.kind, error.is_sent), (ErrorKind::Broken, true));
    assert_eq!(setup.read("/").await.1, "ok");
    assert_eq!(server.accepted(), 2);
    assert_eq!(setup.endpoint().failures, 1);
}

#[tokio::test]
async fn l43_response_before_the_end_of_the_request_does_not_return_the_connection() {
    let server = Server::named("early").await;
    let setup = Setup::http(server.address);
    let (sender, body) = channel();
    sender
        .unbounded_send(Ok(Frame::data("more to come".into())))
        .unwrap();
    let request = Request::post("/").body(body).unwrap();
    let early = setup.send(request).await.unwrap();
    assert_eq!(text(early).await, "early");
    assert_eq!(setup.read("/").await.1, "early");
    assert_eq!(server.accepted(), 2);
    drop(sender);
}

/// Responds to one request on each connection, closes it, and reports that on the channel.
fn closing() -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"body\r\n0\r\n\r\n") {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).unwrap();
                request.extend_from_slice(&bytes[..count]);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn l43_request_that_a_closed_connection_did_not_take_is_sent_on_a_new_one() {
    let (address, closed) = closing();
    let setup = Setup::http(address);
    for _ in 0..10 {
        let (sender, body) = channel();
        sender
            .unbounded_send(Ok(Frame::data("body".into())))
            .unwrap();
        drop(sender);
        let request = Request::post("/").body(body).unwrap();
        match setup.send(request).await {
            Ok(response) => {
                assert_eq!(text(response).await, "ok");
                // Nothing else runs on this thread, so the upstream sees the closed connection only
                // with the next request.
                closed.recv().unwrap();
            }
            // The request was written before the end of the connection was read.
            Err(error) => assert!(error.is_sent, "{error}"),
        }
    }
}

#[tokio::test]
async fn l43_at_most_320_connections_are_pooled() {
    let server = Server::http(in_parts).await;
    let setup = Setup::http(server.address);
    let held = join_all((0..330).map(|_| setup.get("/"))).await;
    assert_eq!(server.accepted(), 330);
    let texts = join_all(held.into_iter().map(|held| text(held.unwrap()))).await;
    assert!(texts.iter().all(|text| text == "firstsecond"));
    until(|| server.open() == 320).await;
}

#[tokio::test]
async fn l43_idle_connections_are_closed_after_a_minute() {
    let server = Server::named("a").await;
    let setup = Setup::http(server.address);
    assert_eq!(setup.read("/").await.1, "a");
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(55)).await;
    tokio::time::resume();
    assert_eq!(setup.read("/").await.1, "a");
    assert_eq!((server.accepted(), server.open()), (1, 1));
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(71)).await;
    tokio::time::resume();
    until(|| server.open() == 0).await;
}

#[tokio::test]
async fn l45_removed_endpoint_finishes_its_requests() {
    let (server, other) = (Server::http(in_parts).await, Server::named("other").await);
    let setup = Setup::http(server.address);
    let held = setup.get("/").await.unwrap();
    assert_eq!(setup.read("/").await.1, "firstsecond");
    assert_eq!(server.accepted(), 2);
    setup.update(&[other.address]);
    until(|| server.open() == 1).await;
    assert_eq!(setup.read("/").await.1, "other");
    assert_eq!(text(held).await, "firstsecond");
    until(|| server.open() == 0).await;
}

#[tokio::test]
async fn l45_removed_upstream_finishes_its_requests() {
    let server = Server::http(in_parts).await;
    let setup = Setup::http(server.address);
    let held = setup.get("/").await.unwrap();
    setup.upstreams.retain(|_| false);
    assert_eq!(text(held).await, "firstsecond");
    until(|| server.open() == 0).await;
}

/// Upgrades the connection and echoes all bytes.
async fn echo(request: Request<hyper::body::Incoming>) -> Response<Body> {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "echo");
    response.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn l43_upgraded_connection_is_a_tunnel_and_not_pooled() {
    let server = Server::http(echo).await;
    let setup = Setup::http(server.address);
    for count in 1..=2 {
        let request = Request::get("/")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "echo");
        let pick = setup.pick();
        let request = request.body(Body::empty()).unwrap();
        let sent = setup
            .upstream
            .send(&pick, request.into(), &setup.timeouts, None);
        let response = sent.await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(
            setup.endpoint().in_flight,
            1,
            "in flight until the pick is dropped"
        );
        let Body::Tunnel(mut tunnel) = response.into_body() else {
            panic!("no tunnel");
        };
        tunnel.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 5];
        tunnel.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
        assert_eq!(server.accepted(), count);
    }
}

#[tokio::test]
async fn l43_trailers_pass_in_both_directions() {
    let server = Server::echoing().await;
    let setup = Setup::http(server.address);
    let (sender, body) = channel();
    sender
        .unbounded_send(Ok(Frame::data(Bytes::from("data"))))
        .unwrap();
    let trailers =
        [("x-sum", "42")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    sender
        .unbounded_send(Ok(Frame::trailers(trailers.into_iter().collect())))
        .unwrap();
    drop(sender);
    let request = Request::post("/")
        .header("trailer", "x-sum")
        .header("te", "trailers");
    let response = setup.send(request.body(body).unwrap()).await.unwrap();
    let (text, trailers) = whole(response.into_body()).await;
    assert_eq!(
        (text.as_str(), &trailers.unwrap()["x-sum"]),
        ("data", &"42".parse().unwrap())
    );
    assert_eq!(setup.pick().address(), server.address);
}

#[tokio::test]
async fn l43_raw_connection_is_in_flight_until_its_pick_is_dropped() {
    let server = Server::raw(|mut stream| async move {
        stream.write_all(b"raw").await.unwrap();
    })
    .await;
    let setup = Setup::http(server.address);
    let pick = setup.pick();
    let mut stream = setup
        .upstream
        .connect(&pick, &setup.timeouts)
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!((text.as_str(), setup.endpoint().in_flight), ("raw", 1));
    drop(pick);
    assert_eq!(setup.endpoint().in_flight, 0);
}

#[tokio::test]
async fn l43_request_target_has_the_form_of_its_http_version() {
    let answer = |request: Request<hyper::body::Incoming>| async move {
        let host = request.headers().get("host").cloned();
        Response::new(format!("{:?} {} {host:?}", request.version(), request.uri()).into())
    };
    let server = Server::http(answer).await;
    let absolute = || get("http://shop.example:8080/cart?id=1");
    let with_host = || {
        let request = Request::get("/cart").header("host", "shop.example");
        request.body(Body::empty()).unwrap()
    };
    let http2 = UpstreamProtocol::Http2;
    for (protocol, request, expected) in [
        (
            UpstreamProtocol::Http,
            absolute(),
            r#"HTTP/1.1 /cart?id=1 Some("shop.example:8080")"#,
        ),
        (
            UpstreamProtocol::Http,
            with_host(),
            r#"HTTP/1.1 /cart Some("shop.example")"#,
        ),
        (
            UpstreamProtocol::Http,
            get("/"),
            r#"HTTP/1.1 / Some("web.shop.svc")"#,
        ),
        (
            http2,
            absolute(),
            "HTTP/2.0 http://shop.example:8080/cart?id=1 None",
        ),
        (http2, with_host(), "HTTP/2.0 http://shop.example/cart None"),
        (http2, get("/"), "HTTP/2.0 http://web.shop.svc/ None"),
    ] {
        let setup = Setup::speaking(protocol, server.address);
        assert_eq!(text(setup.send(request).await.unwrap()).await, expected);
    }
}
