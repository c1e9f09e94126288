//! Who may send requests: what must be proven, and what it is checked with.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::NamespacedName;

use super::Pattern;

/// Something that a request must prove. Values that are secret are never printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Auth {
    /// That its connection has a client certificate.
    Certificate(ClientCertificates),
    /// A name and its password (RFC 7617).
    Basic(Basic),
    /// Whatever another service wants to see.
    External(External),
    /// That it is signed with a shared secret.
    Hmac(Hmac),
    /// That it has a key.
    ApiKey(ApiKey),
    /// That it has a JSON Web Token (RFC 7519).
    Jwt(Jwt),
    /// That it has a token that its issuer says is active (RFC 7662).
    Introspection(Introspection),
    /// A name and a password that a directory takes (RFC 4513).
    Ldap(Ldap),
    /// That it has a PASETO of version 4.
    Paseto(Paseto),
    /// That its user logged in at an OpenID provider.
    Oidc(Oidc),
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hidden(pub Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("…")
    }
}

/// Client certificates of TLS (RFC 8446, 4.4.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientCertificates {
    /// Where the authorities are from.
    pub secret: NamespacedName,
    /// Authorities, PEM.
    pub authorities: Vec<u8>,
    /// What the authorities took back (CRLs), PEM.
    pub revoked: Option<Vec<u8>>,
    /// What is asked of them.
    pub verify: Verify,
    /// How many certificates may stand between a client's and its authority.
    pub depth: u32,
    /// What the common name must be.
    pub name: Option<Pattern>,
    /// Whether backends get the certificate.
    pub is_passed: bool,
    /// Where those who fail are redirected to.
    pub error_page: Option<String>,
}

/// What is asked of client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verify {
    /// One of our authorities' must be there.
    Required,
    /// If one is there, it must be our authorities'.
    Optional,
    /// Whoever signed it; the backend decides.
    AnyAuthority,
}

/// Passwords by user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Basic {
    /// What users are told they log in to.
    pub realm: String,
    /// Hashes of passwords, as in files of `htpasswd`.
    pub users: BTreeMap<String, Hidden>,
}

/// A service that is asked about each request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct External {
    /// Where.
    pub url: String,
    /// Method of the question; that of the request if not given.
    pub method: Option<String>,
    /// Where clients that are not known are redirected to.
    pub signin: Option<String>,
    /// Parameter that gets the address to come back to.
    pub signin_parameter: String,
    /// Headers of the answer that backends get, in lower case.
    pub response_headers: Vec<String>,
    /// What `X-Auth-Request-Redirect` says instead of path and query.
    pub redirect: Option<String>,
    /// Authorities (PEM) of the service instead of the system's.
    pub authorities: Option<Vec<u8>>,
}

/// Signed requests (`draft-cavage-http-signatures`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hmac {
    /// Shared secrets by user.
    pub users: BTreeMap<String, Hidden>,
    /// How far `Date` may be from now.
    pub skew: Duration,
}

/// Keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiKey {
    /// Header that has the key, in lower case.
    pub header: String,
    /// Parameter of the query that may have it instead.
    pub query: Option<String>,
    /// Keys by consumer.
    pub consumers: BTreeMap<String, Hidden>,
}

/// What tokens must say, and what becomes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claims {
    /// `iss`.
    pub issuer: Option<String>,
    /// One of these must be in `aud`; empty for any.
    pub audiences: Vec<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Headers that backends get, in lower case, and the claims they are made of.
    pub headers: BTreeMap<String, String>,
}

/// JSON Web Tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Jwt {
    /// What signatures are checked with.
    pub keys: JwtKeys,
    /// What must be said.
    pub claims: Claims,
}

/// What signatures of tokens are checked with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JwtKeys {
    /// A shared secret.
    Shared(Hidden),
    /// A public key, PEM.
    Public(Vec<u8>),
    /// A set of keys at an address.
    Url(Server),
}

/// A server that is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Its address.
    pub url: String,
    /// Authorities (PEM) instead of the system's.
    pub authorities: Option<Vec<u8>>,
}

/// Tokens that their issuer is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Introspection {
    /// Its endpoint.
    pub server: Server,
    /// Who we are.
    pub client_id: String,
    /// Our password.
    pub client_secret: Hidden,
    /// Scopes that tokens must have.
    pub scopes: Vec<String>,
    /// What must be said.
    pub claims: Claims,
}

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ldap {
    /// `ldap://` or `ldaps://`.
    pub server: Server,
    /// Whether a plain connection becomes one with TLS before anything else.
    pub starttls: bool,
    /// How names become entries.
    pub entry: LdapEntry,
    /// What users are told they log in to.
    pub realm: String,
}

/// How a name becomes an entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LdapEntry {
    /// By its name, with `{user}` where the user's stands.
    Template(String),
    /// By search.
    Search {
        /// Where.
        base: String,
        /// For what, with `{user}` where the user's name stands.
        filter: String,
        /// Who searches, and with which password; nobody if not given.
        bind: Option<(String, Hidden)>,
    },
}

/// PASETOs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Paseto {
    /// What they are checked with.
    pub key: PasetoKey,
    /// What must be said.
    pub claims: Claims,
}

/// Keys of PASETOs, as PASERK.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PasetoKey {
    /// `k4.public.`: tokens are signed.
    Public(String),
    /// `k4.local.`: tokens are encrypted.
    Local(Hidden),
}

/// Log-in at an OpenID provider (authorization code with PKCE).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Oidc {
    /// The issuer, below which its configuration is found.
    pub issuer: Server,
    /// Who we are.
    pub client_id: String,
    /// Our password.
    pub client_secret: Hidden,
    /// What cookies are encrypted with.
    pub cookie_key: Hidden,
    /// What is asked for besides `openid`.
    pub scopes: Vec<String>,
    /// Path that users come back to.
    pub callback: String,
    /// Path that ends a session.
    pub logout: String,
    /// Headers that backends get, in lower case, and the claims they are made of.
    pub headers: BTreeMap<String, String>,
}

impl Auth {
    /// Headers that backends get from this, in lower case: no client can set them.
    pub fn headers(&self) -> Vec<&str> {
        let fixed: &[&str] = match self {
            Self::Certificate(_) => &[
                "ssl-client-verify",
                "ssl-client-subject-dn",
                "ssl-client-issuer-dn",
                "ssl-client-cert",
            ],
            Self::ApiKey(_) => &["x-auth-user", "x-consumer"],
            Self::External(_) => &[],
            _ => &["x-auth-user"],
        };
        let claims = match self {
            Self::Jwt(Jwt { claims, .. })
            | Self::Paseto(Paseto { claims, .. })
            | Self::Introspection(Introspection { claims, .. }) => Some(&claims.headers),
            Self::Oidc(oidc) => Some(&oidc.headers),
            _ => None,
        };
        let claims = claims.into_iter().flatten().map(|(header, _)| header);
        let answers = match self {
            Self::External(external) => external.response_headers.as_slice(),
            _ => &[],
        };
        let named = claims.chain(answers).map(String::as_str);
        fixed.iter().copied().chain(named).collect()
    }
}
