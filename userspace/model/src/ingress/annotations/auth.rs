//! Annotations about authentication.

use std::collections::BTreeMap;

use crate::edge::{Pattern, Template, Variable, Verify};

use super::{
    Annotation,
    auth_draft::Kind,
    values::{
        boolean, duration, field_value, header_text, list, location, object_name, path, positive,
        settable, token, url,
    },
};

/// Headers that carry credentials: never set from claims.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "x-api-key"];

pub(super) const ANNOTATIONS: &[Annotation] = &[
    // Names and passwords, keys and tokens.
    Annotation::nginx(
        "auth-type",
        "how requests are authenticated: `basic`, `hmac`, `api-key`, `jwt`, `introspection`, `ldap`, `paseto` or `oidc`",
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
        "Secret in the namespace with the data that `auth-type` needs",
        |text, draft| Ok(draft.auth.secret = Some(object_name(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-secret-type",
        "`auth-file`: key `auth` of the Secret is an `htpasswd` file; `auth-map`: each key of the Secret is a user; `auth-file` if not given",
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
        "realm that is shown to users at log-in; `Authentication Required` if not given",
        |text, draft| match some(text)? {
            realm if realm.contains(['"', '\\']) => Err("has a quote or backslash".into()),
            realm => Ok(draft.auth.realm = Some(realm)),
        },
    )
    .guard(),
    Annotation::own(
        "auth-server",
        "address of the key set (`jwt`), the introspection endpoint (`introspection`) or the directory (`ldap`: `ldap://` or `ldaps://`)",
        |text, draft| Ok(draft.auth.server = Some(url(text, &["http", "https", "ldap", "ldaps"])?)),
    )
    .guard(),
    Annotation::own(
        "auth-ca-secret",
        "Secret whose `ca.crt` has the CA certificates for `auth-server`, `auth-url` and the provider of `oidc`, instead of the system's",
        |text, draft| Ok(draft.auth.ca_secret = Some(object_name(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-issuer",
        "required issuer of tokens (`iss`); for `oidc` the address of the provider",
        |text, draft| Ok(draft.auth.issuer = Some(some(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-audience",
        "accepted audiences of tokens (`aud`), separated by commas; any if not given",
        |text, draft| Ok(draft.auth.audiences = texts(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-scopes",
        "scopes, separated by commas: required of a token (`introspection`), or requested (`oidc`)",
        |text, draft| Ok(draft.auth.scopes = texts(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-leeway",
        "allowed difference of clocks; 60s if not given, 300s for `hmac`",
        |text, draft| Ok(draft.auth.leeway = Some(duration(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-claim-headers",
        "headers for backends, set from claims: `email=X-Auth-Email, groups=X-Auth-Groups`",
        |text, draft| Ok(draft.auth.claim_headers = claim_headers(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-key-header",
        "header with the API key; `X-API-Key` if not given",
        |text, draft| Ok(draft.auth.key_header = Some(token(text)?.to_ascii_lowercase())),
    )
    .guard(),
    Annotation::own(
        "auth-key-query",
        "query parameter that may have the API key instead; none if not given",
        |text, draft| Ok(draft.auth.key_query = Some(token(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-user",
        "DN of a user's entry, such as `uid={user},ou=people,dc=example,dc=org`",
        |text, draft| Ok(draft.auth.ldap_user = Some(with_user(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-base",
        "base DN of the search for users, instead of `auth-ldap-user`",
        |text, draft| Ok(draft.auth.ldap_base = Some(some(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-filter",
        "filter of the search for users; `(uid={user})` if not given",
        |text, draft| Ok(draft.auth.ldap_filter = Some(with_user(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-ldap-starttls",
        "`true`: STARTTLS over `ldap://`",
        |text, draft| Ok(draft.auth.starttls = boolean(text)?),
    )
    .guard(),
    Annotation::own(
        "auth-callback-path",
        "path that the provider of `oidc` redirects users to after log-in; `/oauth2/callback` if not given",
        |text, draft| Ok(draft.auth.callback = Some(path(text)?)),
    )
    .guard(),
    Annotation::own(
        "auth-logout-path",
        "path that logs a user of `oidc` out; `/oauth2/logout` if not given",
        |text, draft| Ok(draft.auth.logout = Some(path(text)?)),
    )
    .guard(),
    // Another service.
    Annotation::nginx(
        "auth-url",
        "address of a service that checks each request: 2xx admits it, 401 and 403 reject it; `$host` is replaced, and in path and query all [variables](#variables)",
        |text, draft| Ok(draft.auth.url = Some(asked(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-method",
        "method of the request to `auth-url`; GET if not given",
        |text, draft| Ok(draft.auth.method = Some(token(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-signin",
        "address that clients are redirected to (302) if `auth-url` answers 401, with [variables](#variables); without it they get 401",
        |text, draft| Ok(draft.auth.signin = Some(location(text)?)),
    ),
    Annotation::nginx(
        "auth-signin-redirect-param",
        "query parameter of `auth-signin` with the address to return to; `rd` if not given",
        |text, draft| Ok(draft.auth.signin_parameter = Some(token(text)?)),
    ),
    Annotation::nginx(
        "auth-response-headers",
        "headers of the response of `auth-url` that backends get, separated by commas",
        |text, draft| {
            let names = texts(text)?.into_iter();
            let names = names.map(|name| settable(&name));
            Ok(draft.auth.response_headers = names.collect::<Result<_, String>>()?)
        },
    )
    .guard(),
    Annotation::nginx(
        "auth-request-redirect",
        "value of `X-Auth-Request-Redirect` in the request to `auth-url`, with [variables](#variables); path and query if not given",
        |text, draft| Ok(draft.auth.redirect = Some(header_text(&some(text)?)?)),
    ),
    Annotation::nginx(
        "auth-always-set-cookie",
        "has no effect: cookies of `auth-url` are always sent to the client",
        |text, _| boolean(text).map(|_| ()),
    ),
    Annotation::nginx(
        "auth-cache-key",
        "has no effect: every request is checked",
        |_, _| Ok(()),
    ),
    Annotation::nginx(
        "auth-cache-duration",
        "has no effect: every request is checked",
        |_, _| Ok(()),
    ),
    Annotation::nginx(
        "auth-keepalive",
        "has no effect: connections to `auth-url` are kept",
        |_, _| Ok(()),
    ),
    Annotation::nginx(
        "auth-keepalive-requests",
        "has no effect: connections to `auth-url` are kept",
        |_, _| Ok(()),
    ),
    Annotation::nginx(
        "auth-keepalive-timeout",
        "has no effect: connections to `auth-url` are kept",
        |_, _| Ok(()),
    ),
    Annotation::nginx(
        "enable-global-auth",
        "`false`: has no effect, as there is no `auth-url` for all Ingresses",
        |text, _| match boolean(text)? {
            false => Ok(()),
            true => Err("there is no auth-url for all Ingresses; set `auth-url`".into()),
        },
    )
    .guard(),
    Annotation::nginx(
        "satisfy",
        "`all`: source ranges and authentication must both admit a request",
        |text, _| match text {
            "all" => Ok(()),
            _ => Err(format!("`{text}` is not supported: all guards must admit a request")),
        },
    )
    .guard(),
    // Client certificates.
    Annotation::nginx(
        "auth-tls-secret",
        "Secret with the CA certificates (`ca.crt`, and revocation lists in `ca.crl`) that verify client certificates of the hosts",
        |text, draft| Ok(draft.auth.tls_secret = Some(object_name(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-tls-verify-client",
        "`on`: a valid certificate is required; `optional`: if one is sent, it must be valid; `optional_no_ca`: it is not verified, the backend decides; `off`",
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
        "largest number of certificates between a client's and its CA; 1 if not given",
        |text, draft| Ok(draft.auth.tls_depth = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "auth-tls-pass-certificate-to-upstream",
        "`true`: backends get the certificate in header `ssl-client-cert`, as percent-encoded PEM",
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
        "address that clients without a valid certificate are redirected to (302), with [variables](#variables); without it they get 400",
        |text, draft| Ok(draft.auth.tls_error_page = Some(location(text)?)),
    ),
];

/// A text that is not empty.
fn some(text: &str) -> Result<String, String> {
    match field_value(text)? {
        text if text.is_empty() => Err("is empty".into()),
        text => Ok(text),
    }
}

/// Texts separated by commas, at least one.
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

/// An address with variables; before its path only `$host`.
fn asked(text: &str) -> Result<Template, String> {
    let template = Template::parse(text)?;
    let before = template.authority();
    if let Some(other) = before.variables().find(|one| **one != Variable::Host) {
        return Err(format!("only $host can be before the path, not ${other}"));
    }
    let example = template.render(|_, out| out.push_str("host"));
    url(&example, &["http", "https"])?;
    Ok(template)
}

/// `CLAIM=HEADER` separated by commas.
fn claim_headers(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |item: &str| {
        let (claim, header) = item
            .split_once('=')
            .ok_or(format!("`{item}` is not CLAIM=HEADER"))?;
        let header = settable(header.trim())?;
        match CREDENTIALS.contains(&header.as_str()) {
            true => Err(format!("`{header}` cannot be set")),
            false => Ok((header, claim.trim().to_owned())),
        }
    };
    texts(text)?.iter().map(|item| pair(item)).collect()
}
