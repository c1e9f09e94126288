//! The example objects: a Service and its endpoints, and Ingresses.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A Service `web` with every kind of frontend, over TCP and UDP and both families.
pub const SERVICE: &str = include_str!("../../../deploy/examples/web.yaml");

/// EndpointSlices of `web` for pods of a `Cluster`, each given as (node, number).
pub fn slices(pods: &[(u8, u8)]) -> String {
    let mut text = String::new();
    for (name, family, pattern) in [
        ("web-ipv4", "IPv4", "10.244.{node}.{host}"),
        ("web-ipv6", "IPv6", "fd44:{node}::{host}"),
    ] {
        text += &format!(
            "---\n\
             apiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\n\
             metadata:\n  name: {name}\n  labels:\n    kubernetes.io/service-name: web\n\
             addressType: {family}\n\
             ports:\n- {{name: http, port: 9376}}\n- {{name: echo, protocol: UDP, port: 9376}}\n\
             endpoints:\n"
        );
        if pods.is_empty() {
            text.truncate(text.len() - 1);
            text += " []\n";
        }
        for (node, pod) in pods {
            let address = pattern
                .replace("{node}", &node.to_string())
                .replace("{host}", &(pod + 1).to_string());
            text += &format!(
                "- addresses: ['{address}']\n  nodeName: n{node}\n  conditions: {{ready: true}}\n"
            );
        }
    }
    text
}

/// Ingresses with two hosts for `web`, one of them over TLS with the Secret `shop-tls`.
pub const INGRESSES: &str = include_str!("../../../deploy/examples/ingress.yaml");

/// A Gateway with an HTTPRoute for `web` and `canary`.
pub const GATEWAY: &str = include_str!("../../../deploy/examples/gateway.yaml");

/// A Gateway with a TCPRoute for `web` and `canary`, and a UDPRoute for `web`.
pub const LISTENERS: &str = include_str!("../../../deploy/examples/listeners.yaml");

/// A certificate for some hosts, signed by its own authority.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate of the authority, which clients trust, PEM.
    pub authority: String,
    /// The certificate of the server, PEM.
    pub chain: String,
    /// The private key of the server, PEM.
    pub key: String,
}

impl Certificate {
    /// Makes a certificate that does not expire soon.
    pub fn new(hosts: &[&str]) -> Result<Self> {
        Self::made(hosts, None)
    }

    /// Makes a certificate that expires in `days` days; a negative number is in the past.
    pub fn ending(hosts: &[&str], days: i64) -> Result<Self> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let by = DAY * u32::try_from(days.unsigned_abs())?;
        let now = SystemTime::now();
        Self::made(hosts, Some(if days < 0 { now - by } else { now + by }))
    }

    fn made(hosts: &[&str], end: Option<SystemTime>) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        let name = &mut authority.distinguished_name;
        name.push(DnType::CommonName, "authority of the tests");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).into()).collect();
        let key = KeyPair::generate()?;
        let mut certificate = CertificateParams::new(hosts)?;
        if let Some(end) = end {
            certificate.not_after = end.into();
        }
        let certificate = certificate.signed_by(&key, &authority)?;
        Ok(Self {
            authority: authority.pem(),
            chain: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The manifest of a `kubernetes.io/tls` Secret with this name.
    pub fn secret(&self, name: &str) -> String {
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        format!(
            "apiVersion: v1\n\
             kind: Secret\n\
             metadata:\n  name: {name}\n\
             type: kubernetes.io/tls\n\
             data:\n  tls.crt: {}\n  tls.key: {}\n",
            encode(&self.chain),
            encode(&self.key),
        )
    }
}
