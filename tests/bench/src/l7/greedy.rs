//! Memory of the proxies while clients ask for much over HTTP/2 and read nothing.

use std::{
    fs::File,
    io::{self, Write},
    net::TcpStream,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use headgate_netns::Netns;

use super::proxies::ADDRESS;
use crate::{Table, tools::resident};

pub(super) const TITLE: &str = "8 HTTP/2 connections that read nothing: memory";

const CONNECTIONS: usize = 8;
const REQUESTS: u32 = 100;
/// The largest window of flow control (RFC 9113, 6.9.1).
const WINDOW: u32 = (1 << 31) - 1;
/// The response to each request, in bytes.
const SIZE: u64 = 50 << 20;

/// Makes the file that the backend sends.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    Ok(File::create(folder.join("large"))?.set_len(SIZE)?)
}

/// Measures the largest growth of each process within some seconds. Ports are for HTTP/2 without TLS.
pub(super) fn measure(netns: &Netns, proxies: &[(&'static str, u16, u32)]) -> Result<Table> {
    let how = format!("{REQUESTS} requests for {} MiB on each", SIZE >> 20);
    let mut table = Table::new(TITLE, "MiB more", &how, "nginx");
    for (name, port, process) in proxies {
        let (port, before) = (*port, resident(*process)?);
        let clients = netns.run(move || connect(port)).context(*name)?;
        let mut most = before;
        for _ in 0..30 {
            thread::sleep(Duration::from_millis(100));
            most = most.max(resident(*process)?);
        }
        drop(clients);
        table.add(name, &[most - before]);
    }
    Ok(table)
}

fn connect(port: u16) -> io::Result<Vec<TcpStream>> {
    let client = |_| {
        let mut stream = TcpStream::connect((ADDRESS, port))?;
        stream.write_all(&requests())?;
        Ok(stream)
    };
    (0..CONNECTIONS).map(client).collect()
}

/// The preface, windows, and all requests.
fn requests() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(
        4,
        0,
        0,
        &[&[0, 4][..], &WINDOW.to_be_bytes()].concat(),
    ));
    bytes.extend(frame(8, 0, 0, &(WINDOW - 65_535).to_be_bytes()));
    let mut section = Vec::new();
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "bench.example.com"),
        (":path", "/large"),
    ] {
        section.push(0);
        for text in [name, value] {
            section.push(text.len() as u8);
            section.extend(text.as_bytes());
        }
    }
    for number in 0..REQUESTS {
        bytes.extend(frame(1, 5, 2 * number + 1, &section));
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()];
    [&head.concat(), payload].concat()
}
