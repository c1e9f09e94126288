//! A client that sends a request byte for byte as the case has it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::http2;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// The text of the case that it is from.
    pub name: String,
    /// The host of the case, which the TLS handshake names.
    pub host: String,
    /// How it is sent.
    pub transport: Transport,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its header fields, in their order.
    pub headers: Vec<(String, String)>,
    /// Its body, with its framing.
    pub body: String,
}

/// What a request is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 without TLS.
    Http2,
}

/// A response.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Header fields by name in lower case; several of one name are joined by newlines.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// Longest time until an answer; it is reached only if none comes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a request over a new connection, and reads the answer into its fields.
///
/// # Errors
///
/// If the connection fails, or what comes is not a response.
pub fn exchange(server: &str, tls: &Arc<ClientConfig>, request: &Request) -> Result<crate::Seen> {
    let response = match request.transport {
        Transport::Http => talk(connect(server, 80)?, request),
        Transport::Http2 => http2::exchange(server, TIMEOUT, request),
        Transport::Https => {
            let name = ServerName::try_from(request.host.clone())?;
            let client = ClientConnection::new(tls.clone(), name)?;
            talk(StreamOwned::new(client, connect(server, 443)?), request)
        }
    };
    Ok(crate::Seen::of(&response?))
}

/// Sends a request over HTTP/1.1, and returns status and body of the response.
///
/// # Errors
///
/// If the connection fails, or what comes is not a response.
pub fn ask(server: &str, request: &Request) -> Result<(u16, String)> {
    let response = talk(connect(server, 80)?, request)?;
    Ok((response.status, String::from_utf8(response.body)?))
}

/// Sends the head of a request whose body of one byte does not come: it stays in progress. Returns once the
/// server has asked for the body, after its checks.
///
/// # Errors
///
/// If the connection fails.
pub fn hold(server: &str, host: &str) -> Result<TcpStream> {
    let mut stream = connect(server, 80)?;
    let expected = "Content-Length: 1\r\nExpect: 100-continue";
    let text = format!("POST / HTTP/1.1\r\nHost: {host}\r\n{expected}\r\n\r\n");
    stream.write_all(text.as_bytes())?;
    let (line, _) = head(&mut BufReader::new(&stream))?;
    ensure!(line.contains(" 100 "), "{line}");
    Ok(stream)
}

fn connect(server: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((server, port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn talk(mut stream: impl Read + Write, request: &Request) -> Result<Response> {
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    text += &request.body;
    stream.write_all(text.as_bytes())?;
    stream.flush()?;
    let mut reader = BufReader::new(stream);
    let (line, headers) = head(&mut reader)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut response = Response {
        status: status.with_context(|| format!("no response: {line:?}"))?,
        headers,
        body: Vec::new(),
    };
    if request.method != "HEAD" && !matches!(response.status, 204 | 304) {
        response.body = body(&mut reader, &response.headers)?;
    }
    Ok(response)
}

/// Reads a first line and header fields.
pub(crate) fn head(reader: &mut impl BufRead) -> io::Result<(String, BTreeMap<String, String>)> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut headers = BTreeMap::<String, String>::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok((first.trim_end().into(), headers));
        };
        let values = headers.entry(name.to_ascii_lowercase()).or_default();
        if !values.is_empty() {
            values.push('\n');
        }
        values.push_str(value.trim());
    }
}

/// Reads a body by its length, by chunks, or up to the end of the connection.
pub(crate) fn body(
    reader: &mut impl BufRead,
    headers: &BTreeMap<String, String>,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            reader.read_exact(&mut body[start..])?;
            body.truncate(start + size);
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match headers.get("content-length") {
        Some(length) => {
            body.resize(length.parse().map_err(io::Error::other)?, 0);
            reader.read_exact(&mut body)?;
        }
        // The peer may end TLS without a notice.
        None => drop(reader.read_to_end(&mut body)),
    }
    Ok(body)
}
