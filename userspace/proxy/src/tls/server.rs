//! The server's side of a handshake.

use std::sync::Arc;

use anyhow::Result;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::ClientHello,
    version::{TLS12, TLS13},
};

use super::{provider::provider, store::CertificateStore, verifier::AnyCertificate};

/// The settings of a listener, with session tickets of its own: sessions of other listeners do not
/// continue here.
#[derive(Clone, Debug)]
pub(crate) struct TlsSettings {
    /// For clients that are not asked for a certificate.
    pub(crate) silent: Arc<ServerConfig>,
    /// For those that are.
    pub(crate) asking: Arc<ServerConfig>,
}

impl TlsSettings {
    /// New settings.
    ///
    /// # Errors
    ///
    /// Fails if no key for tickets can be generated.
    pub(crate) fn new(certificates: Arc<CertificateStore>) -> Result<Self> {
        Ok(Self {
            silent: server_config(certificates.clone(), false)?,
            asking: server_config(certificates, true)?,
        })
    }

    /// The same settings for other certificates.
    pub(crate) fn with(&self, certificates: Arc<CertificateStore>) -> Self {
        let with = |config: &ServerConfig| {
            let mut config = config.clone();
            config.cert_resolver = certificates.clone();
            Arc::new(config)
        };
        Self {
            silent: with(&self.silent),
            asking: with(&self.asking),
        }
    }
}

/// Returns settings for TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1, with session tickets. If
/// `requests_certificate`, the handshake accepts any client certificate; requests are checked later.
///
/// # Errors
///
/// Fails if no key for tickets can be generated.
fn server_config(
    certificates: Arc<CertificateStore>,
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
