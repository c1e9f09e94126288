//! Certificates by the host that a client asks for (SNI, RFC 6066).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context, Result};
use headgate_model::{
    NamespacedName, ObjectName, Refusal,
    edge::{Certificate, Listener, for_host},
};
use jiff::Timestamp;
use tokio_rustls::rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    facts::{CertificateFacts, CertificateKind},
    provider::provider,
    server::server_name,
};
use crate::fetch::read_roots;

/// Certificates of all hosts of a listener.
#[derive(Default)]
pub(crate) struct CertificateStore {
    hosts: HashMap<String, Known>,
    /// Hosts that get the default instead of a certificate for more hosts.
    withheld: BTreeSet<String>,
    default: Option<Known>,
    /// Signed by the proxy, for hosts without a certificate. Without it their handshakes fail.
    fallback: Option<Arc<CertifiedKey>>,
}

/// A certificate of the routes.
#[derive(Clone)]
pub(crate) struct Known {
    certificate: Arc<Certificate>,
    /// What rustls uses.
    key: Arc<CertifiedKey>,
    /// The end of its validity, if it can be parsed.
    end: Option<Timestamp>,
}

/// The certificates of an update by Secret; `None` for an invalid one. Each is parsed once and refused once,
/// for all hosts of all listeners.
pub(crate) type Parsed = BTreeMap<NamespacedName, Option<Known>>;

impl CertificateStore {
    /// Contains only a certificate that the proxy signs.
    ///
    /// # Errors
    ///
    /// Fails if no key can be generated.
    pub(crate) fn with_own() -> Result<Self> {
        Ok(Self {
            fallback: Some(Arc::new(
                self_signed().context("cannot make a certificate")?,
            )),
            ..Self::default()
        })
    }

    /// Returns the store for `listener`. An invalid certificate is refused, and its host keeps the
    /// previous one. An expired certificate is reported and used: the client decides, as the clock of
    /// this node may be wrong.
    pub(crate) fn update(
        &self,
        listener: &Listener,
        parsed: &mut Parsed,
        refusals: &mut Vec<Refusal>,
    ) -> Self {
        let mut make = |new: &Arc<Certificate>, old: Option<&Known>| {
            let made = parsed.entry(new.secret.clone());
            let made = made.or_insert_with(|| match old.filter(|old| old.certificate == *new) {
                Some(old) => Some(old.clone()),
                None => known(new, refusals),
            });
            made.as_ref().or(old).cloned()
        };
        let mut hosts = HashMap::new();
        for (host, certificate) in &listener.certificates {
            if let Some(known) = make(certificate, self.hosts.get(host)) {
                hosts.insert(host.clone(), known);
            }
        }
        let default = listener.default_certificate.as_ref();
        Self {
            default: default.and_then(|new| make(new, self.default.as_ref())),
            hosts,
            withheld: listener.withheld.clone(),
            fallback: self.fallback.clone(),
        }
    }

    /// Adds the certificates of a listener that stays as it is.
    pub(crate) fn keep(&self, parsed: &mut Parsed) {
        for known in self.hosts.values().chain(&self.default) {
            let secret = known.certificate.secret.clone();
            parsed.entry(secret).or_insert_with(|| Some(known.clone()));
        }
    }

    /// Returns the certificate for a host: an exact one, one with `*.`, that of Ingresses without
    /// host, the default, the proxy's own.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let known = self.known(name).map(|known| &known.key);
        known.or(self.fallback.as_ref())
    }

    fn known(&self, name: Option<&str>) -> Option<&Known> {
        let known = |host: &str| match self.hosts.get(host) {
            None => self.withheld.contains(host).then_some(None),
            known => Some(known),
        };
        let named = name.and_then(|name| for_host(name, known));
        let named = named.unwrap_or_else(|| self.hosts.get(""));
        named.or(self.default.as_ref())
    }

    /// Returns the Secret of the certificate for a host; `None` for the proxy's own.
    pub(crate) fn secret(&self, name: Option<&str>) -> Option<&NamespacedName> {
        Some(&self.known(name)?.certificate.secret)
    }

    /// Returns all certificates, hosts with the same one together. The proxy's own is included while
    /// clients are shown it.
    pub(crate) fn facts(&self) -> Vec<CertificateFacts> {
        let mut all: Vec<CertificateFacts> = Vec::new();
        for (host, known) in &self.hosts {
            let secret = Some(&known.certificate.secret);
            let mut one = facts(CertificateKind::Hosts, secret, &known.key);
            one.hosts.push(host.clone());
            let is_same = |other: &&mut CertificateFacts| {
                (&other.secret, &other.names, other.not_after)
                    == (&one.secret, &one.names, one.not_after)
            };
            match all.iter_mut().find(is_same) {
                Some(same) => same.hosts.append(&mut one.hosts),
                None => all.push(one),
            }
        }
        let fallback = self.fallback.as_ref();
        all.extend(match &self.default {
            Some(known) => {
                let secret = Some(&known.certificate.secret);
                Some(facts(CertificateKind::Default, secret, &known.key))
            }
            None => fallback.map(|key| facts(CertificateKind::SelfSigned, None, key)),
        });
        all
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = server_name(&hello);
        self.find(name.as_deref()).cloned()
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "CertificateStore({:?})", self.hosts.keys())
    }
}

