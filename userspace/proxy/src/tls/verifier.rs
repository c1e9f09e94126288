//! Verifiers for certificates whose chain is not checked in the handshake.

use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::provider::provider;

/// Accepts every certificate whose key the peer has, and clients without one.
///
/// The chain of a client is verified per request, so that the failure is an HTTP response.
#[derive(Debug)]
pub(crate) struct AnyCertificate(WebPkiSupportedAlgorithms);

impl AnyCertificate {
    pub(crate) fn new() -> Self {
        Self(provider().signature_verification_algorithms)
    }
}

/// Whether a certificate is of X.509 version 3. The verifiers of rustls parse no other.
fn has_extensions(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.version() == X509Version::V3)
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    use SignatureScheme::{RSA_PKCS1_SHA1, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512};
    [
        RSA_PKCS1_SHA1,
        RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512,
    ]
    .contains(&scheme)
}

impl AnyCertificate {
    /// Verifies a signature by the key of a certificate of version 1. The key fits only algorithms of its
    /// own kind.
    fn verify_by_key(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = X509Certificate::from_der(certificate);
        let (_, parsed) = parsed.map_err(|_invalid| Error::from(CertificateError::BadEncoding))?;
        let key = &parsed.public_key().subject_public_key.data;
        let fit = self
            .0
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signature.scheme);
        let mut algorithms = fit.flat_map(|(_, algorithms)| *algorithms);
        let is_valid = algorithms.any(|algorithm| {
            let verified = algorithm.verify_signature(key, message, signature.signature());
            verified.is_ok()
        });
        match is_valid {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match has_extensions(certificate) {
            true => verify_tls12_signature(message, certificate, signature, &self.0),
            false => self.verify_by_key(message, certificate, signature),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match has_extensions(certificate) {
            true => verify_tls13_signature(message, certificate, signature, &self.0),
            // TLS 1.3 has no signatures of this kind (RFC 8446, 4.2.3).
            false if is_pkcs1(signature.scheme) => Err(Error::General("PKCS #1".into())),
            false => self.verify_by_key(message, certificate, signature),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Accepts every endpoint. A signature proves that the endpoint has the key of its certificate, which says
/// nothing if the certificate is not verified. Keys that are too short for rustls would fail here.
#[derive(Debug)]
pub(crate) struct Unverified(WebPkiSupportedAlgorithms);

impl Unverified {
    pub(crate) fn new() -> Self {
        Self(provider().signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use headgate_model::{
        NamespacedName,
        edge::{Certificate, Listener},
    };
    use tokio::io::duplex;
    use tokio_rustls::{
        TlsAcceptor, TlsConnector,
        rustls::{
            ClientConfig, ServerConfig,
            pki_types::ServerName,
            sign::SingleCertAndKey,
            version::{TLS12, TLS13},
        },
    };

    use super::{AnyCertificate, Unverified};
    use crate::tls::{
        provider::provider,
        store::{CertificateStore, Parsed},
    };

    /// A certificate of X.509 version 1 and its key, made by `openssl x509 -req -signkey`.
    const CHAIN: &[u8] = include_bytes!("testdata/version-1.crt");
    const KEY: &[u8] = include_bytes!("testdata/version-1.key");

    /// Both sides show a certificate of version 1, and accept any.
    #[tokio::test]
    async fn l139_certificates_of_version_1_are_shown_and_accepted() {
        let certificate = Arc::new(Certificate {
            secret: NamespacedName::new("default", "tls"),
            chain: CHAIN.into(),
            key: KEY.into(),
        });
        let listener = Listener {
            certificates: [("a.test".into(), certificate)].into(),
            ..Listener::default()
        };
        let mut refusals = Vec::new();
        let store = CertificateStore::with_own().unwrap().update(
            &listener,
            &mut Parsed::new(),
            &mut refusals,
        );
        assert_eq!(refusals, []);
        let shown = store.find(Some("a.test")).unwrap().clone();
        for version in [&TLS12, &TLS13] {
            let server = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_client_cert_verifier(Arc::new(AnyCertificate::new()))
                .with_cert_resolver(Arc::new(SingleCertAndKey::from((*shown).clone())));
            let client = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified::new()))
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from((*shown).clone())));
            let (here, there) = duplex(1 << 16);
            let name = ServerName::try_from("a.test").unwrap();
            let (accepted, connected) = tokio::join!(
                TlsAcceptor::from(Arc::new(server)).accept(here),
                TlsConnector::from(Arc::new(client)).connect(name, there)
            );
            connected.unwrap();
            let accepted = accepted.unwrap();
            assert!(accepted.get_ref().1.peer_certificates().is_some());
        }
    }
}
