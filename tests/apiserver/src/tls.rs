//! A certificate authority made for one server, and the kubeconfig that trusts it.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::options::StartError;

/// The authority of a server, and the names and addresses of its certificates.
pub(crate) struct Identity {
    authority: CertifiedIssuer<'static, KeyPair>,
    addresses: Vec<IpAddr>,
    names: Vec<String>,
}

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Tls {
        source: Box::new(source),
    }
}

impl Identity {
    /// Makes an authority for these addresses, these names, and the names of the API in a cluster.
    pub(crate) fn new(addresses: &[IpAddr], names: &[String]) -> Result<Self, StartError> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "headgate test authority");
        let key = KeyPair::generate().map_err(failed)?;
        Ok(Self {
            authority: CertifiedIssuer::self_signed(authority, key).map_err(failed)?,
            addresses: addresses.into(),
            names: names.into(),
        })
    }

    /// The authority's certificate.
    pub(crate) fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// A TLS acceptor with a new certificate of the authority.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, StartError> {
        let mut dns = vec![
            "localhost".to_owned(),
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            "kubernetes.default.svc.cluster.local".to_owned(),
        ];
        dns.extend(self.names.iter().cloned());
        let mut leaf = CertificateParams::new(dns).map_err(failed)?;
        leaf.distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        leaf.subject_alt_names
            .extend(self.addresses.iter().copied().map(SanType::IpAddress));
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let leaf = leaf.signed_by(&key, &self.authority).map_err(failed)?;

        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .map_err(failed)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config).into())
    }
}

/// A kubeconfig with one cluster, one user and one context.
pub(crate) fn kubeconfig(url: &str, ca_pem: Option<&str>, token: Option<&str>) -> String {
    use base64::Engine as _;
    let mut text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: headgate\n  cluster:\n    server: {url}\n"
    );
    if let Some(pem) = ca_pem {
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        text.push_str(&format!("    certificate-authority-data: {data}\n"));
    }
    text.push_str("users:\n- name: headgate\n  user:");
    match token {
        Some(token) => text.push_str(&format!("\n    token: {}\n", serde_json::json!(token))),
        None => text.push_str(" {}\n"),
    }
    text.push_str(
        "contexts:\n- name: headgate\n  context:\n    cluster: headgate\n    user: headgate\ncurrent-context: headgate\n",
    );
    text
}
