//! A backend that accepts only requests in the form of RFC 9112, and records every other one.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use headgate_model::edge::path::decoded;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// What the backend received.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Number of complete requests.
    pub(super) requests: u64,
    /// A description of each invalid request.
    pub(super) wrong: Vec<String>,
}

pub(super) struct Backend {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Backend {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = shared.clone();
                // A request that ends early is the client's fault, not the proxy's.
                tokio::spawn(async move { serve(stream, &seen).await.ok() });
            }
        });
        Ok(Self { address, seen })
    }

    /// Returns what was received since the last call.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Stream = BufReader<TcpStream>;

async fn serve(stream: TcpStream, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    // A connection that is passed through starts with a TLS record. Its content is not checked.
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    stream.get_ref().peek(&mut first).await?;
    if first == [HANDSHAKE] {
        return Ok(());
    }
    loop {
        let result = request(&mut stream).await?;
        record(seen, &result);
        if result.is_err() {
            return Ok(());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            .await?;
    }
}

fn record(seen: &Mutex<Seen>, result: &Result<(), String>) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(()) => seen.requests += 1,
        Err(wrong) => seen.wrong.push(wrong.clone()),
    }
}

/// Reads one request. The outer error is about the connection, the inner one about the request.
async fn request(stream: &mut Stream) -> io::Result<Result<(), String>> {
    let Some(first) = line(stream).await? else {
        return Ok(Err("invalid line end or control character".into()));
    };
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Ok(Err(format!("invalid request line: {first:?}")));
    };
    if !method.bytes().all(is_token) || method.is_empty() || !is_readable(target) {
        return Ok(Err(format!("invalid method or path: {first:?}")));
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    loop {
        let Some(field) = line(stream).await? else {
            return Ok(Err("invalid line end or control character".into()));
        };
        if field.is_empty() {
            break;
        }
        let Some((name, value)) = field.split_once(':') else {
            return Ok(Err(format!("field without colon: {field:?}")));
        };
        if name.is_empty() || !name.bytes().all(is_token) {
            return Ok(Err(format!("invalid field name: {field:?}")));
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim().to_owned()),
            "transfer-encoding" => codings.push(value.trim().to_owned()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 {
        return Ok(Err(format!("{hosts} hosts")));
    }
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Ok(())),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let Ok(length) = length.parse() else {
                return Ok(Err(format!("invalid length: {length}")));
            };
            skip(stream, length).await?;
            Ok(Ok(()))
        }
        ([], [coding]) if coding == "chunked" => chunks(stream).await,
        _ => Ok(Err(format!("framed by {lengths:?} and {codings:?}"))),
    }
}

async fn chunks(stream: &mut Stream) -> io::Result<Result<(), String>> {
    loop {
        let size = line(stream).await?;
        let size = size.and_then(|size| usize::from_str_radix(&size, 16).ok());
        let Some(size) = size else {
            return Ok(Err("invalid chunk size".into()));
        };
        if size == 0 {
            break;
        }
        skip(stream, size).await?;
        if line(stream).await?.as_deref() != Some("") {
            return Ok(Err("chunk longer than its size".into()));
        }
    }
    // Trailers.
    while line(stream).await?.is_some_and(|line| !line.is_empty()) {}
    Ok(Ok(()))
}

async fn skip(stream: &mut Stream, len: usize) -> io::Result<()> {
    for _ in 0..len {
        stream.read_u8().await?;
    }
    Ok(())
}

/// Reads a line up to CRLF; `None` if it contains a control character other than tab.
async fn line(stream: &mut Stream) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        bytes.push(stream.read_u8().await?);
    }
    bytes.truncate(bytes.len() - 2);
    let is_good = bytes
        .iter()
        .all(|byte| !byte.is_ascii_control() || *byte == b'\t');
    Ok(is_good.then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether the byte may be part of a token (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether servers can read the path: its escapes are valid, and it does not leave the root.
fn is_readable(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    decoded(path).is_some()
}
