//! New connections to endpoints.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use headgate_model::edge::{UpstreamKey, UpstreamProtocol};
use http::{HeaderValue, uri::Scheme};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use ppp::v2::{Builder, Command, Protocol, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    ErrorKind,
    endpoint::Endpoint,
    error::TimedOut,
    http1, http2,
    tls::{self, TlsConfigs},
};
use crate::{body::BodyError, server::keep_alive, stream::Stream};

/// Longest time in milliseconds in which an endpoint of calls acknowledges no data (`TCP_USER_TIMEOUT`). Calls have no
/// timeout, and the kernel itself would wait for a quarter of an hour. Pings would be no better: servers of gRPC
/// close connections that send one more often than every five minutes.
const CALLS_UNACKNOWLEDGED_MS: u32 = 120_000;

/// Opens connections to the endpoints of one upstream.
#[derive(Debug)]
pub(super) struct Dialer {
    protocol: UpstreamProtocol,
    tls: Option<Result<TlsConfigs, String>>,
    /// Whether each connection begins with a PROXY protocol header and so belongs to one client.
    sends_proxy_header: bool,
    /// The `Host` of requests that have none.
    pub(super) host: HeaderValue,
}

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    /// The client's address and the local address that it connected to.
    pub(super) client: Option<(SocketAddr, SocketAddr)>,
    /// Whether the request has `Upgrade`, which only HTTP/1.1 supports.
    pub(super) is_upgrade: bool,
    /// Whether a pooled connection may be used.
    pub(super) may_reuse: bool,
}

/// A connection, or a stream of one, for one request.
#[derive(Debug)]
pub(super) enum UpstreamConn {
    Http1(Box<http1::Http1Conn>),
    Http2(http2::Http2Stream),
}

/// Why no connection was opened.
pub(super) type ConnectError = (ErrorKind, BodyError);

impl Dialer {
    /// A dialer with the protocol and TLS settings of the upstream's policy.
    pub(super) fn new(key: &UpstreamKey) -> Self {
        let protocol = key.policy.protocol;
        let host = HeaderValue::from_str(&tls::name(key));
        Self {
            protocol,
            tls: protocol.is_tls().then(|| TlsConfigs::new(key)),
            sends_proxy_header: key.policy.proxy_protocol,
            host: host.unwrap_or_else(|_| HeaderValue::from_static("localhost")),
        }
    }

    /// Why every connection would fail: the TLS settings are invalid.
    pub(super) fn error(&self) -> Option<&str> {
        self.tls.as_ref()?.as_ref().err().map(String::as_str)
    }

    /// The scheme of requests.
    pub(super) fn scheme(&self) -> Scheme {
        match self.protocol.is_tls() {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        }
    }

    /// Whether connections are pooled for later requests.
    pub(super) fn is_pooling(&self) -> bool {
        !self.sends_proxy_header
    }

    /// Whether every connection is HTTP/1.1 without TLS, and for any client.
    pub(super) fn is_plain_http1(&self) -> bool {
        self.protocol == UpstreamProtocol::Http && self.is_pooling()
    }

    /// Takes a pooled connection of the endpoint.
    pub(super) fn take_pooled(
        &self,
        endpoint: &Endpoint,
        is_upgrade: bool,
    ) -> Option<UpstreamConn> {
        let may_http2 = self.protocol != UpstreamProtocol::Http && !is_upgrade;
        if may_http2 && let Some(stream) = endpoint.http2.take() {
            return Some(UpstreamConn::Http2(stream));
        }
        match self.protocol.is_http2() {
            true => None,
            false => endpoint.http1.take().map(UpstreamConn::Http1),
        }
    }

