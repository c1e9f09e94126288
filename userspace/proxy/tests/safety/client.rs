//! A client that sends arbitrary bytes.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest wait: reached only if the proxy never responds.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// The proxy may have closed the connection already.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.0.write_all(bytes.as_ref()).await);
    }

    /// Reads until the proxy closes the connection.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = timeout(LONGEST, self.0.read_to_end(&mut bytes)).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(read.is_ok(), "the connection is still open after {text:?}");
        text
    }

    /// Reads until the text ends with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let byte = timeout(LONGEST, self.0.read_u8()).await;
            let text = || String::from_utf8_lossy(&bytes).into_owned();
            let byte = byte.unwrap_or_else(|_| panic!("nothing after {:?}", text()));
            bytes.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", text())));
        }
        String::from_utf8(bytes).unwrap()
    }
}
