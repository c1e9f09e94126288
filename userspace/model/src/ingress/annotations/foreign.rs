//! Annotations of ingress-nginx that are not supported or differ here, with advice for a migration.

use std::collections::BTreeMap;

use super::{Draft, Found, denying, found, ignored_guard, is_foreign_guard, other_controller};

/// Annotations of ingress-nginx that are not supported.
#[derive(Debug)]
pub struct Foreign {
    /// Their names after `nginx.ingress.kubernetes.io/`.
    pub names: &'static [&'static str],
    /// What to do instead.
    pub instead: &'static str,
}

const fn foreign(names: &'static [&'static str], instead: &'static str) -> Foreign {
    Foreign { names, instead }
}

/// Every annotation of ingress-nginx that is not supported.
pub const FOREIGN: &[Foreign] = &[
    foreign(
        &["auth-proxy-set-headers", "auth-keepalive-share-vars"],
        "see AUTHENTICATION.md for the alternatives",
    ),
    foreign(
        &[
            "configuration-snippet",
            "server-snippet",
            "stream-snippet",
            "auth-snippet",
            "modsecurity-snippet",
        ],
        "no configuration snippets; use `request-headers`, `response-headers`, `match-headers`. A snippet that keeps requests out (`deny`, `return 403`, `auth_request` and the like) closes the Ingress; use `denylist-source-range`, `auth-url`",
    ),
    foreign(
        &[
            "enable-modsecurity",
            "enable-owasp-core-rules",
            "modsecurity-transaction-id",
        ],
        "a firewall in front of or behind Headgate. The Ingress is *not* closed",
    ),
    foreign(&["custom-headers"], "`headgate.io/response-headers`"),
    foreign(
        &["mirror-target", "mirror-host", "mirror-request-body"],
        "`headgate.io/mirror-service`, a Service instead of an address",
    ),
    foreign(
        &[
            "proxy-redirect-from",
            "proxy-redirect-to",
            "proxy-cookie-domain",
            "proxy-cookie-path",
        ],
        "send the public address to the backend: `x-forwarded-prefix`, `upstream-vhost`",
    ),
    foreign(
        &["session-cookie-change-on-failure"],
        "a client moves when its endpoint is gone",
    ),
    foreign(
        &["affinity-canary-behavior"],
        "none: a canary is chosen for each request",
    ),
    foreign(
        &["upstream-hash-by-subset", "upstream-hash-by-subset-size"],
        "`upstream-hash-by`",
    ),
    foreign(
        &["proxy-next-upstream-timeout"],
        "`proxy-next-upstream-tries` and the timeouts",
    ),
    foreign(
        &["limit-rate", "limit-rate-after"],
        "none: bandwidth is not limited",
    ),
    foreign(
        &[
            "global-rate-limit",
            "global-rate-limit-window",
            "global-rate-limit-key",
            "global-rate-limit-ignored-cidrs",
        ],
        "`limit-rps`, on each node",
    ),
    foreign(
        &["proxy-ssl-server-name"],
        "the name is always sent: `proxy-ssl-name`, else the Service's",
    ),
    foreign(
        &[
            "proxy-ssl-ciphers",
            "proxy-ssl-protocols",
            "proxy-ssl-verify-depth",
            "ssl-ciphers",
            "ssl-prefer-server-ciphers",
        ],
        "TLS 1.2 and 1.3 with the ciphers of the library",
    ),
    foreign(
        &["proxy-http-version", "connection-proxy-header"],
        "HTTP/1.1, or HTTP/2 by `backend-protocol`; upgrades such as WebSocket need no annotation",
    ),
    foreign(
        &["preserve-trailing-slash"],
        "no request is redirected because of its slash",
    ),
    foreign(
        &["http2-push-preload"],
        "none: browsers no longer support push",
    ),
    foreign(
        &["enable-opentracing", "opentracing-trust-incoming-span"],
        "`enable-opentelemetry`, `opentelemetry-trust-incoming-span`",
    ),
    foreign(
        &["enable-rewrite-log", "enable-influxdb"],
        "metrics and the access log",
    ),
    foreign(
        &["disable-proxy-intercept-errors"],
        "none: only the Ingress with `custom-http-errors` has error pages",
    ),
    foreign(
        &["relative-redirects", "use-port-in-redirects"],
        "none: redirects to HTTPS have an absolute address without port; others are as written",
    ),
    foreign(
        &["opentelemetry-operation-name"],
        "none: spans are named by method and path of the rule",
    ),
    foreign(
        &["fastcgi-index", "fastcgi-params-configmap"],
        "none: put a web server in front of FastCGI",
    ),
];

