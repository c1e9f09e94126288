//! Verifies certificates of endpoints by several names.

use std::sync::Arc;

use headgate_model::edge::SubjectName;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::provider::provider;

/// Accepts endpoints whose certificate has one of several names, whatever name they were asked for.
#[derive(Debug)]
pub(crate) struct Named {
    roots: Arc<RootCertStore>,
    names: Vec<SubjectName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Named {
    pub(crate) fn new(roots: Arc<RootCertStore>, names: Vec<SubjectName>) -> Self {
        Self {
            roots,
            names,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    fn has_name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map(|names| &names.value.general_names);
        let mut names = names.into_iter().flatten();
        names.any(|name| self.names.iter().any(|wanted| is_name(wanted, name)))
    }
}

/// Whether a name of a certificate is the one that is wanted (RFC 9525, 6.3 for DNS names).
fn is_name(wanted: &SubjectName, name: &GeneralName<'_>) -> bool {
    match (wanted, name) {
        (SubjectName::Dns(wanted), GeneralName::DNSName(name)) => {
            let (wanted, name) = (wanted.to_ascii_lowercase(), name.to_ascii_lowercase());
            wanted == name || is_below(&wanted, &name) || is_below(&name, &wanted)
        }
        (SubjectName::Uri(wanted), GeneralName::URI(name)) => wanted == name,
        _ => false,
    }
}

/// Whether a name has one label in front of that of a wildcard.
fn is_below(name: &str, wildcard: &str) -> bool {
    let end = wildcard.strip_prefix("*.");
    let both = end.zip(name.split_once('.'));
    both.is_some_and(|(end, (label, rest))| label != "*" && !label.is_empty() && rest == end)
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            others,
            now,
            self.algorithms.all,
        )?;
        match self.has_name(certificate) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::edge::SubjectName;
    use x509_parser::prelude::GeneralName;

    use super::is_name;

    #[test]
    fn g110_names_of_endpoints() {
        for (wanted, name, expected) in [
            ("a.b", "a.b", true),
            ("A.b", "a.B", true),
            ("a.b", "*.b", true),
            ("*.b", "a.b", true),
            ("*.b", "*.b", true),
            ("*.b", "x.a.b", false),
            ("x.a.b", "*.b", false),
            ("b", "*.b", false),
            ("*.b", "*.a.b", false),
        ] {
            let dns = SubjectName::Dns(wanted.into());
            assert_eq!(
                is_name(&dns, &GeneralName::DNSName(name)),
                expected,
                "{wanted} {name}"
            );
            assert!(!is_name(&dns, &GeneralName::URI(name)));
            let uri = SubjectName::Uri(wanted.into());
            assert_eq!(is_name(&uri, &GeneralName::URI(name)), wanted == name);
            assert!(!is_name(&uri, &GeneralName::DNSName(name)));
        }
    }
}
