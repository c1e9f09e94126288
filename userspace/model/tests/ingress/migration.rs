use std::collections::BTreeSet;

use headgate_model::{
    edge::Secret,
    ingress::{ANNOTATIONS, Migration, to_gateway},
};

use crate::build::{Build, Prefix, annotation, ingress, name, objects};

const BASIC: &[(&str, &str)] = &[("/auth-type", "basic"), ("/auth-secret", "users")];
const JWT: &[(&str, &str)] = &[("/auth-type", "jwt"), ("/auth-secret", "users")];
const LDAP: &[(&str, &str)] = &[
    ("/auth-type", "ldap"),
    ("/auth-server", "ldaps://ldap.default.svc"),
    ("/auth-ldap-base", "dc=a"),
    ("/auth-secret", "users"),
];
const OIDC: &[(&str, &str)] = &[
    ("/auth-type", "oidc"),
    ("/auth-issuer", "https://idp.bar.com"),
    ("/auth-secret", "users"),
];
const EXTERNAL: &[(&str, &str)] = &[("/auth-url", "http://auth.default.svc/check")];
const CERTIFICATE: &[(&str, &str)] = &[("/auth-tls-secret", "default/ca")];
const CANARY: &[(&str, &str)] = &[("/canary", "true"), ("/canary-weight", "10")];
const BY_HEADER: &[(&str, &str)] = &[("/canary", "true"), ("/canary-by-header", "a")];
const COOKIE: &[(&str, &str)] = &[("/affinity", "cookie")];
const CORS: &[(&str, &str)] = &[
    ("/enable-cors", "true"),
    ("/cors-allow-origin", "https://a.com"),
];
const HTTPS: &[(&str, &str)] = &[
    ("/backend-protocol", "HTTPS"),
    ("/proxy-ssl-secret", "default/ca"),
];
const PROBE: &[(&str, &str)] = &[("/health-check-path", "/")];
const RATE: &[(&str, &str)] = &[("/limit-rps", "5")];
const MIRROR: &[(&str, &str)] = &[("/mirror-service", "rest:80")];
const NETWORK: &str = "10.0.0.0/8";

