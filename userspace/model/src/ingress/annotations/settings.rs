//! Settings in the ConfigMap of ingress-nginx, with advice for a migration.

use super::{ANNOTATIONS, OWN};

/// Guards in the ConfigMap of ingress-nginx, which hold for all Ingresses there, and what replaces them.
const GUARDING: &[(&[&str], &str)] = &[
    (
        &[
            "global-auth-url",
            "global-auth-method",
            "global-auth-signin",
            "global-auth-signin-redirect-param",
            "global-auth-response-headers",
            "global-auth-request-redirect",
            "global-auth-snippet",
            "global-auth-cache-key",
            "global-auth-cache-duration",
            "global-auth-always-set-cookie",
        ],
        "set `auth-url` and the like on each Ingress",
    ),
    (
        &["block-cidrs", "denylist-source-range"],
        "set `denylist-source-range` on each Ingress",
    ),
    (
        &["whitelist-source-range", "allowlist-source-range"],
        "set `allowlist-source-range` on each Ingress",
    ),
    (
        &["block-user-agents", "block-referers"],
        "none: put a firewall in front of Headgate",
    ),
    (
        &["no-auth-locations"],
        "`auth-url` holds for all paths of its Ingress",
    ),
    (
        &[
            "enable-modsecurity",
            "enable-owasp-modsecurity-crs",
            "modsecurity-snippet",
        ],
        "a firewall in front of or behind Headgate",
    ),
    (
        &["limit-connections", "limit-rps", "limit-rpm"],
        "set the annotation of this name on each Ingress",
    ),
    (
        &["no-tls-redirect-locations"],
        "paths of ACME challenges are not redirected; `ssl-redirect` on each Ingress for others",
    ),
];