fn known(new: &Arc<Certificate>, refusals: &mut Vec<Refusal>) -> Option<Known> {
    match certified_key(new) {
        Ok(key) => Some(Known {
            certificate: new.clone(),
            end: end(&key),
            key: Arc::new(key),
        }),
        Err(error) => {
            let object = ObjectName::Secret(new.secret.clone());
            refusals.push(Refusal::new(object, "data", format!("{error:#}")));
            None
        }
    }
}

/// Returns the certificates that have expired.
pub(crate) fn ended(parsed: &Parsed) -> impl Iterator<Item = Refusal> {
    let now = Timestamp::now();
    parsed.values().flatten().filter_map(move |known| {
        let end = known.end.filter(|end| *end < now)?;
        let object = ObjectName::Secret(known.certificate.secret.clone());
        let reason = format!("tls.crt expired at {end}; clients are still shown it");
        Some(Refusal::new(object, "data", reason))
    })
}

fn end(key: &CertifiedKey) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(key.cert.first()?).ok()?;
    not_after(&parsed)
}

fn not_after(certificate: &X509Certificate<'_>) -> Option<Timestamp> {
    let end = certificate.validity().not_after.timestamp();
    Timestamp::from_second(end).ok()
}

/// Reads the certificate that clients are shown.
fn facts(
    kind: CertificateKind,
    secret: Option<&NamespacedName>,
    key: &CertifiedKey,
) -> CertificateFacts {
    let der = key.cert.first().map_or(&[][..], |first| first.as_ref());
    let parsed = X509Certificate::from_der(der).ok();
    let parsed = parsed.as_ref().map(|(_, certificate)| certificate);
    CertificateFacts {
        kind,
        hosts: Vec::new(),
        secret: secret.map(NamespacedName::to_string),
        names: parsed.map(names).unwrap_or_default(),
        not_after: parsed.and_then(not_after),
    }
}

/// Returns the subject alternative names: host names and addresses.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter());
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|v4| IpAddr::from(v4).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|v6| IpAddr::from(v6).to_string()),
        },
        _ => None,
    };
    names.into_iter().flatten().filter_map(text).collect()
}

/// Checks a certificate with its key.
///
/// # Errors
///
/// If chain or key are not PEM, or do not belong together.
pub fn check_certificate(certificate: &Certificate) -> Result<(), String> {
    let checked = certified_key(certificate).map(drop);
    checked.map_err(|error| format!("{error:#}"))
}

/// Checks CA certificates (PEM).
///
/// # Errors
///
/// If they are not PEM, no certificate is there, or one is malformed.
pub fn check_authorities(pem: &[u8]) -> Result<(), String> {
    read_roots(pem)
        .map(drop)
        .map_err(|error| format!("{error:#}"))
}

/// Parses chain and key, and checks that they match.
fn certified_key(certificate: &Certificate) -> Result<CertifiedKey> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate.chain)
        .collect::<Result<_, _>>()
        .context("tls.crt is not PEM")?;
    anyhow::ensure!(!chain.is_empty(), "tls.crt has no certificate");
    let key =
        PrivateKeyDer::from_pem_slice(&certificate.key).context("tls.key is not a private key")?;
    let key = provider()
        .key_provider
        .load_private_key(key)
        .context("tls.key cannot be used")?;
    let key = CertifiedKey::new(chain, key);
    anyhow::ensure!(matches(&key)?, "tls.crt and tls.key do not match");
    Ok(key)
}

/// Whether the certificate has the public key of the private one. Not by rustls, which parses only
/// certificates of X.509 version 3.
fn matches(key: &CertifiedKey) -> Result<bool> {
    let own = key.end_entity_cert()?;
    let (_, parsed) = X509Certificate::from_der(own).context("tls.crt is malformed")?;
    let public = key.key.public_key().context("tls.key has no public key")?;
    Ok(parsed.public_key().raw == public.as_ref())
}

fn self_signed() -> Result<CertifiedKey> {
    let made = rcgen::generate_simple_self_signed(["headgate.invalid".to_owned()])?;
    certified_key(&Certificate {
        secret: NamespacedName::new("", "self-signed"),
        chain: made.cert.pem().into_bytes(),
        key: made.signing_key.serialize_pem().into_bytes(),
    })
}
