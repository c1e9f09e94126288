//! Client certificates (RFC 8446, 4.4.2).
//!
//! The handshake proves only that a client has the key of its certificate. This check verifies the
//! certificate for each request, with the authorities of the requested host.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use headgate_model::edge::{ClientCertificates, Verify};
use http::{HeaderMap, HeaderName, Response, StatusCode, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::{answer, body::Body, fetch::read_roots, tls::provider::provider};

use super::{AuthInput, CheckResult, cache::Cache, set_header};

const VERIFY: HeaderName = HeaderName::from_static("ssl-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
const ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");
const CERTIFICATE: HeaderName = HeaderName::from_static("ssl-client-cert");

/// How long a valid certificate is accepted without verifying its signatures again.
const CACHE_TIME: Duration = Duration::from_secs(60);

/// Verifies client certificates with the authorities of a rule.
pub(super) struct CertificateCheck {
    rule: ClientCertificates,
    roots: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
    cache: Cache<()>,
}

impl CertificateCheck {
    pub(super) fn new(rule: &ClientCertificates) -> Result<Self> {
        let roots: Arc<RootCertStore> = Arc::new(read_roots(&rule.authorities)?);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if let Some(revoked) = &rule.revoked {
            let lists = CertificateRevocationListDer::pem_slice_iter(revoked);
            let lists: Vec<_> = lists
                .collect::<Result<_, _>>()
                .context("ca.crl is not PEM")?;
            // Intermediate authorities may have no list.
            verifier = verifier.with_crls(lists).allow_unknown_revocation_status();
        }
        let roots = CertificateDer::pem_slice_iter(&rule.authorities);
        Ok(Self {
            rule: rule.clone(),
            roots: roots
                .collect::<Result<_, _>>()
                .context("ca.crt is not PEM")?,
            verifier: verifier.build().context("auth-tls-secret")?,
            cache: Cache::new()?,
        })
    }

    pub(super) fn pass(&self, parts: &mut Parts, input: &AuthInput<'_>) -> CheckResult {
        let server_name = input.tls.server_name.as_deref();
        if server_name.is_some_and(|name| name != input.host) {
            // The client was asked for the certificate of another host.
            let why = "the TLS connection is for another host";
            return Err(answer::error(StatusCode::MISDIRECTED_REQUEST, why));
        }
        let headers = &mut parts.headers;
        let Some((own, others)) = input.tls.certificates.split_first() else {
            if self.rule.verify == Verify::Required {
                let why = "a client certificate is required";
                return Err(self.refuse(StatusCode::BAD_REQUEST, why, parts, input));
            }
            set_header(headers, &VERIFY, "NONE");
            return self.check_name(None, parts, input);
        };
        let trusted = self.verify(own, others);
        match &trusted {
            Ok(()) => set_header(headers, &VERIFY, "SUCCESS"),
            Err(why) if self.rule.verify == Verify::AnyAuthority => {
                set_header(headers, &VERIFY, &format!("FAILED:{why}"));
            }
            Err(_) => {
                let why = "the client certificate is invalid";
                return Err(self.refuse(StatusCode::BAD_REQUEST, why, parts, input));
            }
        }
        let Ok((_, parsed)) = X509Certificate::from_der(own) else {
            let why = "the client certificate is malformed";
            return Err(self.refuse(StatusCode::BAD_REQUEST, why, parts, input));
        };
        self.set_headers(headers, own, &parsed);
        let name = trusted.ok().and_then(|()| common_name(parsed.subject()));
        self.check_name(name, parts, input)
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), String> {
        let intermediates = others.iter().filter(|other| !self.roots.contains(other));
        if intermediates.count() > self.rule.depth as usize {
            return Err("the chain is too long".into());
        }
        let chain: Vec<&[u8]> = std::iter::once(own)
            .chain(others)
            .map(AsRef::as_ref)
            .collect();
        if self.cache.get(&chain).is_some() {
            return Ok(());
        }
        let verified = self
            .verifier
            .verify_client_cert(own, others, UnixTime::now());
        verified.map_err(|error| error.to_string())?;
        self.cache.insert(&chain, (), CACHE_TIME);
        Ok(())
    }

    /// Accepts the common name if the rule allows it. `None` if there is no valid certificate.
    fn check_name(&self, name: Option<&str>, parts: &Parts, input: &AuthInput<'_>) -> CheckResult {
        let Some(wanted) = &self.rule.name else {
            return Ok(Vec::new());
        };
        match name.is_some_and(|name| wanted.regex().is_match(name)) {
            true => Ok(Vec::new()),
            false => {
                let why = "the client certificate's common name is not allowed";
                Err(self.refuse(StatusCode::FORBIDDEN, why, parts, input))
            }
        }
    }

    fn set_headers(
        &self,
        headers: &mut HeaderMap,
        own: &CertificateDer<'_>,
        parsed: &X509Certificate<'_>,
    ) {
        set_header(headers, &SUBJECT, &name(parsed.subject()));
        set_header(headers, &ISSUER, &name(parsed.issuer()));
        if self.rule.is_passed {
            let text = utf8_percent_encode(&pem(own), NON_ALPHANUMERIC).to_string();
            set_header(headers, &CERTIFICATE, &text);
        }
    }

    fn refuse(
        &self,
        status: StatusCode,
        why: &str,
        parts: &Parts,
        input: &AuthInput<'_>,
    ) -> Response<Body> {
        match &self.rule.error_page {
            Some(page) => answer::redirect(302, &input.variables(parts).render(page)),
            None => answer::error(status, why),
        }
    }
}

/// The last common name, which is the most specific one.
fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    name.iter_common_name().last()?.as_str().ok()
}

/// A name as text, with its last part first (RFC 4514, 2.1).
fn name(name: &X509Name<'_>) -> String {
    let registry = x509_parser::objects::oid_registry();
    let parts = name.iter_rdn().map(|part| {
        let attributes = part.iter().map(|attribute| {
            let kind = attribute.attr_type();
            let label = registry.get(kind).map(|entry| entry.sn().to_owned());
            let label = label.map(|label| short(&label).to_owned());
            let value = attribute.as_str().map_or_else(|_| String::new(), escaped);
            format!("{}={value}", label.unwrap_or_else(|| kind.to_id_string()))
        });
        attributes.collect::<Vec<_>>().join("+")
    });
    let mut parts: Vec<String> = parts.collect();
    parts.reverse();
    parts.join(",")
}

/// The short labels of RFC 4514, 3; other labels stay as they are.
fn short(label: &str) -> &str {
    match label {
        "commonName" => "CN",
        "localityName" => "L",
        "stateOrProvinceName" => "ST",
        "organizationName" => "O",
        "organizationalUnit" | "organizationalUnitName" => "OU",
        "countryName" => "C",
        "domainComponent" => "DC",
        "userId" => "UID",
        other => other,
    }
}

/// A value with the escapes of RFC 4514, 2.4.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for (index, character) in value.chars().enumerate() {
        let is_edge = index == 0 || index + 1 == value.chars().count();
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.push('\\'),
            '#' if index == 0 => out.push('\\'),
            ' ' if is_edge => out.push('\\'),
            _ => {}
        }
        out.push(character);
    }
    out
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
