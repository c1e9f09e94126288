//! Listening for HTTP.

#[cfg(feature = "proxy")]
use std::{
    fs,
    net::AddrParseError,
    path::{Path, PathBuf},
    str::FromStr,
};
use std::{net::SocketAddr, time::Duration};

use axum::Router;
#[cfg(feature = "proxy")]
use tokio::net::UnixListener;
use tokio::{net::TcpListener, time::sleep};
use tracing::warn;

/// How long to wait before an address that is in use is tried again.
const RETRY: Duration = Duration::from_secs(5);

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
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => warn!(%address, %error, "cannot listen"),
        }
        sleep(RETRY).await;
    };
    if let Err(error) = axum::serve(listener, router).await {
        warn!(%address, %error, "cannot serve");
    }
}

/// Serves on a Unix socket until it is dropped. A socket file that is there already is replaced.
#[cfg(feature = "proxy")]
pub(crate) async fn serve_socket(path: &Path, router: Router) {
    let _absent = fs::remove_file(path);
    let result = match UnixListener::bind(path) {
        Ok(listener) => axum::serve(listener, router).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        warn!(path = %path.display(), %error, "cannot listen");
    }
    std::future::pending().await
}
