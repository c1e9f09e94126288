//! Which backend has a request, and what is answered without one.

use std::collections::BTreeMap;

use headgate_model::edge::{RouteKind, Target, UpstreamPolicy, UpstreamProtocol};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::get,
    setup::{RouteExt, Setup, route, to, weighted, with},
};

/// How many of `count` requests each backend or status got.
async fn shares(setup: &Setup, count: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let by = setup.send(80, get("a.test", "/")).await.by();
        *shares.entry(by).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn g92_requests_go_to_backends_by_weight() {
    let targets = vec![
        weighted(70, to("one")),
        weighted(30, to("two")),
        weighted(0, to("none")),
    ];
    let setup = Setup::routes(vec![route("all").targets(targets)]).await;
    const COUNT: usize = 1000;
    let shares = shares(&setup, COUNT).await;
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["one", "two"]);
    // Seven standard deviations.
    assert!(shares["one"].abs_diff(700) < 100, "{shares:?}");
}

#[tokio::test]
async fn g60_invalid_backends_get_500_for_their_share() {
    let invalid = Target::Invalid("Service shop/none does not exist".into());
    let targets = vec![weighted(1, invalid), weighted(1, to("web"))];
    let setup = Setup::routes(vec![route("all").targets(targets)]).await;
    let shares = shares(&setup, 400).await;
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["500", "web"]);
    assert!(shares["500"].abs_diff(200) < 100, "{shares:?}");
}

#[tokio::test]
async fn g61_g62_without_backends_500_and_without_endpoints_503() {
    for (targets, expected) in [
        (vec![], "500"),
        (vec![weighted(0, to("web"))], "500"),
        (vec![weighted(1, to("empty"))], "503"),
    ] {
        let setup = Setup::routes(vec![route("all").targets(targets)]).await;
        assert_eq!(setup.send(80, get("a.test", "/")).await.by(), expected);
    }
}

#[tokio::test]
async fn g119_grpc_calls_fail_with_codes_of_grpc() {
    let mut grpc = route("empty").at(crate::setup::exact("/s/m"));
    grpc.origin.kind = RouteKind::GrpcRoute;
    let setup = Setup::routes(vec![grpc]).await;
    for (path, code) in [("/s/other", "12"), ("/s/m", "14")] {
        let asked = get("a.test", path).header("content-type", "application/grpc");
        let got = setup.send(80, asked).await;
        assert_eq!(
            (got.status.as_u16(), got.header("grpc-status")),
            (200, Some(code))
        );
    }
}

#[tokio::test]
async fn g93_h2c_backends_get_http2_without_tls() {
    let policy = UpstreamPolicy {
        protocol: UpstreamProtocol::Http2,
        ..UpstreamPolicy::default()
    };
    let targets = vec![weighted(1, with("web", policy))];
    let setup = Setup::routes(vec![route("web").targets(targets)]).await;
    let echo = setup.send(80, get("a.test", "/x")).await.echo();
    assert_eq!((&*echo.version, &*echo.target), ("HTTP/2.0", "/x"));
    assert_eq!(echo.header("host").as_deref(), Some("a.test"));
    assert_eq!(echo.method, "GET");
    // Clients may speak it as well.
    let got = setup.send_http2(80, Request::get("http://a.test/y")).await;
    assert_eq!(got.echo().target, "/y");
}

#[tokio::test]
async fn g94_upgraded_connections_pass() {
    let setup = Setup::routes(vec![route("switch")]).await;
    // A server of its own in place of the backend.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let key = setup.edge.upstreams().next().unwrap().clone();
    setup.proxy.place(&key, &[(place, 1)].into());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut frame = [0; 4];
        stream.read_exact(&mut frame).await.unwrap();
        stream.write_all(&frame).await.unwrap();
    });
    let mut client = TcpStream::connect(setup.address(80)).await.unwrap();
    let asked =
        b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(asked).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    client.write_all(b"\x82\x02\x00\xff").await.unwrap();
    let mut frame = [0; 4];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x82\x02\x00\xff");
    server.await.unwrap();
}
