//! HTTP/2: many requests at a time on one connection.

use std::{convert::Infallible, sync::Arc};

use futures::future::join_all;
use headgate_model::edge::UpstreamProtocol;
use headgate_proxy::{Body, ErrorKind};
use http::{HeaderMap, Request, Response};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Barrier;

use crate::{
    server::Server,
    setup::{Setup, channel, get, unfinished, whole},
};

/// Responds only when `count` requests have arrived.
async fn together(count: usize) -> Server {
    let barrier = Arc::new(Barrier::new(count));
    Server::http(move |_| {
        let barrier = barrier.clone();
        async move {
            barrier.wait().await;
            Response::new(Body::from("ok".to_owned()))
        }
    })
    .await
}

#[tokio::test]
async fn l41_requests_share_a_connection() {
    for protocol in [UpstreamProtocol::Http2, UpstreamProtocol::Grpc] {
        let server = together(50).await;
        let setup = Setup::speaking(protocol, server.address);
        let answers = join_all((0..50).map(|_| setup.read("/"))).await;
        assert!(answers.iter().all(|(_, text)| text == "ok"));
        assert_eq!(server.accepted(), 1);
        assert_eq!(setup.endpoint().in_flight, 0);
    }
}

/// A server with at most two concurrent streams on a connection.
async fn two_at_a_time(
    answer: impl Fn(Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> Server {
    Server::raw(move |stream| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(2);
            let served = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(served);
        }
    })
    .await
}

#[tokio::test]
async fn l41_full_connection_makes_the_next_request_open_another() {
    let server = two_at_a_time(|_| Response::new(unfinished("x"))).await;
    let setup = Setup::speaking(UpstreamProtocol::Http2, server.address);
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(setup.get("/").await.unwrap());
    }
    assert_eq!((held.len(), server.accepted()), (6, 3));
    held.truncate(5);
    held.push(setup.get("/").await.unwrap());
    assert_eq!(server.accepted(), 3, "an ended stream frees its place");
}

#[tokio::test]
async fn l41_trailers_pass_in_both_directions() {
    let server = Server::echoing().await;
    let setup = Setup::speaking(UpstreamProtocol::Grpc, server.address);
    let (sender, body) = channel();
    sender
        .unbounded_send(Ok(Frame::data("data".into())))
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    sender
        .unbounded_send(Ok(Frame::trailers(trailers.clone())))
        .unwrap();
    drop(sender);
    let request = Request::post("/").body(body).unwrap();
    let response = setup.send(request).await.unwrap();
    let expected = ("data".to_owned(), Some(trailers));
    assert_eq!(whole(response.into_body()).await, expected);
}

#[tokio::test]
async fn l41_connection_closed_by_goaway_is_replaced() {
    let server = Server::raw(|stream| async move {
        let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
        let served = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        let pause = tokio::time::sleep(std::time::Duration::from_millis(5));
        tokio::select! {
            result = &mut served => drop(result),
            () = pause => {
                served.as_mut().graceful_shutdown();
                drop(served.await);
            }
        }
    })
    .await;
    let setup = Setup::speaking(UpstreamProtocol::Http2, server.address);
    while server.accepted() < 4 {
        assert!(setup.send(get("/")).await.is_ok());
    }
}

#[tokio::test]
async fn l41_refused_stream_counts_as_not_sent() {
    let server = Server::raw(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    })
    .await;
    let setup = Setup::speaking(UpstreamProtocol::Http2, server.address);
    let error = setup.get("/").await.unwrap_err();
    assert_eq!((error.kind, error.is_sent), (ErrorKind::Broken, false));
}
