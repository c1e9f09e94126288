//! The server's side of a handshake.

use std::sync::Arc;

use anyhow::Result;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    version::{TLS12, TLS13},
};

use super::{provider::provider, verifier::AnyCertificate};

/// Returns settings for TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1, with session tickets. If
/// `requests_certificate`, the handshake accepts any client certificate; requests are checked later.
///
/// # Errors
///
/// Fails if no key for tickets can be generated.
pub(crate) fn server_config(
    certificates: Arc<dyn ResolvesServerCert>,
    requests_certificate: bool,
) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match requests_certificate {
        true => builder.with_client_cert_verifier(Arc::new(AnyCertificate::new())),
        false => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Returns the server name of a ClientHello in lower case, as hosts are written in routes.
pub(crate) fn server_name(hello: &ClientHello<'_>) -> Option<String> {
    hello.server_name().map(str::to_ascii_lowercase)
}
