//! New connections to endpoints.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use headgate_model::ingress::{UpstreamKey, UpstreamProtocol};
use http::{HeaderValue, uri::Scheme};
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
    error::Late,
    http1, http2,
    tls::{self, Tls},
};
use crate::body::BodyError;

/// How the endpoints of an upstream are spoken to.
#[derive(Debug)]
pub(super) struct Dialer {
    protocol: UpstreamProtocol,
    tls: Option<Result<Tls, String>>,
    /// Whether connections begin with a PROXY header, and so belong to one client.
    names_client: bool,
    /// `Host` of requests without.
    pub(super) host: HeaderValue,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    /// The client's address and the one that it came to.
    pub(super) client: Option<(SocketAddr, SocketAddr)>,
    /// Whether the request wants to change the protocol, which only HTTP/1.1 can.
    pub(super) is_upgrade: bool,
    /// Whether it may be one that was used before.
    pub(super) may_reuse: bool,
}

/// A connection for one request.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(Box<http1::Sender>),
    Http2(http2::Stream),
}

/// Why there is no connection.
pub(super) type ConnectError = (ErrorKind, BodyError);

impl Dialer {
    /// As an upstream's policy says.
    pub(super) fn new(key: &UpstreamKey) -> Self {
        let protocol = key.policy.protocol;
        let host = HeaderValue::from_str(&tls::name(key));
        Self {
            protocol,
            tls: protocol.is_tls().then(|| Tls::new(key)),
            names_client: key.policy.proxy_protocol,
            host: host.unwrap_or_else(|_| HeaderValue::from_static("localhost")),
        }
    }

    /// Why no connection can be made.
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

    /// Whether connections are kept for the next request.
    pub(super) fn keeps(&self) -> bool {
        !self.names_client
    }

    /// A connection that is there.
    pub(super) async fn reuse(&self, endpoint: &Endpoint, is_upgrade: bool) -> Option<Connection> {
        let may_http2 = self.protocol != UpstreamProtocol::Http && !is_upgrade;
        if may_http2 && let Some(stream) = endpoint.links.take() {
            return Some(Connection::Http2(stream));
        }
        match self.protocol.is_http2() {
            true => None,
            false => endpoint.idle.take().await.map(Connection::Http1),
        }
    }

    /// A new connection, made in time.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        longest: Duration,
    ) -> Result<Connection, ConnectError> {
        let shares = self.shares(endpoint, purpose.is_upgrade);
        let connected = timeout(longest, async {
            match shares {
                true => self.open_shared(endpoint, purpose).await,
                false => self.open(endpoint, purpose).await,
            }
        });
        let late = |_| Err((ErrorKind::Timeout, Late("connection").into()));
        connected.await.unwrap_or_else(late)
    }

    /// Whether a new connection is likely to serve others that wait for one.
    fn shares(&self, endpoint: &Endpoint, is_upgrade: bool) -> bool {
        let speaks_http2 = self.protocol.is_http2() || endpoint.links.is_chosen.load(Relaxed);
        speaks_http2 && self.keeps() && !is_upgrade
    }

    /// A new connection, unless somebody else makes one meanwhile.
    async fn open_shared(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<Connection, ConnectError> {
        let _turn = endpoint.links.connecting.lock().await;
        match endpoint.links.take() {
            Some(stream) if purpose.may_reuse => Ok(Connection::Http2(stream)),
            _ => self.open(endpoint, purpose).await,
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<Connection, ConnectError> {
        let tls = self.tls.as_ref().map(Result::as_ref).transpose();
        let tls = tls.map_err(|error| (ErrorKind::Tls, error.clone().into()))?;
        let stream = self.open_tcp(endpoint, purpose).await;
        let stream = stream.map_err(|error| (ErrorKind::Connect, error.into()))?;
        match tls {
            None => {
                let is_http2 = self.protocol.is_http2();
                self.speak(stream, is_http2, endpoint).await
            }
            Some(tls) => self.open_tls(tls, stream, endpoint, purpose).await,
        }
    }

    async fn open_tcp(&self, endpoint: &Endpoint, purpose: Purpose) -> io::Result<TcpStream> {
        let mut stream = tcp(endpoint.address).await?;
        if self.names_client {
            stream.write_all(&proxy_header(purpose.client)?).await?;
        }
        Ok(stream)
    }

    async fn open_tls(
        &self,
        tls: &Tls,
        stream: TcpStream,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<Connection, ConnectError> {
        let config = match purpose.is_upgrade && !self.protocol.is_http2() {
            true => &tls.http1,
            false => &tls.any,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(tls.name.clone(), stream).await;
        let stream = stream.map_err(|error| (ErrorKind::Tls, error.into()))?;
        let has_chosen = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if has_chosen {
            endpoint.links.is_chosen.store(true, Relaxed);
        }
        let is_http2 = has_chosen || self.protocol.is_http2();
        self.speak(stream, is_http2, endpoint).await
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
        endpoint: &Endpoint,
    ) -> Result<Connection, ConnectError> {
        let breaks = |error: hyper::Error| (ErrorKind::Broken, error.into());
        if !is_http2 {
            let sender = http1::start(stream).await.map_err(breaks)?;
            return Ok(Connection::Http1(sender));
        }
        let link = http2::start(stream).await.map_err(breaks)?;
        let stream = link.first();
        if self.keeps() {
            endpoint.links.put(link);
        }
        Ok(Connection::Http2(stream))
    }
}

/// A TCP connection.
pub(super) async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The header that names a client, or says that the connection is the proxy's own.
fn proxy_header(client: Option<(SocketAddr, SocketAddr)>) -> io::Result<Vec<u8>> {
    let Some((source, destination)) = client else {
        return Builder::new(Version::Two | Command::Local, 0).build();
    };
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let addresses = (canonical(source), canonical(destination));
    Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses).build()
}
