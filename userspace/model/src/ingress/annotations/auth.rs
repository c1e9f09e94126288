//! Annotations about who may come.

use std::collections::BTreeMap;

use super::super::{Pattern, Verify};

use super::{
    Annotation,
    auth_draft::Kind,
    values::{
        boolean, duration, field_value, list, location, object_name, path, positive, token, url,
    },
};

/// What stands for the path and query of a request where they are a parameter of another address.
const ESCAPED_URI: &str = "$escaped_request_uri";
/// Headers that say who asks, how a message ends or where it goes: never made of claims.
const NOT_FOR_CLAIMS: [&str; 9] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
];

pub(super) const ANNOTATIONS: &[Annotation] = &[
    // Names and passwords, keys and tokens.
    Annotation::nginx(
        "auth-type",
        "what requests must prove: `basic`, `hmac`, `api-key`, `jwt`, `introspection`, `ldap`, `paseto` or `oidc`",
        |text, draft| {
            draft.auth.kind = Some(match text {
                "basic" => Kind::Basic,
                "hmac" => Kind::Hmac,
                "api-key" => Kind::ApiKey,
                "jwt" => Kind::Jwt,
                "introspection" => Kind::Introspection,
                "ldap" => Kind::Ldap,
                "paseto" => Kind::Paseto,
                "oidc" => Kind::Oidc,
                _ => return Err(format!("`{text}` is not supported")),
            });
            Ok(())
        },
    )
    .guard(),
    Annotation::nginx(
        "auth-secret",
        "Secret of the namespace with what `auth-type` needs",
        |text, draft| Ok(draft.auth.secret = Some(object_name(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-secret-type",
        "`auth-file`: the Secret has a file of `htpasswd` in `auth`; `auth-map`: each of its keys is a user; `auth-file` if not given",
        |text, draft| {
            draft.auth.is_map = match text {
                "auth-file" => false,
                "auth-map" => true,
                _ => return Err(format!("`{text}` is neither auth-file nor auth-map")),
            };
            Ok(())
        },
    )
    .guard(),
    Annotation::nginx(
        "auth-realm",
        "what users are told they log in to",
        |text, draft| match some(text)? {
            realm if realm.contains(['"', '\\']) => Err("has a quote or backslash".into()),
            realm => Ok(draft.auth.realm = Some(realm)),
        },
    )
    .guard(),
    Annotation::own(
        "auth-server",
        "address that is asked: of a set of keys (`jwt`), of an endpoint (`introspection`), of a directory (`ldap`: `ldap://` or `ldaps://`)",
        |text, draft| Ok(draft.auth.server = Some(url(text, &["http", "https", "ldap", "ldaps"])?)),
    )
    .guard(),
    Annotation::own(
        "auth-ca-secret",
        "Secret whose `ca.crt` has the authorities of the servers that are asked, instead of the system's",
        |text, draft| Ok(draft.auth.ca_secret = Some(object_name(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-issuer",
        "who must have made tokens (`iss`); for `oidc` the address of the provider",
        |text, draft| Ok(draft.auth.issuer = Some(some(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-audience",
        "for whom tokens may be made (`aud`), between commas; anybody if not given",
        |text, draft| Ok(draft.auth.audiences = texts(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-scopes",
        "scopes between commas: those that a token must have (`introspection`), or that are asked for (`oidc`)",
        |text, draft| Ok(draft.auth.scopes = texts(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-leeway",
        "by how much clocks may differ; 60s if not given, 300s for `hmac`",
        |text, draft| Ok(draft.auth.leeway = Some(duration(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-claim-headers",
        "headers that backends get, made of claims: `email=X-Auth-Email, groups=X-Auth-Groups`",
        |text, draft| Ok(draft.auth.claim_headers = claim_headers(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-key-header",
        "header with the key of `api-key`; `X-API-Key` if not given",
        |text, draft| Ok(draft.auth.key_header = Some(token(text)?.to_ascii_lowercase())),
    )
    .guard(),
    Annotation::own(
        "auth-key-query",
        "parameter of the query that may have the key of `api-key` as well; none if not given",
        |text, draft| Ok(draft.auth.key_query = Some(token(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-user",
        "name of a user's entry, such as `uid={user},ou=people,dc=example,dc=org`",
        |text, draft| Ok(draft.auth.ldap_user = Some(with_user(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-base",
        "where users are searched, instead of `auth-ldap-user`",
        |text, draft| Ok(draft.auth.ldap_base = Some(some(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-filter",
        "what is searched; `(uid={user})` if not given",
        |text, draft| Ok(draft.auth.ldap_filter = Some(with_user(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-starttls",
        "`true`: speak TLS over `ldap://`",
        |text, draft| Ok(draft.auth.starttls = boolean(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-callback-path",
        "path that users come back to from the provider of `oidc`; `/oauth2/callback` if not given",
        |text, draft| Ok(draft.auth.callback = Some(path(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-logout-path",
        "path that ends a session of `oidc`; `/oauth2/logout` if not given",
        |text, draft| Ok(draft.auth.logout = Some(path(text)?)),
    )
    .guard(),
    // Another service.
    Annotation::nginx(
        "auth-url",
        "address that is asked about each request: 2xx lets it through, 401 and 403 do not; `$host` is filled in",
        |text, draft| Ok(draft.auth.url = Some(asked(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-method",
        "method of the question; that of the request if not given",
        |text, draft| Ok(draft.auth.method = Some(token(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-signin",
        "where clients are redirected to (302) if the answer is 401",
        |text, draft| {
            location(&text.replace(ESCAPED_URI, ""))?;
            Ok(draft.auth.signin = Some(text.into()))
        },
    )
    .guard(),
    Annotation::nginx(
        "auth-signin-redirect-param",
        "parameter of `auth-signin` that gets the address to come back to; `rd` if not given",
        |text, draft| Ok(draft.auth.signin_parameter = Some(token(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-response-headers",
        "headers of the answer that backends get, between commas",
        |text, draft| {
            let names = texts(text)?.into_iter();
            let names = names.map(|name| Ok(token(&name)?.to_ascii_lowercase()));
            Ok(draft.auth.response_headers = names.collect::<Result<_, String>>()?)
        },
    )
    .guard(),
    Annotation::nginx(
        "auth-request-redirect",
        "what `X-Auth-Request-Redirect` of the question says; path and query if not given",
        |text, draft| Ok(draft.auth.redirect = Some(some(text)?)),
    )
    .guard(),
    // Client certificates.
    Annotation::nginx(
        "auth-tls-secret",
        "Secret whose `ca.crt` (and `ca.crl`) client certificates of the hosts are checked with",
        |text, draft| Ok(draft.auth.tls_secret = Some(object_name(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-tls-verify-client",
        "`on`: a certificate must be there; `optional`: it must be right if it is there; `optional_no_ca`: the backend decides; `off`",
        |text, draft| {
            draft.auth.tls_verify = Some(match text {
                "on" => Some(Verify::Required),
                "optional" => Some(Verify::Optional),
                "optional_no_ca" => Some(Verify::AnyAuthority),
                "off" => None,
                _ => return Err(format!("`{text}` is not supported")),
            });
            Ok(())
        },
    )
    .guard(),
    Annotation::nginx(
        "auth-tls-verify-depth",
        "certificates that may stand between a client's and its authority; 1 if not given",
        |text, draft| Ok(draft.auth.tls_depth = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-tls-pass-certificate-to-upstream",
        "`true`: backends get the certificate in `ssl-client-cert`, as PEM with its characters escaped",
        |text, draft| Ok(draft.auth.tls_pass = boolean(text)?),
    )
    .guard(),
    Annotation::nginx(
        "auth-tls-match-cn",
        "`CN=` and a regular expression for the whole common name; others get 403",
        |text, draft| {
            let pattern = text.strip_prefix("CN=").ok_or("does not begin with CN=")?;
            Ok(draft.auth.tls_name = Some(Pattern::whole(pattern)?))
        },
    )
    .guard(),
    Annotation::nginx(
        "auth-tls-error-page",
        "where clients without a right certificate are redirected to (302)",
        |text, draft| Ok(draft.auth.tls_error_page = Some(location(text)?)),
    )
    .guard(),
];

/// A text that is there.
fn some(text: &str) -> Result<String, String> {
    match field_value(text)? {
        text if text.is_empty() => Err("is empty".into()),
        text => Ok(text),
    }
}

/// Texts between commas, at least one.
fn texts(text: &str) -> Result<Vec<String>, String> {
    some(text)?;
    list(text).map(some).collect()
}

fn with_user(text: &str) -> Result<String, String> {
    match text.contains("{user}") {
        true => some(text),
        false => Err("has no {user}".into()),
    }
}

/// An address in which the host may be the request's.
fn asked(text: &str) -> Result<String, String> {
    url(&text.replace("$host", "host"), &["http", "https"])?;
    Ok(text.into())
}

/// `CLAIM=HEADER` between commas.
fn claim_headers(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |item: &str| {
        let (claim, header) = item
            .split_once('=')
            .ok_or(format!("`{item}` is no CLAIM=HEADER"))?;
        let header = token(header.trim())?.to_ascii_lowercase();
        match NOT_FOR_CLAIMS.contains(&header.as_str()) {
            true => Err(format!("`{header}` cannot be set")),
            false => Ok((header, claim.trim().to_owned())),
        }
    };
    texts(text)?.iter().map(|item| pair(item)).collect()
}