/// An annotation with a value that asks for something, and those without which it asks for nothing.
type Example = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// All annotations.
const EXAMPLES: &[Example] = &[
    ("affinity", "cookie", &[]),
    ("allowlist-source-range", NETWORK, &[]),
    ("app-root", "/app", &[]),
    ("auth-audience", "a", JWT),
    ("auth-ca-secret", "ca", EXTERNAL),
    ("auth-callback-path", "/back", OIDC),
    ("auth-claim-headers", "sub=x-user", JWT),
    ("auth-issuer", "https://idp.bar.com", JWT),
    (
        "auth-key-header",
        "x-key",
        &[("/auth-type", "api-key"), ("/auth-secret", "users")],
    ),
    (
        "auth-key-query",
        "key",
        &[("/auth-type", "api-key"), ("/auth-secret", "users")],
    ),
    ("auth-ldap-base", "dc=b", LDAP),
    ("auth-ldap-filter", "(uid={user})", LDAP),
    ("auth-ldap-starttls", "true", LDAP),
    ("auth-ldap-user", "uid={user},dc=a", LDAP),
    ("auth-leeway", "3s", JWT),
    ("auth-logout-path", "/bye", OIDC),
    ("auth-method", "POST", EXTERNAL),
    ("auth-realm", "private", BASIC),
    ("auth-request-redirect", "https://a.com", EXTERNAL),
    ("auth-response-headers", "x-user", EXTERNAL),
    ("auth-scopes", "a", OIDC),
    ("auth-secret", "users", &[("/auth-type", "basic")]),
    ("auth-secret-type", "auth-map", BASIC),
    ("auth-server", "ldaps://other.default.svc", LDAP),
    ("auth-signin", "https://a.com/in", EXTERNAL),
    ("auth-signin-redirect-param", "back", EXTERNAL),
    ("auth-tls-error-page", "https://a.com", CERTIFICATE),
    ("auth-tls-match-cn", "CN=a", CERTIFICATE),
    ("auth-tls-pass-certificate-to-upstream", "true", CERTIFICATE),
    ("auth-tls-secret", "default/ca", &[]),
    ("auth-tls-verify-client", "on", CERTIFICATE),
    ("auth-tls-verify-depth", "2", CERTIFICATE),
    ("auth-type", "basic", &[("/auth-secret", "users")]),
    ("auth-url", "http://auth.default.svc/check", &[]),
    ("backend-protocol", "HTTPS", &[]),
    ("canary", "true", &[("/canary-weight", "10")]),
    ("canary-by-cookie", "a", CANARY),
    ("canary-by-header", "a", CANARY),
    ("canary-by-header-pattern", "a.*", BY_HEADER),
    ("canary-by-header-value", "a", BY_HEADER),
    ("canary-weight", "20", CANARY),
    ("canary-weight-total", "1000", CANARY),
    ("compress", "true", &[]),
    ("cors-allow-credentials", "false", CORS),
    ("cors-allow-headers", "x-a", CORS),
    ("cors-allow-methods", "GET", CORS),
    ("cors-allow-origin", "https://b.com", CORS),
    ("cors-expose-headers", "x-a", CORS),
    ("cors-max-age", "3", CORS),
    ("custom-http-errors", "404", &[("/default-backend", "rest")]),
    ("default-backend", "rest", &[]),
    ("denylist-source-range", NETWORK, &[]),
    ("enable-access-log", "false", &[]),
    ("enable-cors", "true", &[]),
    ("enable-opentelemetry", "false", &[]),
    ("force-ssl-redirect", "true", &[("/ssl-redirect", "false")]),
    ("from-to-www-redirect", "true", &[]),
    ("health-check-interval", "3s", PROBE),
    ("health-check-path", "/healthy", &[]),
    ("health-check-timeout", "3s", PROBE),
    ("hsts", "off", &[]),
    ("limit-allowlist", NETWORK, RATE),
    ("limit-burst-multiplier", "3", RATE),
    ("limit-connections", "3", &[]),
    ("limit-rpm", "3", &[]),
    ("limit-rps", "3", &[]),
    ("limit-whitelist", NETWORK, RATE),
    ("load-balance", "ewma", &[]),
    ("match-headers", "x-a b", &[]),
    ("match-method", "GET", &[]),
    ("match-query", "a b", &[]),
    ("match-source", NETWORK, &[]),
    ("max-requests", "3", &[]),
    ("mirror-percent", "3", MIRROR),
    ("mirror-service", "rest:80", &[]),
    ("opentelemetry-trust-incoming-span", "false", &[]),
    ("outlier-ejection", "3s", &[]),
    ("outlier-failures", "3", &[]),
    ("permanent-redirect", "https://a.com", &[]),
    (
        "permanent-redirect-code",
        "308",
        &[("/permanent-redirect", "https://a.com")],
    ),
    ("proxy-body-size", "3m", &[]),
    ("proxy-connect-timeout", "3", &[]),
    ("proxy-next-upstream", "off", &[]),
    ("proxy-next-upstream-tries", "2", &[]),
    ("proxy-protocol", "true", &[]),
    ("proxy-read-timeout", "3", &[]),
    ("proxy-send-timeout", "3", &[]),
    ("proxy-ssl-name", "a.com", HTTPS),
    (
        "proxy-ssl-secret",
        "default/ca",
        &[("/backend-protocol", "HTTPS"), ("/proxy-ssl-verify", "on")],
    ),
    (
        "proxy-ssl-verify",
        "on",
        &[("/proxy-ssl-secret", "default/ca")],
    ),
    ("request-headers", "x-a: b", &[]),
    ("response-headers", "x-a: b", &[]),
    ("rewrite-target", "/other", &[]),
    ("satisfy", "any", &[]),
    ("secure-backends", "true", &[]),
    ("server-alias", "a.com", &[]),
    ("service-upstream", "true", &[]),
    ("session-cookie-domain", "a.com", COOKIE),
    ("session-cookie-expires", "3", COOKIE),
    ("session-cookie-max-age", "3", COOKIE),
    ("session-cookie-name", "a", COOKIE),
    ("session-cookie-path", "/a", COOKIE),
    ("session-cookie-samesite", "Lax", COOKIE),
    ("session-cookie-secure", "true", COOKIE),
    ("slow-start", "3s", &[]),
    ("ssl-passthrough", "true", &[]),
    ("ssl-redirect", "false", &[]),
    ("temporal-redirect", "https://a.com", &[]),
    (
        "temporal-redirect-code",
        "307",
        &[("/temporal-redirect", "https://a.com")],
    ),
    ("upstream-hash-by", "$request_uri", &[]),
    ("upstream-vhost", "a.com", &[]),
    ("use-regex", "true", &[]),
    ("weights", "node-a=3", &[]),
    ("whitelist-source-range", NETWORK, &[]),
    ("x-forwarded-prefix", "/app", &[]),
];

