//! Authentication of requests: the required proof, and the data that verifies it.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::NamespacedName;

use super::{Pattern, Template};

/// One required proof. Secret values are never printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Auth {
    /// A client certificate.
    Certificate(ClientCertificates),
    /// Name and password (RFC 7617).
    Basic(Basic),
    /// The decision of another service.
    External(External),
    /// A signature with a shared secret.
    Hmac(Hmac),
    /// An API key.
    ApiKey(ApiKey),
    /// A JSON Web Token (RFC 7519).
    Jwt(Jwt),
    /// A token that its issuer reports as active (RFC 7662).
    Introspection(Introspection),
    /// Name and password that a directory accepts (RFC 4513).
    Ldap(Ldap),
    /// A PASETO of version 4.
    Paseto(Paseto),
    /// A log-in at an OpenID provider.
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
    /// The Secret that has the CA certificates.
    pub secret: NamespacedName,
    /// CA certificates, PEM.
    pub authorities: Vec<u8>,
    /// Certificate revocation lists of the CAs, PEM.
    pub revoked: Option<Vec<u8>>,
    /// How they are verified.
    pub verify: Verify,
    /// Largest number of certificates between a client's and its CA.
    pub depth: u32,
    /// Pattern for the common name.
    pub name: Option<Pattern>,
    /// Whether backends get the certificate, in `ssl-client-cert`.
    pub is_passed: bool,
    /// Address that clients without a valid certificate are redirected to.
    pub error_page: Option<Template>,
}

/// How client certificates are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verify {
    /// A certificate of one of the CAs is required.
    Required,
    /// If a certificate is sent, it must be of one of the CAs.
    Optional,
    /// Not verified; the backend decides.
    AnyAuthority,
}

/// Passwords by user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Basic {
    /// Realm that is shown to users at log-in.
    pub realm: String,
    /// Password hashes by user, as in `htpasswd` files.
    pub users: BTreeMap<String, Hidden>,
}

/// A service that checks each request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct External {
    /// Its address; what variables in its path and query stand for is escaped.
    pub url: Template,
    /// Method of the request to it; that of the client's request if not set.
    pub method: Option<String>,
    /// Address that clients are redirected to if it answers 401.
    pub signin: Option<Template>,
    /// Query parameter of `signin` with the address to return to.
    pub signin_parameter: String,
    /// Headers of its response that backends get, in lower case.
    pub response_headers: Vec<String>,
    /// Value of `X-Auth-Request-Redirect`; path and query if not set.
    pub redirect: Option<Template>,
    /// CA certificates (PEM) of the service instead of the system's.
    pub authorities: Option<Vec<u8>>,
}

/// Signatures of requests (`draft-cavage-http-signatures`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hmac {
    /// Shared secrets by user.
    pub users: BTreeMap<String, Hidden>,
    /// Allowed difference between `Date` and now.
    pub skew: Duration,
}

/// API keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiKey {
    /// Header with the key, in lower case.
    pub header: String,
    /// Query parameter that may have the key instead.
    pub query: Option<String>,
    /// Keys by consumer.
    pub consumers: BTreeMap<String, Hidden>,
}

/// Required claims of tokens, and the headers that are set from claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claims {
    /// `iss`.
    pub issuer: Option<String>,
    /// One of these must be in `aud`; empty for any.
    pub audiences: Vec<String>,
    /// Allowed difference of clocks.
    pub leeway: Duration,
    /// Headers for backends, in lower case, with the claims that they are set from.
    pub headers: BTreeMap<String, String>,
}

/// JSON Web Tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Jwt {
    /// Keys that verify signatures.
    pub keys: JwtKeys,
    /// Required claims.
    pub claims: Claims,
}

/// Keys that verify signatures of tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JwtKeys {
    /// A shared secret.
    Shared(Hidden),
    /// A public key, PEM.
    Public(Vec<u8>),
    /// A set of keys at an address.
    Url(Server),
}

/// A server that the proxy sends requests to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Its address.
    pub url: String,
    /// Its CA certificates (PEM) instead of the system's.
    pub authorities: Option<Vec<u8>>,
}

/// Tokens that their issuer verifies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Introspection {
    /// Its endpoint.
    pub server: Server,
    /// Client id of the proxy.
    pub client_id: String,
    /// Client secret of the proxy.
    pub client_secret: Hidden,
    /// Scopes that tokens must have.
    pub scopes: Vec<String>,
    /// Required claims.
    pub claims: Claims,
}

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ldap {
    /// `ldap://` or `ldaps://`.
    pub server: Server,
    /// Whether a plain connection is upgraded to TLS first.
    pub starttls: bool,
    /// How a user's entry is found.
    pub entry: LdapEntry,
    /// Realm that is shown to users at log-in.
    pub realm: String,
}

/// How a user's entry is found in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LdapEntry {
    /// By DN, with `{user}` in place of the user's name.
    Template(String),
    /// By search.
    Search {
        /// Base DN.
        base: String,
        /// Filter, with `{user}` in place of the user's name.
        filter: String,
        /// DN and password for the search; anonymous if not set.
        bind: Option<(String, Hidden)>,
    },
}

/// PASETOs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Paseto {
    /// Key that verifies or decrypts them.
    pub key: PasetoKey,
    /// Required claims.
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
    /// Client id of the proxy.
    pub client_id: String,
    /// Client secret of the proxy.
    pub client_secret: Hidden,
    /// What cookies are encrypted with.
    pub cookie_key: Hidden,
    /// What is asked for besides `openid`.
    pub scopes: Vec<String>,
    /// Path that users come back to.
    pub callback: String,
    /// Path that ends a session.
    pub logout: String,
    /// Headers for backends, in lower case, with the claims that they are set from.
    pub headers: BTreeMap<String, String>,
}

impl Auth {
    /// Returns the headers that backends get from this proof, in lower case. Clients cannot set
    /// them.
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
