//! Who may send requests: a gate in front of everything that a backend could see.
//!
//! All that an Ingress demands must hold. Headers that backends get from here are taken from
//! requests first, in every spelling, so that whoever reads them reads ours.

mod api_key;
mod basic;
mod cache;
mod certificate;
mod claims;
mod credentials;
mod external;
mod htpasswd;
mod introspection;
mod jwt;
mod keys;
mod ldap;
mod oidc;
mod paseto;
mod provider;
mod session;
mod signature;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr};

use anyhow::Result;
use headgate_model::ingress::Auth;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::warn;

use crate::{answer, body::Body};

use api_key::ApiKeyCheck;
use basic::BasicCheck;
use certificate::CertificateCheck;
use external::ExternalCheck;
use introspection::IntrospectionCheck;
use jwt::JwtCheck;
use ldap::LdapCheck;
use oidc::OidcCheck;
use paseto::PasetoCheck;
use signature::HmacCheck;

/// The user that backends get to know.
const USER: HeaderName = HeaderName::from_static("x-auth-user");

/// Who asks, besides what the request says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    pub(crate) address: IpAddr,
    /// Whom the request is for, in lower case and without port.
    pub(crate) host: &'a str,
    /// The path in its one form.
    pub(crate) path: &'a str,
    /// Whether TLS was spoken, to us or to a proxy that we trust.
    pub(crate) is_https: bool,
    pub(crate) tls: &'a Tls,
}

impl Client<'_> {
    fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    /// Host and port, as the client has them.
    fn authority(&self, parts: &Parts) -> String {
        authority(parts).unwrap_or(self.host).to_owned()
    }

    /// Scheme, host and port.
    fn origin(&self, parts: &Parts) -> String {
        format!("{}://{}", self.scheme(), self.authority(parts))
    }

    /// The whole address of a request.
    fn url(&self, parts: &Parts) -> String {
        format!("{}{}", self.origin(parts), target(parts))
    }
}

/// Host and port, from the target or from `Host`, which say the same.
fn authority(parts: &Parts) -> Option<&str> {
    let in_target = parts.uri.authority().map(|authority| authority.as_str());
    let in_header = || parts.headers.get(header::HOST)?.to_str().ok();
    in_target.or_else(in_header)
}

/// Path and query as the client sent them.
fn target(parts: &Parts) -> &str {
    parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
}

/// What a TLS handshake told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// The host that the client asked for (SNI).
    pub(crate) server_name: Option<String>,
    /// The client's certificate and those that it showed with it; that it has the key is proven.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
}

/// Cookies for the client of a request that is let through, or what it gets instead.
type Checked = Result<Vec<HeaderValue>, Response<Body>>;

/// Lets requests through that prove what they must.
pub(crate) struct Authenticator {
    checks: Vec<Check>,
    /// Headers that only we set, as [`spelling`] has them.
    reserved: Vec<String>,
}

enum Check {
    Certificate(CertificateCheck),
    Basic(BasicCheck),
    External(Box<ExternalCheck>),
    Hmac(HmacCheck),
    ApiKey(ApiKeyCheck),
    Jwt(Box<JwtCheck>),
    Introspection(Box<IntrospectionCheck>),
    Ldap(Box<LdapCheck>),
    Paseto(Box<PasetoCheck>),
    Oidc(Box<OidcCheck>),
    /// What it takes cannot be used.
    Closed,
}

impl Authenticator {
    /// Fails if a key or hash is none.
    pub(crate) fn new(auth: &[Auth]) -> Result<Self> {
        let checks = auth.iter().map(check).collect::<Result<_>>()?;
        Ok(Self {
            checks,
            reserved: reserved(auth),
        })
    }

    /// Lets nothing through.
    pub(crate) fn closed() -> Self {
        Self {
            checks: vec![Check::Closed],
            reserved: Vec::new(),
        }
    }

