//! Listening: connections of clients, with and without TLS.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use headgate_model::ingress::Timeouts;
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use nix::sys::socket::{
    setsockopt,
    sockopt::{TcpNoDelay, TcpUserTimeout},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::server::Acceptor};
use tracing::{debug, warn};

use crate::{
    Proxy, Settings,
    activity::Activity,
    body::BodyError,
    forward::{self, Connection},
    proxy_protocol,
    stream::Prefixed,
    tls::{facts::Handshake, server::server_name},
    upstream::{PickInput, Upstream},
};

/// How long a TLS handshake may take, or the header of the PROXY protocol.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest ClientHello that is read, in bytes.
const MAX_HELLO: usize = 64 << 10;
/// How long connections are taken once we stop: whoever takes over may have begun just now.
const LINGER: Duration = Duration::from_secs(1);
/// How long clients of HTTP/1.1 may be silent once we stop. They cannot be told that the connection
/// ends but in an answer, and would lose what they send meanwhile.
const LAST_IDLE: Duration = Duration::from_secs(5);
/// How long requests in progress may take after that.
const DRAIN: Duration = Duration::from_secs(30);
/// How often a client of HTTP/2 is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// Requests of one HTTP/2 connection at the same time.
const MAX_STREAMS: u32 = 128;
/// Bytes of one HTTP/2 request that may be on the way.
const STREAM_WINDOW: u32 = 256 << 10;

/// What is spoken on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP over TLS, or whatever a backend speaks over TLS that we do not open.
    Https,
}

