//! Plain data about handshakes and certificates.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::{ServerConnection, pki_types::CertificateDer};

/// Facts from the TLS handshake of a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshake {
    /// The host that the client asked for (SNI, RFC 6066), in lower case.
    pub(crate) server_name: Option<String>,
    /// The client's certificate, then the others of its chain. The handshake proves that the client
    /// has the key of the first one.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
}

impl Handshake {
    pub(crate) fn of(connection: &ServerConnection) -> Self {
        let certificates = connection.peer_certificates().unwrap_or_default().iter();
        Self {
            server_name: connection.server_name().map(str::to_ascii_lowercase),
            certificates: certificates
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
        }
    }
}

/// A certificate that clients are shown.
#[derive(Debug)]
pub(crate) struct CertificateFacts {
    pub(crate) kind: CertificateKind,
    /// Hosts whose clients are shown it, as rules write them.
    pub(crate) hosts: Vec<String>,
    /// The Secret that holds it; `None` if the proxy made it.
    pub(crate) secret: Option<String>,
    /// Subject alternative names: host names and addresses.
    pub(crate) names: Vec<String>,
    /// `None` if the certificate cannot be parsed.
    pub(crate) not_after: Option<Timestamp>,
}

/// Which hosts a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateKind {
    /// Hosts of Ingresses.
    Hosts,
    /// Every other host.
    Default,
    /// Every other host. The proxy signed it, so no client trusts it.
    SelfSigned,
}
