//! Annotations about requests.

use super::super::{Condition, HeaderEdit, Origin, Pattern, Retry, Text};

use super::{
    Annotation,
    draft::{named_texts, text_match},
    values::{
        boolean, duration, field_value, host, list, location, networks, not_empty, number, path,
        positive, rule_host, service_port, size, token,
    },
};

pub(super) const ANNOTATIONS: &[Annotation] = &[
    // Redirects and rewrites.
    Annotation::nginx(
        "ssl-redirect",
        "`true` or `false`: whether HTTP is redirected to HTTPS (308) where the host has a certificate; true if not given",
        |text, draft| Ok(draft.ssl_redirect = Some(boolean(text)?)),
    ),
    Annotation::nginx(
        "force-ssl-redirect",
        "`true`: redirect HTTP to HTTPS even where no certificate is named, for TLS that ends before us",
        |text, draft| Ok(draft.force_ssl_redirect = boolean(text)?),
    ),
    Annotation::nginx(
        "permanent-redirect",
        "where every request is redirected to; `$scheme`, `$host` and `$request_uri` are filled in",
        |text, draft| Ok(draft.permanent_redirect = Some(location(text)?)),
    ),
    Annotation::nginx(
        "permanent-redirect-code",
        "status code of `permanent-redirect`, 300 to 308; 301 if not given",
        |text, draft| Ok(draft.permanent_code = Some(redirect_code(text)?)),
    ),
    Annotation::nginx(
        "temporal-redirect",
        "like `permanent-redirect`, with code 302",
        |text, draft| Ok(draft.temporal_redirect = Some(location(text)?)),
    ),
    Annotation::nginx(
        "temporal-redirect-code",
        "status code of `temporal-redirect`, 300 to 308",
        |text, draft| Ok(draft.temporal_code = Some(redirect_code(text)?)),
    ),
    Annotation::nginx(
        "from-to-www-redirect",
        "`true`: redirect from `www.HOST` to `HOST`, or the other way round, if only one of them has rules",
        |text, draft| Ok(draft.www_redirect = boolean(text)?),
    ),
    Annotation::nginx(
        "app-root",
        "path that requests for `/` are redirected to (302)",
        |text, draft| Ok(draft.policy.app_root = Some(path(text)?)),
    ),
    Annotation::nginx(
        "use-regex",
        "`true`: paths of type Prefix and ImplementationSpecific are regular expressions, matched from the start, without regard to case",
        |text, draft| Ok(draft.use_regex = boolean(text)?),
    ),
    Annotation::nginx(
        "rewrite-target",
        "path that the backend gets; `$1` to `$9` are groups of the path, which becomes a regular expression",
        |text, draft| Ok(draft.policy.rewrite = Some(path(text)?)),
    ),
    Annotation::nginx(
        "server-alias",
        "more hosts for the same rules, between commas, perhaps with `*.`; rules of another Ingress for such a host win",
        |text, draft| Ok(draft.aliases = list(text).map(rule_host).collect::<Result<_, _>>()?),
    ),
    // Headers.
    Annotation::nginx(
        "upstream-vhost",
        "`Host` that the backend gets",
        |text, draft| Ok(draft.policy.host = Some(host(text)?)),
    ),
    Annotation::nginx(
        "x-forwarded-prefix",
        "`X-Forwarded-Prefix` that the backend gets",
        |text, draft| Ok(draft.policy.forwarded_prefix = Some(field_value(text)?)),
    ),
    Annotation::own(
        "request-headers",
        "lines `Name: value` that requests get before they are sent; `Name:` removes",
        |text, draft| Ok(draft.policy.request_headers = header_edits(text)?),
    ),
    Annotation::own(
        "response-headers",
        "lines `Name: value` that responses get; `Name:` removes",
        |text, draft| Ok(draft.policy.response_headers = header_edits(text)?),
    ),
    Annotation::own(
        "hsts",
        "`Strict-Transport-Security` over HTTPS, or `off`; a year with subdomains if not given",
        |text, draft| {
            let value = if text == "off" { "" } else { text };
            Ok(draft.policy.hsts = field_value(value)?)
        },
    ),
    // Who, and how much.
    Annotation::nginx(
        "allowlist-source-range",
        "networks whose clients may come, between commas; others get 403",
        |text, draft| Ok(draft.allow = Some(networks(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "whitelist-source-range",
        "the older name of `allowlist-source-range`, which wins",
        |text, draft| Ok(draft.whitelist = Some(networks(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "denylist-source-range",
        "networks whose clients get 403",
        |text, draft| Ok(draft.policy.sources.deny = networks(text)?),
    )
    .guard(),
    Annotation::nginx(
        "limit-rps",
        "requests a second of one client address, on each node; more get 503",
        |text, draft| Ok(draft.per_second = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "limit-rpm",
        "requests a minute of one client address, on each node; more get 503",
        |text, draft| Ok(draft.per_minute = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "limit-burst-multiplier",
        "how many times the rate may come at once; 5 if not given",
        |text, draft| Ok(draft.burst = Some(positive(text)?)),
    ),
    Annotation::nginx(
        "limit-connections",
        "requests of one client address at the same time, on each node; more get 503",
        |text, draft| Ok(draft.policy.limits.concurrent = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "limit-whitelist",
        "networks whose clients have no limits",
        |text, draft| Ok(draft.policy.limits.exempt = networks(text)?),
    ),
    Annotation::nginx(
        "proxy-body-size",
        "largest body of a request, such as `8m`; larger ones get 413; `0` for no limit; 1m if not given",
        |text, draft| {
            let bytes = Some(size(text)?).filter(|bytes| *bytes > 0);
            Ok(draft.policy.limits.body_bytes = bytes)
        },
    )
    .guard(),
    // Cross-origin requests.
    Annotation::nginx(
        "enable-cors",
        "`true`: answer cross-origin requests (CORS) and their preflights",
        |text, draft| Ok(draft.cors.is_on = boolean(text)?),
    ),
    Annotation::nginx(
        "cors-allow-origin",
        "origins such as `https://*.example.com`, between commas; all if not given",
        |text, draft| {
            let origins = not_empty(list(text).collect())?;
            let origins = match origins.contains(&"*") {
                true => Vec::new(),
                false => origins.into_iter().map(origin).collect::<Result<_, _>>()?,
            };
            Ok(draft.cors.origins = origins)
        },
    )
    .guard(),
    Annotation::nginx(
        "cors-allow-methods",
        "methods, between commas",
        |text, draft| Ok(draft.cors.methods = Some(tokens(text)?)),
    ),
    Annotation::nginx(
        "cors-allow-headers",
        "headers that requests may have, between commas",
        |text, draft| Ok(draft.cors.headers = Some(tokens(text)?)),
    ),
    Annotation::nginx(
        "cors-expose-headers",
        "headers that scripts may read, between commas",
        |text, draft| Ok(draft.cors.expose = Some(tokens(text)?)),
    ),
    Annotation::nginx(
        "cors-allow-credentials",
        "`true` or `false`: whether requests may carry cookies; true if not given",
        |text, draft| Ok(draft.cors.credentials = Some(boolean(text)?)),
    ),
    Annotation::nginx(
        "cors-max-age",
        "seconds that a preflight holds; 1728000 if not given",
        |text, draft| Ok(draft.cors.max_age_s = Some(number(text)?)),
    ),
    // Which requests.
    Annotation::own(
        "match-method",
        "methods, between commas, or `~ pattern`: other requests are left to other rules",
        |text, draft| {
            let methods = match text.strip_prefix('~') {
                Some(_) => text_match(text)?,
                None => {
                    let methods = list(text).map(token).collect::<Result<_, _>>()?;
                    Text::OneOf(not_empty(methods)?)
                }
            };
            Ok(draft.conditions.push(Condition::Method(methods)))
        },
    )
    .guard(),
    Annotation::own(
        "match-headers",
        "lines `Name`, `Name value`, `Name a | b` or `Name ~ pattern`: requests without are left to other rules",
        |text, draft| {
            let headers = named_texts(text)?.into_iter();
            let lower = |(name, text): (String, _)| Condition::Header(name.to_ascii_lowercase(), text);
            Ok(draft.conditions.extend(headers.map(lower)))
        },
    )
    .guard(),
    Annotation::own(
        "match-query",
        "lines as of `match-headers`, for parameters of the query",
        |text, draft| {
            let parameters = named_texts(text)?.into_iter();
            let conditions = parameters.map(|(name, text)| Condition::Query(name, text));
            Ok(draft.conditions.extend(conditions))
        },
    )
    .guard(),
    Annotation::own(
        "match-source",
        "networks: requests of other clients are left to other rules",
        |text, draft| Ok(draft.conditions.push(Condition::Source(networks(text)?))),
    )
    .guard(),
    // Canaries and copies.
    Annotation::nginx(
        "canary",
        "`true`: the backends get some requests of the rules of another Ingress of the namespace with the same hosts, paths and `match-…`; of the other annotations only those about backends count",
        |text, draft| Ok(draft.is_canary = boolean(text)?),
    ),
    Annotation::nginx(
        "canary-weight",
        "how many requests of `canary-weight-total`, where neither header nor cookie decides",
        |text, draft| Ok(draft.canary_weight = Some(number(text)?)),
    ),
    Annotation::nginx(
        "canary-weight-total",
        "100 if not given",
        |text, draft| Ok(draft.canary_total = Some(positive(text)?)),
    ),
    Annotation::nginx(
        "canary-by-header",
        "header that decides first: `always` or `never`, or as the next two say",
        |text, draft| Ok(draft.canary_header = Some(token(text)?.to_ascii_lowercase())),
    ),
    Annotation::nginx(
        "canary-by-header-value",
        "value of the header that requests of the canary have",
        |text, draft| {
            let value = Text::OneOf(vec![field_value(text)?]);
            Ok(draft.canary_value = Some(value))
        },
    ),
    Annotation::nginx(
        "canary-by-header-pattern",
        "regular expression for the value of the header; `canary-by-header-value` wins",
        |text, draft| {
            let pattern = Text::Regex(Pattern::whole(text)?);
            draft.canary_value.get_or_insert(pattern);
            Ok(())
        },
    ),
    Annotation::nginx(
        "canary-by-cookie",
        "cookie that decides after the header: `always` or `never`",
        |text, draft| Ok(draft.canary_cookie = Some(token(text)?)),
    ),
    Annotation::own(
        "mirror-service",
        "`name:port` of a Service of the namespace that gets a copy of each request; one that does not keep up with a body breaks off",
        |text, draft| Ok(draft.mirror = Some(service_port(text)?)),
    ),
    Annotation::own(
        "mirror-percent",
        "how many of a hundred requests are copied; all if not given",
        |text, draft| match number(text)? {
            percent @ 0..=100 => Ok(draft.mirror_percent = Some(percent)),
            _ => Err("is more than 100".into()),
        },
    ),
    // The rest.
    Annotation::nginx(
        "ssl-passthrough",
        "`true`: TLS connections for the hosts go unopened to the backend of their first path; refused together with guards that need requests to be seen, other annotations mean nothing then",
        |text, draft| Ok(draft.passthrough = boolean(text)?),
    ),
    Annotation::nginx(
        "proxy-connect-timeout",
        "how long to wait for a connection to a backend; 5s if not given",
        |text, draft| Ok(draft.policy.timeouts.connect = duration(text)?),
    ),
    Annotation::nginx(
        "proxy-read-timeout",
        "how long a backend may be silent; 60s if not given",
        |text, draft| Ok(draft.policy.timeouts.read = duration(text)?),
    ),
    Annotation::nginx(
        "proxy-send-timeout",
        "how long a backend may take nothing; 60s if not given",
        |text, draft| Ok(draft.policy.timeouts.send = duration(text)?),
    ),
    Annotation::nginx(
        "proxy-next-upstream",
        "when another endpoint is tried: `error`, `timeout`, `http_502` …, `non_idempotent`, or `off`; `error timeout` if not given",
        |text, draft| {
            let tries = draft.policy.retry.tries;
            Ok(draft.policy.retry = Retry { tries, ..retry(text)? })
        },
    ),
    Annotation::nginx(
        "proxy-next-upstream-tries",
        "endpoints that are tried in all; 3 if not given",
        |text, draft| Ok(draft.policy.retry.tries = positive(text)?),
    ),
    Annotation::own(
        "compress",
        "`true`: compress responses (zstd, brotli, gzip) for clients that accept it",
        |text, draft| Ok(draft.policy.compress = boolean(text)?),
    ),
    Annotation::nginx(
        "enable-access-log",
        "`false`: no lines in the access log",
        |text, draft| Ok(draft.policy.access_log = boolean(text)?),
    ),
    Annotation::nginx(
        "enable-opentelemetry",
        "`false`: no spans, and headers of traces pass unchanged; true if not given, where the proxy has `--otlp-endpoint`",
        |text, draft| Ok(draft.policy.traces = boolean(text)?),
    ),
    Annotation::nginx(
        "opentelemetry-trust-incoming-span",
        "`false`: a trace goes on only if it comes from `--trusted-proxies`, else a new one begins; true if not given: that of any client goes on",
        |text, draft| Ok(draft.policy.trusts_traces = boolean(text)?),
    ),
];

fn redirect_code(text: &str) -> Result<u16, String> {
    match number(text)? {
        code @ 300..=308 => Ok(code),
        code => Err(format!("{code} is no code of a redirect (300 to 308)")),
    }
}

fn retry(text: &str) -> Result<Retry, String> {
    let off = Retry {
        on_error: false,
        on_timeout: false,
        ..Retry::default()
    };
    let mut retry = off.clone();
    for word in text.split_whitespace() {
        match word {
            "error" => retry.on_error = true,
            "timeout" => retry.on_timeout = true,
            "non_idempotent" => retry.non_idempotent = true,
            "off" => {}
            _ => retry.on_codes.push(retry_code(word)?),
        }
    }
    let is_off = text.split_whitespace().any(|word| word == "off");
    Ok(if is_off { off } else { retry })
}

fn retry_code(word: &str) -> Result<u16, String> {
    let code = word
        .strip_prefix("http_")
        .and_then(|code| code.parse().ok());
    let known = code.filter(|code| (400..600).contains(code));
    known.ok_or_else(|| format!("`{word}` is none of error, timeout, http_…, non_idempotent, off"))
}

fn header_edits(text: &str) -> Result<Vec<HeaderEdit>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let edit = |line: &str| {
        let (name, value) = line.split_once(':').ok_or("a line is no `Name: value`")?;
        let name = token(name.trim())?.to_ascii_lowercase();
        // How a message ends is not an operator's to say.
        if [
            "connection",
            "content-length",
            "host",
            "transfer-encoding",
            "upgrade",
        ]
        .contains(&name.as_str())
        {
            return Err(format!("`{name}` cannot be changed"));
        }
        Ok(match value.trim() {
            "" => HeaderEdit::Remove(name),
            value => HeaderEdit::Set(name, field_value(value)?),
        })
    };
    lines.map(edit).collect()
}

fn origin(text: &str) -> Result<Origin, String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or(format!("`{text}` is no origin"))?;
    let (is_wildcard, rest) = match rest.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    Ok(Origin {
        scheme: token(scheme)?.to_ascii_lowercase() + "://",
        is_wildcard,
        host: host(rest)?,
    })
}

fn tokens(text: &str) -> Result<String, String> {
    let tokens: Vec<String> = list(text).map(token).collect::<Result<_, _>>()?;
    Ok(not_empty(tokens)?.join(", "))
}