    /// Opens a connection, including its TLS handshake, within `longest`.
    ///
    /// # Errors
    ///
    /// Fails if the endpoint refuses, TLS fails, or the time is over.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        longest: Duration,
    ) -> Result<UpstreamConn, ConnectError> {
        let is_shared = self.may_share(endpoint, purpose.is_upgrade);
        let connected = timeout(longest, async {
            match is_shared {
                true => self.open_shared(endpoint, purpose).await,
                false => self.open(endpoint, purpose).await,
            }
        });
        let late = |_| Err((ErrorKind::Timeout, TimedOut("connection").into()));
        connected.await.unwrap_or_else(late)
    }

    /// Whether the new connection will probably be HTTP/2, which waiting requests can share.
    fn may_share(&self, endpoint: &Endpoint, is_upgrade: bool) -> bool {
        let speaks_http2 = self.protocol.is_http2() || endpoint.http2.is_negotiated.load(Relaxed);
        speaks_http2 && self.is_pooling() && !is_upgrade
    }

    /// Opens a connection, unless another request opens one meanwhile: then shares that.
    async fn open_shared(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<UpstreamConn, ConnectError> {
        let _turn = endpoint.http2.connecting.lock().await;
        match endpoint.http2.take() {
            Some(stream) if purpose.may_reuse => Ok(UpstreamConn::Http2(stream)),
            _ => self.open(endpoint, purpose).await,
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<UpstreamConn, ConnectError> {
        let tls = self.tls.as_ref().map(Result::as_ref).transpose();
        let tls = tls.map_err(|error| (ErrorKind::Tls, error.clone().into()))?;
        let stream = self.open_tcp(endpoint, purpose).await;
        let stream = stream.map_err(|error| (ErrorKind::Connect, error.into()))?;
        match tls {
            None => {
                let is_http2 = self.protocol.is_http2();
                self.handshake(stream, is_http2, endpoint).await
            }
            Some(tls) => self.open_tls(tls, stream, endpoint, purpose).await,
        }
    }

    /// Opens a connection for bytes of a client.
    ///
    /// # Errors
    ///
    /// Fails if the endpoint refuses, or TLS fails.
    pub(super) async fn open_bytes(&self, endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
        let tls = self.tls.as_ref().map(Result::as_ref).transpose();
        let tls = tls.map_err(|error| io::Error::other(error.clone()))?;
        let stream = tcp(endpoint.address).await?;
        let Some(tls) = tls else {
            return Ok(Box::new(stream));
        };
        let connector = TlsConnector::from(Arc::clone(&tls.bytes));
        Ok(Box::new(connector.connect(tls.name.clone(), stream).await?))
    }

    async fn open_tcp(&self, endpoint: &Endpoint, purpose: Purpose) -> io::Result<TcpStream> {
        let mut stream = tcp(endpoint.address).await?;
        if matches!(
            self.protocol,
            UpstreamProtocol::Grpc | UpstreamProtocol::Grpcs
        ) {
            setsockopt(&stream, TcpUserTimeout, &CALLS_UNACKNOWLEDGED_MS)?;
        }
        if self.sends_proxy_header {
            stream.write_all(&proxy_header(purpose.client)?).await?;
        }
        Ok(stream)
    }

    async fn open_tls(
        &self,
        tls: &TlsConfigs,
        stream: TcpStream,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<UpstreamConn, ConnectError> {
        let config = match purpose.is_upgrade && !self.protocol.is_http2() {
            true => &tls.http1,
            false => &tls.any,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(tls.name.clone(), stream).await;
        let stream = stream.map_err(|error| (ErrorKind::Tls, error.into()))?;
        let chose_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if chose_http2 {
            endpoint.http2.is_negotiated.store(true, Relaxed);
        }
        let is_http2 = chose_http2 || self.protocol.is_http2();
        self.handshake(stream, is_http2, endpoint).await
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
        endpoint: &Endpoint,
    ) -> Result<UpstreamConn, ConnectError> {
        if !is_http2 {
            return Ok(UpstreamConn::Http1(http1::Http1Conn::new(stream)));
        }
        let broken = |error: hyper::Error| (ErrorKind::Broken, error.into());
        let conn = http2::start(stream).await.map_err(broken)?;
        let stream = conn.first_stream();
        if self.is_pooling() {
            endpoint.http2.put(conn);
        }
        Ok(UpstreamConn::Http2(stream))
    }
}

/// Opens a TCP connection with `TCP_NODELAY`.
pub(super) async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    Ok(stream)
}

/// A PROXY protocol v2 header: with the client's addresses, or `LOCAL` for the proxy's own requests.
fn proxy_header(client: Option<(SocketAddr, SocketAddr)>) -> io::Result<Vec<u8>> {
    let Some((source, destination)) = client else {
        return Builder::new(Version::Two | Command::Local, 0).build();
    };
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let addresses = (canonical(source), canonical(destination));
    Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses).build()
}
