//! Frames of HTTP/2 (RFC 9113, 4) that no library sends.

use std::net::SocketAddr;

use tokio::{io::AsyncReadExt, time::timeout};

use crate::client::{Client, LONGEST};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Encodes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Encodes a field section without compression (RFC 7541, 6.2.2). Lengths are below 127.
pub(crate) fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            assert!(text.len() < 127);
            out.extend(text.as_bytes());
        }
    }
    out
}

/// Encodes the fields of a request, followed by `more`.
pub(crate) fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    request_to("a.test", method, path, more)
}

/// As [`request`], to another authority.
pub(crate) fn request_to(
    authority: &str,
    method: &str,
    path: &str,
    more: &[(&str, &str)],
) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path),
    ];
    section(&[&fields, more].concat())
}

/// Connects, and sends the preface.
pub(crate) async fn connect(address: SocketAddr) -> Client {
    let mut client = Client::connect(address).await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send(frame(SETTINGS, 0, 0, &[])).await;
    client
}

/// Connects as a client whose windows are as large as they can be.
pub(crate) async fn connect_greedy(address: SocketAddr) -> Client {
    const MOST: u32 = (1 << 31) - 1;
    let mut client = Client::connect(address).await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let window = [&[0, 4][..], &MOST.to_be_bytes()].concat();
    client.send(frame(SETTINGS, 0, 0, &window)).await;
    let more = (MOST - 65_535).to_be_bytes();
    client.send(frame(WINDOW_UPDATE, 0, 0, &more)).await;
    client
}

/// Reads a frame: kind, flags, stream and payload. `None` if the connection is closed.
pub(crate) async fn next(client: &mut Client) -> Option<(u8, u8, u32, Vec<u8>)> {
    let read = timeout(LONGEST, async {
        let mut head = [0; 9];
        client.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; length as usize];
        client.0.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    });
    read.await.expect("the connection is silent")
}

/// Reads until a frame of one of these kinds, and returns its kind; `None` if the connection is
/// closed before.
pub(crate) async fn until(client: &mut Client, kinds: &[u8]) -> Option<u8> {
    loop {
        let (kind, ..) = next(client).await?;
        if kinds.contains(&kind) {
            return Some(kind);
        }
    }
}
