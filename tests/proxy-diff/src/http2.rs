//! A client of HTTP/2 without TLS.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Uri};
use tokio::{net::TcpStream, runtime, time::timeout};

use crate::{Request, client::Response};

/// Fields of a connection, which HTTP/2 does not have (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [&str; 4] = ["connection", "keep-alive", "te", "transfer-encoding"];

/// Whether HTTP/2 can express a request.
pub(crate) fn has(request: &Request) -> bool {
    let mut names = request.headers.iter().map(|(name, _)| name.to_lowercase());
    request.target.starts_with('/') && !names.any(|name| OF_CONNECTIONS.contains(&&*name))
}

/// Sends a request over a new connection.
pub(crate) fn exchange(server: &str, longest: Duration, request: &Request) -> Result<Response> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { timeout(longest, send(server, request)).await? })
}

async fn send(server: &str, request: &Request) -> Result<Response> {
    let stream = TcpStream::connect((server, 80)).await?;
    let (mut client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let (hosts, fields): (Vec<_>, Vec<_>) = request
        .headers
        .iter()
        .partition(|(name, _)| name.eq_ignore_ascii_case("host"));
    let (_, host) = hosts.first().context("no host")?;
    let uri = Uri::builder().scheme("http").authority(host.as_str());
    let uri = uri.path_and_query(request.target.as_str()).build()?;
    let mut head = http::Request::builder()
        .method(request.method.as_str())
        .uri(uri);
    for (name, value) in fields {
        head = head.header(name, value);
    }
    let body = Bytes::from(request.body.clone());
    let (response, mut sending) = client.send_request(head.body(())?, body.is_empty())?;
    if !body.is_empty() {
        sending.send_data(body, true)?;
    }
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend(data);
    }
    connection.abort();
    Ok(Response {
        status: head.status.as_u16(),
        headers: by_name(&head.headers),
        body: bytes,
    })
}

/// Header fields by name; several of one name are joined by newlines.
fn by_name(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let values = fields.entry(name.to_string()).or_default();
        if !values.is_empty() {
            values.push('\n');
        }
        values.push_str(&value);
    }
    fields
}
