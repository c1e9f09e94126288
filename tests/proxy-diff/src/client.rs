//! A client that sends a request byte for byte as the case has it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// A request.
#[derive(Debug)]
pub struct Request {
    /// The text of the case that it is from.
    pub name: String,
    /// The host of the case, which the TLS handshake names.
    pub host: String,
    /// Whether it is sent over HTTPS.
    pub is_tls: bool,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its header fields, in their order.
    pub headers: Vec<(String, String)>,
    /// Its body, with its framing.
    pub body: String,
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
    let port = if request.is_tls { 443 } else { 80 };
    let stream = TcpStream::connect((server, port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let response = if request.is_tls {
        let name = ServerName::try_from(request.host.clone())?;
        let client = ClientConnection::new(tls.clone(), name)?;
        talk(StreamOwned::new(client, stream), request)
    } else {
        talk(stream, request)
    };
    Ok(crate::Seen::of(&response?))
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