/// Settings in the ConfigMap of ingress-nginx, and what replaces them.
const SETTINGS: &[(&[&str], &str)] = &[
    (
        &[
            "use-forwarded-headers",
            "proxy-real-ip-cidr",
            "forwarded-for-header",
        ],
        "option --trusted-proxies of `headgate proxy` names the proxies whose X-Forwarded headers are trusted",
    ),
    (
        &["use-proxy-protocol"],
        "option --proxy-protocol-from of `headgate proxy`",
    ),
    (
        &[
            "disable-access-log",
            "log-format-upstream",
            "log-format-escape-json",
        ],
        "option --access-log of `headgate proxy`: json, combined or off",
    ),
    (
        &[
            "hsts",
            "hsts-max-age",
            "hsts-include-subdomains",
            "hsts-preload",
        ],
        "`headgate.io/hsts` on each Ingress; one year with subdomains if not given",
    ),
    (
        &[
            "ssl-protocols",
            "ssl-ciphers",
            "ssl-dh-param",
            "ssl-ecdh-curve",
        ],
        "none: TLS 1.2 and 1.3 with the ciphers of the library",
    ),
    (
        &[
            "enable-opentelemetry",
            "otlp-collector-host",
            "otlp-collector-port",
        ],
        "option --otlp-endpoint of `headgate proxy`: OTLP over HTTP, port 4318 of most collectors",
    ),
    (
        &[
            "otel-sampler",
            "otel-sampler-ratio",
            "otel-sampler-parent-based",
        ],
        "option --trace-sample-rate of `headgate proxy`; traces of clients keep their sampling decision",
    ),
    (
        &["client-header-timeout", "client-body-timeout"],
        "the option of `headgate proxy` with this name",
    ),
    (
        &["worker-processes"],
        "option --threads of `headgate proxy`; one for each CPU if not given",
    ),
    (
        &["add-headers", "proxy-set-headers"],
        "`headgate.io/response-headers` and `headgate.io/request-headers` on each Ingress",
    ),
    (
        &[
            "main-snippet",
            "http-snippet",
            "server-snippet",
            "location-snippet",
            "stream-snippet",
        ],
        "none: no configuration snippets",
    ),
    (
        &["custom-http-errors"],
        "`custom-http-errors` and `default-backend` on each Ingress; `--default-backend` for requests that no rule matches",
    ),
    (
        &[
            "use-gzip",
            "gzip-level",
            "gzip-min-length",
            "gzip-types",
            "gzip-disable",
            "enable-brotli",
            "brotli-level",
            "brotli-min-length",
            "brotli-types",
        ],
        "`headgate.io/compress` on each Ingress",
    ),
    (
        &["enable-underscores-in-headers", "ignore-invalid-headers"],
        "none: headers with underscores pass, except those that Headgate sets itself",
    ),
    (
        &[
            "large-client-header-buffers",
            "client-header-buffer-size",
            "http2-max-field-size",
            "http2-max-header-size",
        ],
        "none: see the limits of heads in INGRESS.md",
    ),
    (
        &["limit-req-status-code", "limit-conn-status-code"],
        "none: a request above a limit gets 503",
    ),
    (
        &["hide-headers"],
        "`headgate.io/response-headers` on each Ingress: `Name:` removes one",
    ),
    (&["server-tokens"], "none: no `Server` header is added"),
    (
        &[
            "keep-alive",
            "keep-alive-requests",
            "upstream-keepalive-connections",
            "upstream-keepalive-timeout",
            "upstream-keepalive-requests",
            "upstream-keepalive-time",
        ],
        "none: idle connections of clients end after --client-header-timeout, those to backends are kept",
    ),
    (
        &["http-redirect-code"],
        "none: HTTP is redirected to HTTPS with 308",
    ),
    (
        &["ssl-redirect", "force-ssl-redirect"],
        "set the annotation of this name on each Ingress",
    ),
    (
        &["default-ssl-certificate"],
        "option --default-certificate of `headgate proxy`",
    ),
    (
        &[
            "compute-full-forwarded-for",
            "forwarded-for-proxy-protocol-header",
            "enable-real-ip",
        ],
        "option --trusted-proxies of `headgate proxy`",
    ),
    (
        &[
            "allow-snippet-annotations",
            "annotations-risk-level",
            "strict-validate-path-type",
        ],
        "none: remove it",
    ),
];

/// Returns what to do instead of a setting in the ConfigMap of ingress-nginx; `None` if it is not known.
fn known_setting(key: &str) -> Option<String> {
    let of = |table: &[(&[&str], &'static str)]| {
        let entry = table.iter().find(|(keys, _)| keys.contains(&key));
        entry.map(|(_, instead)| *instead)
    };
    if let Some(instead) = of(GUARDING) {
        return Some(format!(
            "A GUARD OF ALL INGRESSES, WHICH HEADGATE DOES NOT READ: {instead}"
        ));
    }
    if let Some(instead) = of(SETTINGS) {
        return Some(instead.into());
    }
    let name = key.replace('_', "-");
    let mut known = ANNOTATIONS.iter().filter(|known| known.is_nginx);
    let known = known.find(|known| known.name == name)?;
    Some(match known.meaning.starts_with("has no effect") {
        true => known.meaning.into(),
        false => {
            format!("there is no global setting: set `{OWN}{name}` on each Ingress that needs it")
        }
    })
}

/// Returns what to do instead of a setting in the ConfigMap of ingress-nginx.
pub fn setting(key: &str) -> String {
    let unknown = "unknown setting: check whether the default of Headgate is sufficient";
    known_setting(key).unwrap_or_else(|| unknown.into())
}

/// Returns whether a ConfigMap with these keys can be that of ingress-nginx: most are settings of it.
pub fn is_settings<'a>(keys: impl IntoIterator<Item = &'a String>) -> bool {
    let (known, unknown): (Vec<_>, Vec<_>) = keys
        .into_iter()
        .partition(|key| known_setting(key).is_some());
    known.len() > unknown.len()
}
