//! The server's side of a handshake.

use std::sync::Arc;

use anyhow::Result;
use headgate_model::edge::{ClientCheck, Listener};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::{provider::provider, store::CertificateStore, verifier::AnyCertificate};
use crate::fetch::read_roots;

/// The settings of a listener, with session tickets of its own: sessions of other listeners do not
/// continue here.
#[derive(Clone, Debug)]
pub(crate) struct TlsSettings {
    /// For clients that are not asked for a certificate.
    pub(crate) silent: Arc<ServerConfig>,
    /// For those that are.
    pub(crate) asking: Arc<ServerConfig>,
    pub(crate) demands: Arc<Demands>,
}

/// What all clients of a listener must do. A session that was begun otherwise must not continue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demands {
    check: Option<ClientCheck>,
    /// Whether they speak what an endpoint understands, and not HTTP with this proxy.
    is_stream: bool,
}

impl TlsSettings {
    /// New settings, for clients of which nothing is demanded.
    ///
    /// # Errors
    ///
    /// Fails if no key for tickets can be generated.
    pub(crate) fn new(certificates: Arc<CertificateStore>) -> Result<Self> {
        Self::demanding(certificates, Demands::default())
    }

    fn demanding(certificates: Arc<CertificateStore>, demands: Demands) -> Result<Self> {
        let any = || Arc::new(AnyCertificate::new());
        let silent: Arc<dyn ClientCertVerifier> = match &demands.check {
            None => Arc::new(NoClientAuth),
            Some(ClientCheck::Asked) => any(),
            Some(ClientCheck::Required(authorities)) => {
                let roots = Arc::new(read_roots(authorities)?);
                WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?
            }
        };
        let asking = match &demands.check {
            None => any(),
            Some(_) => silent.clone(),
        };
        let is_stream = demands.is_stream;
        Ok(Self {
            silent: server_config(certificates.clone(), silent, is_stream)?,
            asking: server_config(certificates, asking, is_stream)?,
            demands: Arc::new(demands),
        })
    }

    /// The settings of a listener with other certificates: the same while clients must do the same.
    ///
    /// # Errors
    ///
    /// Fails if the authorities for certificates of clients are invalid.
    pub(crate) fn of(
        &self,
        listener: &Listener,
        certificates: Arc<CertificateStore>,
    ) -> Result<Self> {
        let demands = Demands {
            check: listener.client_check.clone(),
            is_stream: listener.streams.is_some(),
        };
        match demands == *self.demands {
            true => Ok(self.with(certificates)),
            false => Self::demanding(certificates, demands),
        }
    }

    /// Settings by which every handshake fails.
    pub(crate) fn closed(&self) -> Self {
        self.with(Arc::default())
    }

    /// The same settings for other certificates.
    fn with(&self, certificates: Arc<CertificateStore>) -> Self {
        let with = |config: &ServerConfig| {
            let mut config = config.clone();
            config.cert_resolver = certificates.clone();
            Arc::new(config)
        };
        Self {
            silent: with(&self.silent),
            asking: with(&self.asking),
            demands: self.demands.clone(),
        }
    }
}

/// Returns settings for TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1, unless it is a stream, with session tickets.
///
/// # Errors
///
/// Fails if no key for tickets can be generated.
fn server_config(
    certificates: Arc<CertificateStore>,
    clients: Arc<dyn ClientCertVerifier>,
    is_stream: bool,
) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = builder.with_client_cert_verifier(clients);
    let mut config = builder.with_cert_resolver(certificates);
    if !is_stream {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Returns the server name of a ClientHello in lower case, as hosts are written in routes.
pub(crate) fn server_name(hello: &ClientHello<'_>) -> Option<String> {
    hello.server_name().map(str::to_ascii_lowercase)
}