    /// Lets a request through with what backends shall know of its sender, or says what it gets
    /// instead.
    pub(crate) async fn authorize(&self, parts: &mut Parts, client: &Client<'_>) -> Checked {
        strip(&mut parts.headers, &self.reserved);
        let mut cookies = Vec::new();
        for check in &self.checks {
            cookies.extend(check.pass(parts, client).await?);
        }
        Ok(cookies)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Authenticator({:?})", self.reserved)
    }
}

fn check(auth: &Auth) -> Result<Check> {
    Ok(match auth {
        Auth::Certificate(rule) => Check::Certificate(CertificateCheck::new(rule)?),
        Auth::Basic(rule) => Check::Basic(BasicCheck::new(rule)?),
        Auth::External(rule) => Check::External(ExternalCheck::new(rule)?.into()),
        Auth::Hmac(rule) => Check::Hmac(HmacCheck::new(rule)),
        Auth::ApiKey(rule) => Check::ApiKey(ApiKeyCheck::new(rule)?),
        Auth::Jwt(rule) => Check::Jwt(JwtCheck::new(rule)?.into()),
        Auth::Introspection(rule) => Check::Introspection(IntrospectionCheck::new(rule)?.into()),
        Auth::Ldap(rule) => Check::Ldap(LdapCheck::new(rule)?.into()),
        Auth::Paseto(rule) => Check::Paseto(PasetoCheck::new(rule)?.into()),
        Auth::Oidc(rule) => Check::Oidc(OidcCheck::new(rule)?.into()),
    })
}

impl Check {
    async fn pass(&self, parts: &mut Parts, client: &Client<'_>) -> Checked {
        match self {
            Self::Certificate(check) => check.pass(parts, client),
            Self::Basic(check) => check.pass(parts).await,
            Self::External(check) => check.pass(parts, client).await,
            Self::Hmac(check) => check.pass(parts),
            Self::ApiKey(check) => check.pass(parts),
            Self::Jwt(check) => check.pass(parts).await,
            Self::Introspection(check) => check.pass(parts).await,
            Self::Ldap(check) => check.pass(parts).await,
            Self::Paseto(check) => check.pass(parts),
            Self::Oidc(check) => check.pass(parts, client).await,
            Self::Closed => Err(unavailable("a guard of the rule cannot be used")),
        }
    }
}

/// Headers that only we set. Those that requests prove something with are left for that; the check
/// that sets them takes them away.
fn reserved(auth: &[Auth]) -> Vec<String> {
    let names = auth.iter().flat_map(Auth::headers);
    let names = names.filter(|name| !["authorization", "cookie"].contains(name));
    names.map(spelling).collect()
}

/// Programs that read headers as CGI variables cannot tell `-` and `_` apart.
fn spelling(name: &str) -> String {
    name.replace('_', "-")
}

/// Removes headers in every spelling.
fn strip(headers: &mut HeaderMap, reserved: &[String]) {
    let is_reserved = |name: &&HeaderName| reserved.contains(&spelling(name.as_str()));
    let found: Vec<HeaderName> = headers.keys().filter(is_reserved).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Tells the backend something; what no header can carry is not told.
fn tell(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        headers.insert(name, value);
    }
}

/// 401 with the way to do better (RFC 9110, 11.6.1).
fn unauthorized(challenge: &str) -> Response<Body> {
    let mut response = answer::error(StatusCode::UNAUTHORIZED, "not without authorization");
    crate::headers::insert(response.headers_mut(), header::WWW_AUTHENTICATE, challenge);
    response
}

/// 503: nobody can say who this is.
fn unavailable(why: &str) -> Response<Body> {
    answer::error(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// 503 after a service that decides failed, which clients need not know more about.
fn failed(service: &str, error: &anyhow::Error) -> Response<Body> {
    warn!("{service} failed, so a request was refused: {error:#}");
    unavailable("authorization failed")
}