/// Annotations that are supported and differ from ingress-nginx, with the difference.
pub const DIFFERENT: &[(&[&str], &str)] = &[
    (
        &["use-regex", "rewrite-target"],
        "change how the paths of this Ingress are compared, not those of other Ingresses with the host. No look-around and no back references",
    ),
    (
        &["limit-rps", "limit-rpm", "limit-connections"],
        "apply on each node, per client address; with more nodes more requests pass",
    ),
    (
        &["canary"],
        "takes requests only from Ingresses of its namespace, and also applies to their `server-alias` hosts",
    ),
    (
        &["ssl-passthrough"],
        "belongs to the oldest Ingress of the host, and is refused together with source ranges, limits and `match-…`",
    ),
    (
        &["from-to-www-redirect"],
        "keeps the guards of its Ingress, and never takes a host that has rules",
    ),
    (
        &["custom-http-errors", "default-backend"],
        "`custom-http-errors` needs `default-backend`; responses of guards are not replaced; pages are asked for with GET, whatever the method of the request",
    ),
    (
        &["affinity"],
        "a canary is chosen for each request, also for clients with a cookie; the cookie is `Secure` only with `session-cookie-secure`",
    ),
    (
        &["cors-allow-credentials"],
        "has no effect if all origins are allowed",
    ),
    (
        &["enable-global-auth"],
        "there is no `auth-url` for all Ingresses",
    ),
    (
        &["session-cookie-expires"],
        "sent as `Max-Age`, not as `Expires`",
    ),
    (
        &[
            "auth-cache-key",
            "auth-cache-duration",
            "auth-keepalive",
            "auth-keepalive-requests",
            "auth-keepalive-timeout",
            "session-cookie-conditional-samesite-none",
        ],
        "has no effect",
    ),
    (
        &["affinity-mode"],
        "a client moves only if its endpoint is gone, `balanced` or not",
    ),
    (
        &["enable-opentelemetry"],
        "is `true` if not given, but requests are traced only if the proxy has `--otlp-endpoint`",
    ),
    (
        &["opentelemetry-trust-incoming-span"],
        "if `false`, traces of `--trusted-proxies` are still continued",
    ),
    (
        &["proxy-ssl-secret"],
        "a Secret of the Ingress's own namespace",
    ),
    (
        &[
            "proxy-buffering",
            "proxy-request-buffering",
            "proxy-buffer-size",
            "proxy-buffers-number",
            "proxy-busy-buffers-size",
            "proxy-max-temp-file-size",
            "client-body-buffer-size",
        ],
        "has no effect: bodies are streamed, never buffered",
    ),
];

/// How an annotation of ingress-nginx is supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// Like in ingress-nginx.
    Same,
    /// With this difference.
    Different(&'static str),
    /// Not supported, or its value is invalid; what to do instead.
    Unsupported(String),
    /// As `Unsupported`, and every request is rejected because of it.
    Closes(String),
}

/// Returns how each annotation of an Ingress is supported, by key. Skips annotations of what is no
/// Ingress controller.
pub fn support(annotations: &BTreeMap<String, String>) -> BTreeMap<String, Support> {
    let each = found(annotations).map(|found| {
        let refused = |is_guard, reason| match is_guard {
            true => Support::Closes(reason),
            false => Support::Unsupported(reason),
        };
        let support = match found.known {
            None => refused(is_foreign_guard(&found), instead(&found)),
            Some(known) => match (known.read)(found.text, &mut Draft::default()) {
                Err(reason) => refused(known.is_guard, reason),
                Ok(()) if found.is_own => Support::Same,
                Ok(()) => difference(found.name).map_or(Support::Same, Support::Different),
            },
        };
        (found.key.clone(), support)
    });
    let others = annotations.keys().filter_map(|key| {
        let support = match other_controller(key)? {
            (controller, true) => Support::Unsupported(ignored_guard(controller)),
            (_, false) => Support::Different("annotations of other controllers are not read"),
        };
        Some((key.clone(), support))
    });
    each.chain(others).collect()
}

fn difference(name: &str) -> Option<&'static str> {
    let entry = DIFFERENT.iter().find(|(names, _)| names.contains(&name));
    entry.map(|(_, how)| *how)
}

/// What to do instead of an annotation that is not supported, for Events and `headgate migrate`.
pub(super) fn instead(found: &Found<'_>) -> String {
    let mut entries = FOREIGN.iter();
    let entry = entries.find(|foreign| foreign.names.contains(&found.name));
    let advice = entry.map_or("unknown annotation; check its name", |foreign| {
        foreign.instead
    });
    match (denying(found), is_foreign_guard(found)) {
        (Some(directive), _) => format!("it keeps requests out by `{directive}`: {advice}"),
        (None, true) => format!("closes the Ingress, so remove it: {advice}"),
        (None, false) => advice.into(),
    }
}
