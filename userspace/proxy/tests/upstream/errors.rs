//! Errors and timeouts; whether the endpoint may have acted on the request.

use std::{net::SocketAddr, time::Duration};

use headgate_model::ingress::{Timeouts, UpstreamProtocol};
use headgate_proxy::{Body, ErrorKind, SendError};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    server::Server,
    setup::{Setup, channel, text, unfinished},
};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(600);

/// A server that never responds.
async fn silent() -> Server {
    Server::http(|_| async { std::future::pending().await }).await
}

fn patient() -> Timeouts {
    Timeouts {
        connect: LONG,
        read: LONG,
        send: LONG,
    }
}

fn setup(address: SocketAddr, protocol: UpstreamProtocol, timeouts: Timeouts) -> Setup {
    Setup {
        timeouts,
        ..Setup::speaking(protocol, address)
    }
}

fn summary(error: &SendError) -> (ErrorKind, bool, bool) {
    (error.kind, error.is_sent, error.request.is_some())
}

#[tokio::test]
async fn l45_response_timeout() {
    for protocol in [UpstreamProtocol::Http, UpstreamProtocol::Http2] {
        let server = silent().await;
        let timeouts = Timeouts {
            read: 20 * MS,
            ..patient()
        };
        let setup = setup(server.address, protocol, timeouts);
        let error = setup.get("/").await.unwrap_err();
        assert_eq!(summary(&error), (ErrorKind::Timeout, true, true));
        assert_eq!(error.to_string(), "timeout: no response in time");
        assert_eq!(
            (setup.endpoint().failures, setup.endpoint().in_flight),
            (1, 0)
        );
    }
}

#[tokio::test]
async fn l45_upload_does_not_count_for_the_read_timeout() {
    let server = Server::http(|request| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Body::from(body))
    })
    .await;
    for protocol in [UpstreamProtocol::Http, UpstreamProtocol::Http2] {
        let timeouts = Timeouts {
            read: 30 * MS,
            ..patient()
        };
        let setup = setup(server.address, protocol, timeouts);
        let (sender, body) = channel();
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(10 * MS).await;
                sender.unbounded_send(Ok(Frame::data("x".into()))).unwrap();
            }
        });
        let request = Request::post("/").body(body).unwrap();
        assert_eq!(text(setup.send(request).await.unwrap()).await, "xxxxxxxxxx");
    }
}

#[tokio::test]
async fn l45_send_timeout_if_the_endpoint_stops_reading() {
    let server = Server::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let timeouts = Timeouts {
        send: 20 * MS,
        ..patient()
    };
    let setup = setup(server.address, UpstreamProtocol::Http, timeouts);
    let (sender, body) = channel();
    for _ in 0..64 {
        let frame = Frame::data(vec![0; 1 << 20].into());
        sender.unbounded_send(Ok(frame)).unwrap();
    }
    let request = Request::post("/").body(body).unwrap();
    let error = setup.send(request).await.unwrap_err();
    assert_eq!(summary(&error), (ErrorKind::Timeout, true, false));
    assert_eq!(error.to_string(), "timeout: no upload progress in time");
    drop(sender);
}

#[tokio::test]
async fn l45_read_timeout_within_a_response_body() {
    for protocol in [UpstreamProtocol::Http, UpstreamProtocol::Http2] {
        let server = Server::http(|_| async { Response::new(unfinished("x")) }).await;
        let timeouts = Timeouts {
            read: 20 * MS,
            ..patient()
        };
        let setup = setup(server.address, protocol, timeouts);
        let mut body = setup.get("/").await.unwrap().into_body();
        // The time that the client does not read does not count.
        tokio::time::sleep(40 * MS).await;
        assert!(body.frame().await.unwrap().is_ok());
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "no response data in time");
        assert_eq!(setup.endpoint().failures, 1);
    }
}

#[tokio::test]
async fn l45_connection_closes_without_a_response() {
    let server = Server::raw(|mut stream| async move {
        let mut bytes = [0; 1024];
        assert!(stream.read(&mut bytes).await.is_ok());
    })
    .await;
    let setup = setup(server.address, UpstreamProtocol::Http, patient());
    let error = setup.get("/").await.unwrap_err();
    assert_eq!(summary(&error), (ErrorKind::Broken, true, true));
}

#[tokio::test]
async fn l45_response_body_is_cut_off() {
    let server = Server::raw(|mut stream| async move {
        let mut bytes = [0; 1024];
        assert!(stream.read(&mut bytes).await.is_ok());
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let setup = setup(server.address, UpstreamProtocol::Http, patient());
    let body = setup.get("/").await.unwrap().into_body();
    assert!(body.collect().await.is_err());
    assert_eq!(setup.endpoint().failures, 1);
}

#[tokio::test]
async fn l45_endpoint_without_tls() {
    let server = Server::raw(|mut stream| async move {
        stream.write_all(b"220 mail ready\r\n").await.unwrap();
    })
    .await;
    let setup = setup(server.address, UpstreamProtocol::Https, patient());
    let error = setup.get("/").await.unwrap_err();
    assert_eq!(summary(&error), (ErrorKind::Tls, false, true));
}

#[tokio::test]
async fn l45_connect_timeout_includes_tls() {
    // This endpoint never begins its handshake.
    let server = Server::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let timeouts = Timeouts {
        connect: 20 * MS,
        ..patient()
    };
    let setup = setup(server.address, UpstreamProtocol::Https, timeouts);
    let error = setup.get("/").await.unwrap_err();
    assert_eq!(summary(&error), (ErrorKind::Timeout, false, true));
}

#[tokio::test]
async fn l45_incomplete_request_is_no_failure_of_the_endpoint() {
    for protocol in [UpstreamProtocol::Http, UpstreamProtocol::Http2] {
        let server = silent().await;
        let setup = setup(server.address, protocol, patient());
        let (sender, body) = channel();
        sender.unbounded_send(Ok(Frame::data("x".into()))).unwrap();
        sender.unbounded_send(Err("client is gone".into())).unwrap();
        let request = Request::post("/").body(body).unwrap();
        let error = setup.send(request).await.unwrap_err();
        // Over HTTP/1.1 the head waits for the body, so the endpoint has got nothing.
        let is_sent = protocol == UpstreamProtocol::Http2;
        assert_eq!(summary(&error), (ErrorKind::Body, is_sent, false));
        assert_eq!(setup.endpoint().failures, 0);
    }
}
