//! Test servers on loopback.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use headgate_proxy::Body;
use http::{Request, Response, header::TRAILER};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::setup::{channel, whole};

/// A server that counts its connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Server {
    /// A server that responds with `answer`.
    pub(crate) async fn http<A>(
        answer: impl Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    ) -> Self
    where
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::raw(move |stream| serve_http(stream, answer.clone())).await
    }

    /// A server that sends the body, the trailers and the `Trailer` header of the request back.
    pub(crate) async fn echoing() -> Self {
        Self::http(|mut request| async {
            let named = request.headers_mut().remove(TRAILER);
            let (text, trailers) = whole(request.into_body()).await;
            let (sender, body) = channel();
            let trailers = Frame::trailers(trailers.unwrap());
            for frame in [Frame::data(text.into()), trailers] {
                sender.unbounded_send(Ok(frame)).unwrap();
            }
            let mut response = Response::new(body);
            response
                .headers_mut()
                .extend(named.map(|names| (TRAILER, names)));
            response
        })
        .await
    }

    /// A server that handles raw connections with `serve`.
    pub(crate) async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            accepted: Arc::default(),
            open: Arc::default(),
        };
        let (accepted, open) = (server.accepted.clone(), server.open.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, SeqCst);
                open.fetch_add(1, SeqCst);
                let (served, open) = (serve(stream), open.clone());
                tokio::spawn(async move {
                    served.await;
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        server
    }

    /// A server that responds with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::http(move |_| async move { Response::new(Body::from(name.to_owned())) }).await
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    /// Open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }
}

/// Serves HTTP/1.1 or HTTP/2, as the client begins.
pub(crate) async fn serve_http<A>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: impl Fn(Request<Incoming>) -> A,
) where
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    // Clients of these tests close connections early on purpose.
    drop(served.await);
}
