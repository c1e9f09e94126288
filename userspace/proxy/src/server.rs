//! Listening: connections of clients, with and without TLS.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use headgate_model::edge::{GatewayPort, Scheme};
use http::{Request, StatusCode, Version};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{
    setsockopt,
    sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpNoDelay, TcpUserTimeout},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{Instrument, debug, debug_span, warn};

use crate::{
    access_log::Entry,
    activity::Activity,
    body::BodyError,
    client::Client,
    connection::{self, After, LAST_IDLE, MAX_HEAD, Stopping},
    forward,
    handshake::{Handling, hello},
    opened::Opened,
    proxy::Proxy,
    proxy_protocol,
    received::Received,
    relay::{pass, relay},
    stream::{Lingering, Plain, Prefixed, Stream, Tunnel},
    tls::facts::Handshake,
};

/// Longest time for a TLS handshake, and for the header of the PROXY protocol.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections are accepted after a stop: the next process may have begun only now.
const LINGER: Duration = Duration::from_secs(1);
/// How long requests in progress may take after that.
const DRAIN: Duration = Duration::from_secs(30);
/// Interval between pings to a client of HTTP/2.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Concurrent requests of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Flow-control window of one HTTP/2 request, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;

/// Bytes of one HTTP/2 response that wait until the client reads. See also [`crate::budget`].
const SEND_BUFFER: usize = 64 << 10;
/// Seconds of silence before the kernel asks whether the other end is there, then between two such
/// probes; and the number of probes without an answer that end the connection.
const KEEP_ALIVE_IDLE: u32 = 60;
const KEEP_ALIVE_INTERVAL: u32 = 15;
const KEEP_ALIVE_PROBES: u32 = 4;

/// The response to plain HTTP on the port of HTTPS.
const PLAIN: &str = "400 Bad Request: this port expects HTTPS\n";

/// What the connections of a listening socket are for.
enum Place {
    /// Ingresses.
    Ingress(Scheme),
    /// A port of a Gateway, which says what clients speak.
    Gateway(Arc<GatewayPort>),
}

/// What the connections of a listener share.
struct Listening {
    proxy: Arc<Proxy>,
    place: Place,
    rules: http2::Builder<TokioExecutor>,
}

impl Proxy {
    /// Serves connections of a listener for Ingresses until `stop` is ready. Then it accepts connections for one
    /// more second, ends each connection after its next response, and returns once all have ended,
    /// after 30 s at the latest.
    ///
    /// Dropping the future stops accepting; connections continue as tasks of the runtime.
    pub async fn listen(
        self: &Arc<Self>,
        listener: TcpListener,
        scheme: Scheme,
        stop: impl Future<Output = ()>,
    ) {
        self.accept_at(listener, Place::Ingress(scheme), stop).await;
    }

    /// Serves connections for a port of a Gateway as [`Self::listen`] does for Ingresses. The listeners of
    /// the port that are served at the time of a connection say what clients speak; without any it is
    /// closed.
    pub async fn listen_for(
        self: &Arc<Self>,
        listener: TcpListener,
        gateway: GatewayPort,
        stop: impl Future<Output = ()>,
    ) {
        let place = Place::Gateway(Arc::new(gateway));
        self.accept_at(listener, place, stop).await;
    }

    async fn accept_at(
        self: &Arc<Self>,
        listener: TcpListener,
        place: Place,
        stop: impl Future<Output = ()>,
    ) {
        set_options(&listener, self.settings.answer_timeout);
        let listening = Arc::new(Listening {
            proxy: self.clone(),
            place,
            rules: rules(),
        });
        let (stopping, is_stopping) = watch::channel(false);
        let linger = async {
            stop.await;
            stopping.send_replace(true);
            sleep(LINGER).await;
        };
        tokio::select! {
            () = accept_all(&listening, &listener, &is_stopping) => {}
            () = linger => {}
        }
        drop((listener, is_stopping));
        // Each connection holds a receiver.
        if timeout(DRAIN, stopping.closed()).await.is_err() {
            warn!(seconds = DRAIN.as_secs(), "requests cut off: too slow");
        }
    }
}

/// Sets options that connections inherit from their listener.
fn set_options(listener: &TcpListener, longest: Duration) {
    let longest = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
    let set = setsockopt(listener, TcpUserTimeout, &longest);
    let set = set
        .and_then(|()| setsockopt(listener, TcpNoDelay, &true))
        .and_then(|()| keep_alive(listener));
    if let Err(error) = set {
        warn!(%error, "cannot set socket options of connections");
    }
}

