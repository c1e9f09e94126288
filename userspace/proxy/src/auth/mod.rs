//! Authentication of requests.
//!
//! A request must pass every check of its rule, in order. Headers that the checks set for backends are
//! removed from requests first, in every spelling, so that clients cannot forge them.

mod api_key;
mod basic;
mod bearer;
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
mod oauth;
mod oidc;
mod paseto;
mod provider;
mod session;
mod signature;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr};

use anyhow::Result;
use headgate_model::edge::{Auth, PathMatch};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use tracing::warn;

use crate::{answer, body::Body, reach::Reach, tls::facts::Handshake, variables::Variables};

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

/// The authenticated user, for backends.
pub(crate) const USER: HeaderName = HeaderName::from_static("x-auth-user");

/// What the checks read besides the request itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuthInput<'a> {
    /// The client's address.
    pub(crate) address: IpAddr,
    /// The requested host, in lower case and without port.
    pub(crate) host: &'a str,
    /// The path in its decoded form.
    pub(crate) path: &'a str,
    /// Path and query as the backend gets them, unless the route rewrites them.
    pub(crate) target: &'a str,
    /// Whether the client used TLS, to us or to a trusted proxy.
    pub(crate) is_https: bool,
    /// The path of the rule.
    pub(crate) rule: &'a PathMatch,
    pub(crate) tls: &'a Handshake,
}

impl AuthInput<'_> {
    /// What variables stand for.
    fn variables<'a>(&'a self, parts: &'a Parts) -> Variables<'a> {
        Variables {
            scheme: self.scheme(),
            host: self.host,
            client: self.address,
            path: self.path,
            target: self.target,
            rule: self.rule,
            method: parts.method.as_str(),
            headers: &parts.headers,
        }
    }

    fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    /// Host and port, as the client sent them.
    fn authority<'a>(&'a self, parts: &'a Parts) -> &'a str {
        authority(parts).unwrap_or(self.host)
    }

    /// Scheme, host and port.
    fn origin(&self, parts: &Parts) -> String {
        format!("{}://{}", self.scheme(), self.authority(parts))
    }

    /// The full URL of the request.
    fn url(&self, parts: &Parts) -> String {
        format!("{}{}", self.origin(parts), self.target)
    }
}

/// Host and port, as the client sent them.
fn authority(parts: &Parts) -> Option<&str> {
    parts.headers.get(header::HOST)?.to_str().ok()
}

/// Path and query as the client sent them.
fn target(parts: &Parts) -> &str {
    parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
}

/// `Set-Cookie` values for the client of an accepted request, or the response that refuses it.
type CheckResult = Result<Vec<HeaderValue>, Response<Body>>;

/// The checks of a rule.
pub(crate) struct Authenticator {
    checks: Vec<Check>,
    /// Headers that only the checks set, normalized by [`spelling`].
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
    /// Refuses every request: the settings are invalid.
    Closed,
}

impl Authenticator {
    /// The checks for `auth`.
    ///
    /// # Errors
    ///
    /// Fails if a setting is invalid, such as a key, a hash or a certificate.
    pub(crate) fn new(auth: &[Auth], reach: &Reach) -> Result<Self> {
        let checks = auth
            .iter()
            .map(|auth| check(auth, reach))
            .collect::<Result<_>>()?;
        Ok(Self {
            checks,
            reserved: reserved(auth),
        })
    }

    /// Refuses every request.
    pub(crate) fn closed() -> Self {
        Self {
            checks: vec![Check::Closed],
            reserved: Vec::new(),
        }
    }

    /// Whether only the checks set a header of this name, with `-` for `_`, or one of them reads a key
    /// there.
    pub(crate) fn reserves(&self, name: &str) -> bool {
        let is_key = |check: &Check| matches!(check, Check::ApiKey(check) if check.reads(name));
        self.reserved.iter().any(|reserved| reserved == name) || self.checks.iter().any(is_key)
    }

    /// Whether a check of passwords, which may be known already, is all there is.
    pub(crate) fn is_basic(&self) -> bool {
        matches!(*self.checks, [Check::Basic(_)])
    }

