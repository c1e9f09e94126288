//! A small HTTP client, for a process to ask another one on this machine.

use std::time::Duration;

use anyhow::{Context, Result};
use http::{
    Request, StatusCode,
    header::{CONNECTION, HOST},
};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime,
    time::timeout,
};

use super::ListenAddress;

/// Maximum time for connecting and for the whole response.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

/// Sends `GET target` and waits for the response.
///
/// # Errors
/// If nothing listens there, or there is no complete response within 3 s.
pub(crate) fn get(address: &ListenAddress, target: &str) -> Result<Reply> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let reply = timeout(TIMEOUT, ask(address, target)).await;
        reply.with_context(|| format!("no response within {} s", TIMEOUT.as_secs()))?
    })
}

async fn ask(address: &ListenAddress, target: &str) -> Result<Reply> {
    match address {
        ListenAddress::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            exchange(stream, &address.to_string(), target).await
        }
        ListenAddress::Unix(path) => {
            exchange(UnixStream::connect(path).await?, "localhost", target).await
        }
    }
}

async fn exchange<S>(stream: S, host: &str, target: &str) -> Result<Reply>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(target)
        .header(HOST, host)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Reply {
        status: head.status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        os::unix::net::UnixListener,
        thread,
    };

    use http::StatusCode;

    use super::{ListenAddress, get};

    const RESPONSE: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n\
          4\r\nnot \r\n6\r\nready\n\r\n0\r\n\r\n";

    fn answer(mut stream: impl Read + Write) -> String {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(RESPONSE).unwrap();
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn responses_come_over_tcp_and_unix_sockets() {
        let folder = std::env::temp_dir().join(format!("headgate-client-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let _absent = std::fs::remove_file(&path);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        let addresses = [
            ListenAddress::Tcp(tcp.local_addr().unwrap()),
            ListenAddress::Unix(path),
        ];
        let servers = [
            thread::spawn(move || answer(tcp.accept().unwrap().0)),
            thread::spawn(move || answer(unix.accept().unwrap().0)),
        ];
        for (address, server) in addresses.iter().zip(servers) {
            let reply = get(address, "/readyz?a=b").unwrap();
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(reply.body, "not ready\n");
            let request = server.join().unwrap().to_lowercase();
            assert!(request.starts_with("get /readyz?a=b http/1.1\r\nhost: "));
            assert!(get(address, "/").is_err(), "the listener is closed");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
