//! What the first bytes of a TLS connection decide.

use std::{io, sync::Arc};

use bytes::BytesMut;
use headgate_model::edge::GatewayPort;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::rustls::{ServerConfig, server::Acceptor};

use crate::{
    proxy::Proxy,
    tls::server::{Demands, server_name},
    upstream::Upstream,
};

/// Largest ClientHello, in bytes.
const MAX_HELLO: usize = 64 << 10;
/// What is done with a TLS connection.
pub(crate) enum Handling {
    /// Decrypt; what the handshake demands of the client is kept.
    Decrypt(Arc<ServerConfig>, Arc<Demands>),
    Pass(Arc<Upstream>),
    /// Decrypt, and pass the bytes.
    Relay(Arc<Upstream>, Arc<ServerConfig>),
    /// No listener is for its host, or no backend.
    Close,
}

impl Handling {
    /// Returns what is done with a TLS connection for a host.
    pub(crate) fn of(proxy: &Proxy, gateway: Option<&GatewayPort>, name: Option<&str>) -> Self {
        let serving = proxy.serving.load();
        let listener = match gateway {
            None => Some(&serving.ingress),
            Some(gateway) => {
                let port = serving.port(gateway);
                let found = port.and_then(|port| port.listener(name.unwrap_or_default()));
                found.map(|listener| &**listener)
            }
        };
        let Some(listener) = listener else {
            return Self::Close;
        };
        if let Some(streams) = &listener.streams {
            let backend = name.and_then(|name| streams.backend(name)).cloned();
            return match backend {
                Some(upstream) if streams.is_decrypted => {
                    Self::Relay(upstream, listener.tls.silent.clone())
                }
                Some(upstream) => Self::Pass(upstream),
                None => Self::Close,
            };
        }
        if let Some(upstream) = name.and_then(|name| listener.passthrough(name)) {
            return Self::Pass(upstream.clone());
        }
        let config = match listener.asks_certificate(name) {
            true => listener.tls.asking.clone(),
            false => listener.tls.silent.clone(),
        };
        Self::Decrypt(config, listener.tls.demands.clone())
    }
}

/// Reads a ClientHello into `read`, and returns the server name in it.
pub(crate) async fn hello(
    stream: &mut TcpStream,
    read: &mut BytesMut,
) -> io::Result<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        let mut rest = read.get(fed..).unwrap_or_default();
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest)?;
        }
        fed = read.len();
        match acceptor.accept() {
            Ok(None) if fed > MAX_HELLO => return Err(io::ErrorKind::InvalidData.into()),
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(server_name(&accepted.client_hello())),
            // The handshake that follows reports the error to the client.
            Err(_) => return Ok(None),
        }
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