    /// The user of a request with this `Authorization` header, if nothing has to be computed or asked to admit it.
    pub(crate) fn known_user(&self, authorization: &[u8]) -> Option<HeaderValue> {
        match &*self.checks {
            [Check::Basic(check)] => HeaderValue::try_from(check.known(authorization)?).ok(),
            _ => None,
        }
    }

    /// Runs the checks, which set the headers for backends.
    ///
    /// # Errors
    ///
    /// The response of the first check that refuses the request.
    pub(crate) async fn authorize(&self, parts: &mut Parts, input: &AuthInput<'_>) -> CheckResult {
        strip(&mut parts.headers, &self.reserved);
        let mut cookies = Vec::new();
        for check in &self.checks {
            cookies.extend(check.pass(parts, input).await?);
        }
        Ok(cookies)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Authenticator({:?})", self.reserved)
    }
}

fn check(auth: &Auth, reach: &Reach) -> Result<Check> {
    Ok(match auth {
        Auth::Certificate(rule) => Check::Certificate(CertificateCheck::new(rule)?),
        Auth::Basic(rule) => Check::Basic(BasicCheck::new(rule)?),
        Auth::External(rule) => Check::External(ExternalCheck::new(rule, reach)?.into()),
        Auth::Hmac(rule) => Check::Hmac(HmacCheck::new(rule)),
        Auth::ApiKey(rule) => Check::ApiKey(ApiKeyCheck::new(rule)?),
        Auth::Jwt(rule) => Check::Jwt(JwtCheck::new(rule, reach)?.into()),
        Auth::Introspection(rule) => {
            Check::Introspection(IntrospectionCheck::new(rule, reach)?.into())
        }
        Auth::Ldap(rule) => Check::Ldap(LdapCheck::new(rule, reach)?.into()),
        Auth::Paseto(rule) => Check::Paseto(PasetoCheck::new(rule)?.into()),
        Auth::Oidc(rule) => Check::Oidc(OidcCheck::new(rule, reach)?.into()),
    })
}

impl Check {
    async fn pass(&self, parts: &mut Parts, input: &AuthInput<'_>) -> CheckResult {
        match self {
            Self::Certificate(check) => check.pass(parts, input),
            Self::Basic(check) => check.pass(parts).await,
            Self::External(check) => check.pass(parts, input).await,
            Self::Hmac(check) => check.pass(parts),
            Self::ApiKey(check) => check.pass(parts),
            Self::Jwt(check) => check.pass(parts).await,
            Self::Introspection(check) => check.pass(parts).await,
            Self::Ldap(check) => check.pass(parts).await,
            Self::Paseto(check) => check.pass(parts),
            Self::Oidc(check) => check.pass(parts, input).await,
            Self::Closed => Err(unavailable("the authentication settings are invalid")),
        }
    }
}

/// Headers that only the checks set. `Authorization` and `Cookie` are not among them, because checks
/// read them; the check that sets one of these replaces it.
fn reserved(auth: &[Auth]) -> Vec<String> {
    let names = auth.iter().flat_map(Auth::headers);
    let names = names.filter(|name| !["authorization", "cookie"].contains(name));
    names.map(spelling).collect()
}

/// Normalizes a header name: CGI variables do not distinguish `-` and `_`.
fn spelling(name: &str) -> String {
    name.replace('_', "-")
}

/// Removes headers, in every spelling.
fn strip(headers: &mut HeaderMap, reserved: &[String]) {
    let is_reserved = |name: &&HeaderName| reserved.contains(&spelling(name.as_str()));
    let found: Vec<HeaderName> = headers.keys().filter(is_reserved).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Sets a header for the backend. A value that is invalid in a header is dropped.
fn set_header(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        headers.insert(name, value);
    }
}

/// 401 with a challenge (RFC 9110, 11.6.1).
fn unauthorized(challenge: &str) -> Response<Body> {
    let mut response = answer::error(StatusCode::UNAUTHORIZED, "authorization required");
    crate::headers::insert(response.headers_mut(), header::WWW_AUTHENTICATE, challenge);
    response
}

/// 503: the check cannot decide.
fn unavailable(why: &str) -> Response<Body> {
    answer::error(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// 503 after a service that decides failed. Logs the error, which clients do not see.
fn service_failed(service: &str, error: &anyhow::Error) -> Response<Body> {
    warn!("request refused because {service} failed: {error:#}");
    unavailable("authorization failed")
}
