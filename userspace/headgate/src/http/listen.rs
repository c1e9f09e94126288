//! Listening for HTTP, on ports that any machine may reach: connections of idle and slow clients
//! are closed, and the number of connections is limited.

use std::{collections::VecDeque, future::Future, net::SocketAddr, time::Duration};
#[cfg(feature = "proxy")]
use std::{
    fs,
    net::AddrParseError,
    path::{Path, PathBuf},
    str::FromStr,
};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
#[cfg(feature = "proxy")]
use tokio::net::UnixListener;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

/// How long to wait before an address that is in use is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a client may take to send the head of a request, and how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long a connection may stay open: a client may read slowly.
const LIFETIME: Duration = Duration::from_secs(300);
/// Connections of a listener. A further one closes the oldest, so that clients that only occupy
/// connections do not keep others out.
const CONNECTIONS: usize = 64;

/// Where HTTP is served.
#[cfg(feature = "proxy")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    /// Address and port.
    Tcp(SocketAddr),
    /// A Unix socket, for a process that shares its network namespace with others.
    Unix(PathBuf),
}

#[cfg(feature = "proxy")]
impl FromStr for ListenAddress {
    type Err = AddrParseError;

    /// A text with a slash is a path.
    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        text.parse().map(Self::Tcp)
    }
}

/// Serves on an address until it is dropped. While the address is in use, it waits and tries again.
pub(crate) async fn serve(address: SocketAddr, router: Router) {
    let mut is_first = true;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if is_first => warn!(%address, %error, "cannot listen; trying again"),
            Err(error) => debug!(%address, %error, "cannot listen"),
        }
        is_first = false;
        sleep(RETRY).await;
    };
    accept_all(listener, router).await;
}

/// Serves on a Unix socket until it is dropped. A socket file that is there already is replaced.
#[cfg(feature = "proxy")]
pub(crate) async fn serve_socket(path: &Path, router: Router) {
    let _absent = fs::remove_file(path);
    match UnixListener::bind(path) {
        Ok(listener) => accept_all(listener, router).await,
        Err(error) => warn!(path = %path.display(), %error, "cannot listen"),
    }
    std::future::pending().await
}

/// Serves each connection. The listener waits after an error of accept(2), for example without free
/// descriptors, and continues.
async fn accept_all(mut listener: impl Listener, router: Router) {
    let mut connections = Connections::default();
    loop {
        let (stream, _) = listener.accept().await;
        connections.add(serve_connection(stream, router.clone()));
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // Clients may leave, or send anything.
    match timeout(LIFETIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection ended"),
        Err(_elapsed) => debug!("connection closed at the end of its lifetime"),
    }
}

/// The open connections of a listener, the oldest first. They end with it.
#[derive(Default)]
struct Connections(VecDeque<JoinHandle<()>>);

impl Connections {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(tokio::spawn(connection));
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for connection in &self.0 {
            connection.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use std::{net::SocketAddr, time::Duration};

    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::{CONNECTIONS, serve};

    async fn served() -> SocketAddr {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = unused.local_addr().unwrap();
        drop(unused);
        let router = Router::new().route("/", get("here"));
        tokio::spawn(serve(address, router));
        for _ in 0..1000 {
            if TcpStream::connect(address).await.is_ok() {
                return address;
            }
            tokio::task::yield_now().await;
        }
        panic!("nothing listens on {address}");
    }

    /// A connection on which half a head was sent.
    async fn half_open(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        stream
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        read.is_ok_and(|result| result.is_err() || rest.is_empty())
    }

    #[tokio::test]
    async fn s143_clients_that_only_hold_connections_do_not_keep_others_out() {
        let address = served().await;
        let mut held = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            held.push(half_open(address).await);
        }
        assert!(ask(address).await.ends_with("here"));
        // The oldest were closed for the others.
        for stream in &mut held[..CONNECTIONS / 2] {
            assert!(is_closed(stream).await);
        }
    }

    #[tokio::test]
    async fn s143_heads_that_never_end_are_given_up() {
        let address = served().await;
        let (mut half, mut idle) = (
            half_open(address).await,
            TcpStream::connect(address).await.unwrap(),
        );
        assert!(is_closed(&mut half).await && is_closed(&mut idle).await);
    }
}
