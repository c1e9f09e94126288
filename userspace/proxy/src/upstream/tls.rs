//! TLS connections to endpoints.

use std::sync::Arc;

use headgate_model::edge::{Trust, UpstreamKey, UpstreamProtocol, UpstreamTls};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::{
    fetch::system_roots,
    tls::{named::Named, provider::provider, verifier::Unverified},
};

/// The TLS client configurations of an upstream.
#[derive(Debug)]
pub(super) struct TlsConfigs {
    /// Offers the versions that the upstream's protocol allows (ALPN).
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only, for requests with `Upgrade`.
    pub(super) http1: Arc<ClientConfig>,
    /// Offers no protocol, for connections that carry what clients send.
    pub(super) bytes: Arc<ClientConfig>,
    /// The name that is sent (SNI) and verified.
    pub(super) name: ServerName<'static>,
}

impl TlsConfigs {
    /// The configurations of an upstream's policy.
    ///
    /// # Errors
    ///
    /// Says which setting is invalid: authorities, own certificate or key, or server name.
    pub(super) fn new(key: &UpstreamKey) -> Result<Self, String> {
        let policy = &key.policy.tls;
        let name = name(key);
        let server = ServerName::try_from(name.clone());
        let mut any = config(policy)?;
        let mut http1 = any.clone();
        let bytes = Arc::new(any.clone());
        any.alpn_protocols = match key.policy.protocol {
            UpstreamProtocol::Https => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            UpstreamProtocol::Grpcs | UpstreamProtocol::Grpc | UpstreamProtocol::Http2 => {
                vec![b"h2".to_vec()]
            }
            UpstreamProtocol::Http => Vec::new(),
        };
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            any: Arc::new(any),
            http1: Arc::new(http1),
            bytes,
            name: server.map_err(|error| format!("name {name}: {error}"))?,
        })
    }
}

/// The server name: the policy's, or `SERVICE.NAMESPACE.svc`.
pub(super) fn name(key: &UpstreamKey) -> String {
    let service = || format!("{}.{}.svc", key.service.name, key.service.namespace);
    key.policy.tls.name.clone().unwrap_or_else(service)
}

fn config(policy: &UpstreamTls) -> Result<ClientConfig, String> {
    let provider = provider();
    let verifier = verifier(policy, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((chain, key)) = &policy.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(chain).map_err(|error| format!("own certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("own key: {error}"))?;
    let config = builder.with_client_auth_cert(chain, key);
    config.map_err(|error| format!("own certificate and key: {error}"))
}

fn verifier(
    policy: &UpstreamTls,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let roots = match &policy.trust {
        Trust::Unverified => return Ok(Arc::new(Unverified::new())),
        Trust::System => system_roots(),
        Trust::Authorities(pem) => Arc::new(roots(pem)?),
    };
    if !policy.names.is_empty() {
        return Ok(Arc::new(Named::new(roots, policy.names.clone())));
    }
    let invalid = |error: String| format!("authorities: {error}");
    let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
    let verifier = builder
        .build()
        .map_err(|error| invalid(error.to_string()))?;
    Ok(verifier)
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let invalid = |error: String| format!("authorities: {error}");
    for authority in certificates(pem).map_err(invalid)? {
        roots
            .add(authority)
            .map_err(|error| invalid(error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("no certificate".into()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}