/// Serves connections of a listener until told to stop. Then connections are still taken for a
/// moment, each gets one more answer, and requests in progress get half a minute.
pub(crate) async fn serve(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    scheme: Scheme,
    stop: impl Future<Output = ()>,
) {
    // Its connections inherit them.
    let longest = u32::try_from(proxy.settings.answer_timeout.as_millis()).unwrap_or(u32::MAX);
    let set = setsockopt(&listener, TcpUserTimeout, &longest);
    if let Err(error) = set.and_then(|()| setsockopt(&listener, TcpNoDelay, &true)) {
        warn!("cannot set options of connections: {error}");
    }
    let (stopping, is_stopping) = watch::channel(false);
    let linger = async {
        stop.await;
        stopping.send_replace(true);
        sleep(LINGER).await;
    };
    let mut linger = std::pin::pin!(linger);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&proxy, &listener) => accepted,
            () = &mut linger => break,
        };
        match accepted {
            Ok((stream, peer, room)) => {
                let (proxy, is_stopping) = (proxy.clone(), is_stopping.clone());
                tokio::spawn(async move {
                    if let Err(error) = connection(&proxy, stream, peer, scheme, is_stopping).await
                    {
                        debug!(%peer, "a connection ended: {error}");
                    }
                    drop(room);
                });
            }
            // Out of descriptors, most likely: those in use end some day.
            Err(error) => {
                warn!("cannot accept: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop((listener, is_stopping));
    // Each connection holds a receiver.
    if timeout(DRAIN, stopping.closed()).await.is_err() {
        warn!(
            "gave up on requests that take longer than {} s",
            DRAIN.as_secs()
        );
    }
}

/// The next connection, once there is room for it.
async fn accept(
    proxy: &Proxy,
    listener: &TcpListener,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let (stream, peer) = listener.accept().await?;
    let room = proxy.room.clone().acquire_owned().await;
    Ok((stream, peer, room.map_err(io::Error::other)?))
}

type Stopping = watch::Receiver<bool>;

async fn connection(
    proxy: &Arc<Proxy>,
    mut stream: TcpStream,
    peer: SocketAddr,
    scheme: Scheme,
    stopping: Stopping,
) -> Result<(), BodyError> {
    let mut ends = (canonical(peer), canonical(stream.local_addr()?));
    let mut read = BytesMut::new();
    if proxy.settings.is_told_by(ends.0.ip()) {
        let told = proxy_protocol::read(&mut stream, &mut read);
        ends = timeout(HELLO_TIMEOUT, told).await??.unwrap_or(ends);
    }
    let (peer, local) = ends;
    let mut connection = Connection::new(peer, local, scheme == Scheme::Https);
    if scheme == Scheme::Http {
        return http(proxy, connection, Prefixed::new(read, stream), stopping).await;
    }
    let mut config = &proxy.tls;
    if proxy.serving.load().needs_name() {
        let name = timeout(HELLO_TIMEOUT, hello(&mut stream, &mut read)).await??;
        let serving = proxy.serving.load_full();
        let passed = name.as_ref().and_then(|name| serving.passthrough(name));
        if let Some(upstream) = passed.cloned() {
            drop(serving);
            return pass(&upstream, connection, Prefixed::new(read, stream)).await;
        }
        if serving.asks_certificate(name.as_deref()) {
            config = &proxy.asking_tls;
        }
    }
    let accept = TlsAcceptor::from(config.clone()).accept(Prefixed::new(read, stream));
    let stream = timeout(HELLO_TIMEOUT, accept).await??;
    connection.tls = Handshake::of(stream.get_ref().1);
    http(proxy, connection, stream, stopping).await
}

/// A socket for both families has IPv4 clients as well.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The rules of both HTTP versions.
pub(crate) fn rules(settings: &Settings) -> auto::Builder<TokioExecutor> {
    let mut rules = auto::Builder::new(TokioExecutor::new());
    rules
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(MAX_HEAD);
    rules
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(4 * STREAM_WINDOW)
        .keep_alive_interval(PING_INTERVAL);
    rules
}

async fn http(
    proxy: &Arc<Proxy>,
    connection: Connection,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut stopping: Stopping,
) -> Result<(), BodyError> {
    let connection = Arc::new(connection);
    let service = service_fn(|request: Request<Incoming>| {
        let (proxy, connection) = (proxy.clone(), connection.clone());
        async move { Ok::<_, Infallible>(forward::answer(&proxy, &connection, request).await) }
    });
    let served = proxy
        .rules
        .serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let is_idle = tokio::select! {
        result = served.as_mut() => return result,
        () = connection.activity.idle(proxy.settings.head_timeout) => true,
        _ = stopping.wait_for(|is_stopping| *is_stopping) => false,
    };
    if is_idle {
        served.as_mut().graceful_shutdown();
        return tokio::select! {
            result = served => result,
            () = last_idle(&connection.activity) => Ok(()),
        };
    }
    connection.is_closing.store(true, Ordering::Relaxed);
    if !connection.is_http2.load(Ordering::Relaxed)
        && let Ok(result) = timeout(LAST_IDLE, served.as_mut()).await
    {
        return result;
    }
    served.as_mut().graceful_shutdown();
    served.await
}

/// Waits until a client has had time to hear that the connection ends, and its requests have ended.
async fn last_idle(activity: &Activity) {
    sleep(LAST_IDLE).await;
    activity.idle(LAST_IDLE).await;
}

/// Reads a ClientHello and returns the name in it.
async fn hello(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        let mut rest = read.get(fed..).unwrap_or_default();
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest)?;
        }
        fed = read.len();
        match acceptor.accept() {
            Ok(None) if fed > MAX_HELLO => return Err(io::ErrorKind::InvalidData.into()),
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(server_name(&accepted.client_hello())),
            // Whoever opens it says what is wrong.
            Err(_) => return Ok(None),
        }
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Joins a client with an endpoint.
async fn pass(
    upstream: &Arc<Upstream>,
    connection: Connection,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), BodyError> {
    let nothing = Request::new(());
    let ask = PickInput::new(connection.peer.ip(), &nothing);
    let pick = upstream.pick(&ask, &[])?;
    let mut backend = upstream.connect(&pick, &Timeouts::default()).await?;
    copy_bidirectional(&mut client, &mut backend).await?;
    Ok(())
}