/// Annotations that change nothing.
const WITHOUT_EFFECT: [&str; 2] = ["affinity-mode", "enable-global-auth"];

fn migrated(notes: &[(&str, &str)]) -> Migration {
    let main = ingress("a")
        .rule("foo.com", Prefix, "/", "web")
        .tls(&["foo.com"], "tls");
    let mut other = notes
        .iter()
        .fold(main.clone(), |site, (key, value)| site.note(key, value));
    let mut all = Vec::new();
    if notes.iter().any(|(key, _)| *key == "/canary") {
        // Of the Ingress that is printed.
        other.name = name("canary");
        all.push(main);
    }
    all.push(other);
    let mut objects = objects(all);
    let keys = [
        ("auth", "user:hash"),
        ("bind-dn", "cn=a"),
        ("bind-password", "b"),
        ("ca.crt", "-"),
        ("client-id", "a"),
        ("client-secret", "b"),
        ("cookie-key", "0123456789abcdef0123456789abcdef"),
        ("public.pem", "-"),
    ];
    let data = keys.map(|(key, value)| (key.to_owned(), value.into()));
    for short in ["users", "ca"] {
        let data = data.clone().into();
        let secret = Secret {
            type_: "Opaque".into(),
            data,
        };
        objects.secrets.insert(name(short), secret);
    }
    to_gateway(&objects, &name("edge/ingress"), "headgate")
}

#[test]
fn l192_every_annotation_is_printed_or_named() {
    let mut silent = Vec::new();
    for (short, value, with) in EXAMPLES {
        let own = format!("/{short}");
        let [before, after] =
            [with.to_vec(), [with, &[(&*own, *value)][..]].concat()].map(|notes| migrated(&notes));
        let key = annotation(&own);
        let mut notes = after.notes.iter();
        let is_named = notes.any(|note| note.part == key || note.part == *short);
        let is_printed = after.documents != before.documents;
        let is_left_out = after.lacks_ingress() && *with == CERTIFICATE;
        if !(is_named || is_printed || is_left_out) {
            let notes = after.notes.iter().map(ToString::to_string);
            silent.push((short, notes.collect::<Vec<_>>()));
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn l192_the_examples_are_all_annotations() {
    let known: BTreeSet<&str> = ANNOTATIONS
        .iter()
        .filter(|one| !one.meaning.starts_with("has no effect"))
        .map(|one| one.name)
        .filter(|name| !WITHOUT_EFFECT.contains(name))
        .collect();
    let examples: BTreeSet<&str> = EXAMPLES.iter().map(|(short, ..)| *short).collect();
    assert_eq!(examples, known);
}