/// Lets the kernel end connections whose other end has vanished, also those that may be silent for ever,
/// like WebSockets.
pub(crate) fn keep_alive(socket: &impl AsFd) -> nix::Result<()> {
    setsockopt(socket, TcpKeepIdle, &KEEP_ALIVE_IDLE)?;
    setsockopt(socket, TcpKeepInterval, &KEEP_ALIVE_INTERVAL)?;
    setsockopt(socket, TcpKeepCount, &KEEP_ALIVE_PROBES)?;
    setsockopt(socket, KeepAlive, &true)
}

async fn accept_all(listening: &Arc<Listening>, listener: &TcpListener, stopping: &Stopping) {
    loop {
        match accept(&listening.proxy, listener).await {
            Ok((stream, ends, permit)) => {
                let (listening, stopping) = (listening.clone(), stopping.clone());
                let (peer, local) = ends;
                let span = debug_span!("connection", %peer, listener = %local);
                let served = async move {
                    if let Err(error) = listening.serve(stream, ends, permit, stopping).await {
                        debug!(%error, "connection failed");
                    }
                };
                tokio::spawn(served.instrument(span));
            }
            // Most likely no file descriptor is free; connections that end free some.
            Err(error) => {
                warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for a connection, then for a permit to serve it.
async fn accept(
    proxy: &Proxy,
    listener: &TcpListener,
) -> io::Result<(TcpStream, (SocketAddr, SocketAddr), OwnedSemaphorePermit)> {
    let (stream, peer) = listener.accept().await?;
    let ends = (canonical(peer), canonical(stream.local_addr()?));
    let permit = proxy.connections.clone().acquire_owned().await;
    Ok((stream, ends, permit.map_err(io::Error::other)?))
}

/// A socket for both families has IPv4 clients as well.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The limits of HTTP/2.
fn rules() -> http2::Builder<TokioExecutor> {
    let mut rules = http2::Builder::new(TokioExecutor::new());
    rules
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .initial_connection_window_size(4 * STREAM_WINDOW)
        .keep_alive_interval(PING_INTERVAL);
    rules
}

impl Listening {
    async fn serve(
        &self,
        mut stream: TcpStream,
        mut ends: (SocketAddr, SocketAddr),
        permit: OwnedSemaphorePermit,
        stopping: Stopping,
    ) -> Result<(), BodyError> {
        let proxy = &self.proxy;
        let mut read = BytesMut::new();
        let (scheme, gateway) = match &self.place {
            Place::Ingress(scheme) => (*scheme, None),
            Place::Gateway(gateway) => match proxy.serving.load().port(gateway) {
                Some(port) => (port.scheme, Some(gateway.clone())),
                None => return Ok(()),
            },
        };
        let mut is_secure = scheme == Scheme::Https;
        if proxy.settings.has_proxy_header(ends.0.ip()) {
            let header = proxy_protocol::read(&mut stream, &mut read);
            if let Some(named) = timeout(HELLO_TIMEOUT, header).await?? {
                ends = named.ends;
                is_secure |= named.is_secure;
            }
        }
        let (peer, local) = ends;
        let mut client = Client::new(peer, local, is_secure);
        client.permit = Some(permit);
        client.gateway = gateway;
        if scheme == Scheme::Http {
            let stream = Plain::new(stream, client.is_ending.clone());
            return self.serve_http(client, stream, read, stopping).await;
        }
        // Boxed: large. Inlined it would grow the task of every connection, which is copied when it begins.
        Box::pin(self.serve_tls(client, stream, read, stopping)).await
    }

    async fn serve_tls(
        &self,
        mut client: Client,
        mut stream: TcpStream,
        mut read: BytesMut,
        stopping: Stopping,
    ) -> Result<(), BodyError> {
        let proxy = &self.proxy;
        if read.is_empty() {
            timeout(HELLO_TIMEOUT, stream.read_buf(&mut read)).await??;
        }
        // The first byte of a TLS record is no letter.
        if read.first().is_some_and(u8::is_ascii_alphabetic) {
            return self.answer_plain(&client, stream).await;
        }
        let needs_name = client.gateway.is_some() || proxy.serving.load().ingress.needs_name();
        let name = match needs_name {
            true => timeout(HELLO_TIMEOUT, hello(&mut stream, &mut read)).await??,
            false => None,
        };
        let config = match Handling::of(proxy, client.gateway.as_deref(), name.as_deref()) {
            Handling::Decrypt(config, demands) => {
                client.demands = Some(demands);
                config
            }
            Handling::Pass(upstream) => {
                let stream = Prefixed::new(read, stream);
                return pass(&upstream, client.peer, stream).await;
            }
            Handling::Relay(upstream, config) => {
                let stream = Prefixed::new(read, stream);
                return relay(&upstream, client.peer, config, stream, HELLO_TIMEOUT).await;
            }
            Handling::Close => return Ok(()),
        };
        let accept = TlsAcceptor::from(config).accept(Prefixed::new(read, stream));
        let stream = timeout(HELLO_TIMEOUT, accept).await??;
        client.is_encrypted = true;
        client.handshake = Handshake::of(stream.get_ref().1);
        self.serve_http(client, stream, BytesMut::new(), stopping)
            .await
    }

    /// Answers a request without TLS, as nginx does.
    async fn answer_plain(&self, client: &Client, stream: TcpStream) -> Result<(), BodyError> {
        if let Some(log) = &self.proxy.settings.log {
            let status = StatusCode::BAD_REQUEST;
            let entry = Entry::refused(log.clone(), client.peer.ip(), Version::HTTP_11, status);
            entry.write(PLAIN.len() as u64);
        }
        let mut stream = Lingering::new(stream, Arc::new(AtomicBool::new(true)));
        let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n";
        let length = PLAIN.len();
        let answer = format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n{PLAIN}");
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        Ok(())
    }

    async fn serve_http(
        &self,
        client: Client,
        stream: impl Stream + 'static,
        read: BytesMut,
        stopping: Stopping,
    ) -> Result<(), BodyError> {
        let client = Arc::new(client);
        let stream = Lingering::new(stream, client.is_unread.clone());
        let served = connection::serve(&self.proxy, &client, stream, read, stopping.clone());
        match served.await? {
            After::Nothing => Ok(()),
            // Boxed for the same reason.
            After::Http2(stream) => Box::pin(self.serve_http2(client, stream, stopping)).await,
            After::Switch(mut client, mut endpoint) => {
                // A tunnel has no end that a stop could wait for.
                drop(stopping);
                copy_bidirectional(&mut client, &mut endpoint).await?;
                Ok(())
            }
        }
    }

    async fn serve_http2(
        &self,
        client: Arc<Client>,
        stream: Tunnel,
        stopping: Stopping,
    ) -> Result<(), BodyError> {
        let (opened, read) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
        let stream = Opened::new(stream, opened.clone());
        let ended = self.serve_streams(&client, stream, &read, stopping).await;
        if let Some(log) = &self.proxy.settings.log {
            let unread = opened
                .load(Ordering::Relaxed)
                .saturating_sub(read.load(Ordering::Relaxed));
            for _ in 0..unread {
                let (client, status) = (client.peer.ip(), StatusCode::BAD_REQUEST);
                Entry::refused(log.clone(), client, Version::HTTP_2, status).write(0);
            }
        }
        ended
    }

    /// Serves the streams of an HTTP/2 connection, and counts the requests that the HTTP library can read.
    async fn serve_streams(
        &self,
        client: &Arc<Client>,
        stream: Opened<Tunnel>,
        read: &AtomicU64,
        mut stopping: Stopping,
    ) -> Result<(), BodyError> {
        let proxy = &self.proxy;
        let service = service_fn(|request: Request<Incoming>| {
            read.fetch_add(1, Ordering::Relaxed);
            let (proxy, client) = (proxy.clone(), client.clone());
            let request = request.map(Received::Http2);
            async move { Ok::<_, Infallible>(forward::answer(&proxy, &client, request, None).await) }
        });
        let served = self.rules.serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        // The window of a client may stay closed while the connection lives.
        let mut stuck = std::pin::pin!(client.budget.stuck(proxy.settings.answer_timeout));
        let is_idle = tokio::select! {
            result = served.as_mut() => return Ok(result?),
            () = stuck.as_mut() => return Err(STUCK.into()),
            () = client.activity.idle(proxy.settings.head_timeout) => true,
            _ = stopping.wait_for(|is_stopping| *is_stopping) => false,
        };
        served.as_mut().graceful_shutdown();
        tokio::select! {
            result = served => Ok(result?),
            () = stuck => Err(STUCK.into()),
            () = last_idle(&client.activity), if is_idle => Ok(()),
        }
    }
}

const STUCK: &str = "the client takes nothing of a response";

/// Waits until the client has had time to read that the connection ends, and its requests have ended.
async fn last_idle(activity: &Activity) {
    sleep(LAST_IDLE).await;
    activity.idle(LAST_IDLE).await;
}
