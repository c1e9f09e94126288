//! What a command asks a running proxy: its table, and the explanation of a request.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use http::StatusCode;
use serde::de::DeserializeOwned;

pub(crate) use super::question::{CLIENT, GATEWAY, HEADER, METHOD, URL};
use crate::{
    http::{ListenAddress, client},
    view::Versioned,
};

/// The address of a proxy.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ProxyAddress {
    /// Address of the proxy: its --metrics-bind-address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10245")]
    proxy: SocketAddr,
}

/// Reads what the proxy returns for a path and parameters.
///
/// # Errors
/// If no proxy of this version listens there, or it refuses a parameter.
pub(crate) fn ask<T: DeserializeOwned>(
    ProxyAddress { proxy: address }: ProxyAddress,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let target = format!("{path}?{}", query.extend_pairs(parameters).finish());
    let reply = client::get(&ListenAddress::Tcp(address), &target);
    let reply = reply.with_context(|| format!("no proxy answers at {address}"))?;
    let other = || format!("{address} is not a proxy of this version");
    match reply.status {
        StatusCode::OK => {
            let reply: Versioned<T> = serde_json::from_str(&reply.body).with_context(other)?;
            Ok(reply.value)
        }
        StatusCode::BAD_REQUEST => bail!("{}", reply.body.trim()),
        _ => bail!("{}", other()),
    }
}
