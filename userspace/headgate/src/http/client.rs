//! Asking a proxy on this machine, at the address of its metrics.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// Longest time that a proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Which proxy is asked.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Place {
    /// Which proxy to ask: its --metrics-bind-address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10245")]
    proxy: SocketAddr,
}

/// What the proxy says at a path, with these parameters.
pub(crate) fn ask<T: DeserializeOwned>(
    place: Place,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let target = format!("{path}?{}", query.extend_pairs(parameters).finish());
    let address = place.proxy;
    let answer = fetch(address, &target);
    let answer = answer.with_context(|| format!("no proxy answers at {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    match head.split(' ').nth(1) {
        Some("200") => serde_json::from_str(body)
            .with_context(|| format!("what {address} says is not of a proxy of this version")),
        Some("400") => bail!("{}", body.trim()),
        _ => bail!("what answers at {address} is no proxy of this version"),
    }
}

fn fetch(address: SocketAddr, target: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0: the answer ends with the connection, in one piece.
    let request = format!("GET {target} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
