//! Annotations about requests.

use crate::edge::{Condition, CorsOrigin, HeaderEdit, HostMode, Pattern, Resend, Retry, Text};

use super::{
    Annotation,
    draft::{named_texts, text_match},
    values::{
        boolean, duration, field_value, header_text, host, list, location, networks, not_empty,
        number, path, plain_name, positive, rewrite, rule_host, service_port, settable, size,
        token,
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
        "`true`: redirect HTTP to HTTPS even for hosts without a certificate, for TLS that a proxy in front terminates",
        |text, draft| Ok(draft.force_ssl_redirect = boolean(text)?),
    ),
    Annotation::nginx(
        "permanent-redirect",
        "address that every request is redirected to, with [variables](#variables)",
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
        "`true`: redirect from `www.HOST` to `HOST`, or from `HOST` to `www.HOST`, if only one of them has rules",
        |text, draft| Ok(draft.www_redirect = boolean(text)?),
    ),
    Annotation::nginx(
        "app-root",
        "path that requests for `/` of the hosts are redirected to (302)",
        |text, draft| Ok(draft.policy.app_root = Some(path(text)?)),
    ),
    Annotation::nginx(
        "use-regex",
        "`true`: paths of type Prefix and ImplementationSpecific are regular expressions, matched from the start, ignoring case",
        |text, draft| Ok(draft.use_regex = boolean(text)?),
    ),
    Annotation::nginx(
        "rewrite-target",
        "path, perhaps with a query, that the backend gets, with [variables](#variables); or an address that clients are redirected to (302). Paths of the Ingress become regular expressions if one of them is not equal to the value; a path that is equal is not rewritten",
        |text, draft| {
            draft.rewrite_target = Some(text.into());
            Ok(draft.policy.rewrite = Some(rewrite(text)?))
        },
    ),
    Annotation::nginx(
        "server-alias",
        "more hosts for the same rules, separated by commas, `*.` allowed; rules of another Ingress for such a host win",
        |text, draft| Ok(draft.aliases = list(text).map(rule_host).collect::<Result<_, _>>()?),
    ),
    // Headers.
    Annotation::nginx(
        "upstream-vhost",
        "`Host` that the backend gets, with [variables](#variables)",
        |text, draft| {
            let template = header_text(text)?;
            // What is between variables is a host.
            host(&template.render(|_, out| out.push('x')))?;
            Ok(draft.policy.host = Some(template))
        },
    ),
    Annotation::nginx(
        "x-forwarded-prefix",
        "`X-Forwarded-Prefix` that the backend gets, with [variables](#variables)",
        |text, draft| Ok(draft.policy.forwarded_prefix = Some(header_text(text)?)),
    ),
    Annotation::own(
        "request-headers",
        "headers to set on requests to backends, in lines `Name: value`; `Name:` removes one",
        |text, draft| Ok(draft.policy.request_headers = header_edits(text)?),
    ),
    Annotation::own(
        "response-headers",
        "headers to set on responses, in lines `Name: value`; `Name:` removes one",
        |text, draft| Ok(draft.policy.response_headers = header_edits(text)?),
    ),
    Annotation::own(
        "hsts",
        "value of `Strict-Transport-Security` over HTTPS, or `off`; one year with subdomains if not given",
        |text, draft| {
            let value = if text == "off" { "" } else { text };
            Ok(draft.policy.hsts = field_value(value)?)
        },
    ),
    // Clients and limits.
    Annotation::nginx(
        "allowlist-source-range",
        "networks whose clients are admitted, separated by commas; others get 403",
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
        "requests per second from one client address, on each node; more get 503",
        |text, draft| Ok(draft.per_second = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "limit-rpm",
        "requests per minute from one client address, on each node; more get 503",
        |text, draft| Ok(draft.per_minute = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "limit-burst-multiplier",
        "requests that may come at once beyond the first, as a multiple of the rate; 5 if not given",
        |text, draft| Ok(draft.burst = Some(positive(text)?)),
    ),
    Annotation::nginx(
        "limit-connections",
        "concurrent requests from one client address, on each node; more get 503",
        |text, draft| Ok(draft.policy.limits.concurrent = Some(positive(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "limit-allowlist",
        "networks whose clients are not limited",
        |text, draft| Ok(draft.exempt = Some(networks(text)?)),
    ),
    Annotation::nginx(
        "limit-whitelist",
        "the older name of `limit-allowlist`, which wins",
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
        "origins such as `https://*.example.com`, separated by commas; all if not given",
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
        "methods, separated by commas",
        |text, draft| Ok(draft.cors.methods = Some(tokens(text)?)),
    ),
    Annotation::nginx(
        "cors-allow-headers",
        "headers that requests may have, separated by commas",
        |text, draft| Ok(draft.cors.headers = Some(tokens(text)?)),
    ),
    Annotation::nginx(
        "cors-expose-headers",
        "headers that scripts may read, separated by commas",
        |text, draft| Ok(draft.cors.expose = Some(tokens(text)?)),
    ),
    Annotation::nginx(
        "cors-allow-credentials",
        "`true` or `false`: whether requests may carry cookies; true if not given; never if all origins are allowed",
        |text, draft| Ok(draft.cors.credentials = Some(boolean(text)?)),
    ),
    Annotation::nginx(
        "cors-max-age",
        "seconds that browsers may cache a preflight; 1728000 if not given",
        |text, draft| Ok(draft.cors.max_age_s = Some(number(text)?)),
    ),
    // Conditions.
    Annotation::own(
        "match-method",
        "methods, separated by commas, or `~ pattern`: the rules match only these requests",
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
        "lines `Name`, `Name value`, `Name a | b` or `Name ~ pattern`: the rules match only requests with all of these headers",
        |text, draft| {
            let headers = named_texts(text)?.into_iter();
            let lower = |(name, text): (String, _)| Condition::Header(name.to_ascii_lowercase(), text);
            Ok(draft.conditions.extend(headers.map(lower)))
        },
    )
    .guard(),
    Annotation::own(
        "match-query",
        "lines as of `match-headers`, for query parameters",
        |text, draft| {
            let parameters = named_texts(text)?.into_iter();
            let conditions = parameters.map(|(name, text)| Condition::Query(name, text));
            Ok(draft.conditions.extend(conditions))
        },
    )
    .guard(),
    Annotation::own(
        "match-source",
        "networks, separated by commas: the rules match only requests of these clients",
        |text, draft| Ok(draft.conditions.push(Condition::Source(networks(text)?))),
    )
    .guard(),
    // Canaries and mirrors.
    Annotation::nginx(
        "canary",
        "`true`: the backends get some requests of another Ingress in the namespace with the same hosts, paths and `match-…`; of the other annotations only those about backends apply",
        |text, draft| Ok(draft.is_canary = boolean(text)?),
    ),
    Annotation::nginx(
        "canary-weight",
        "number of requests out of `canary-weight-total`, if neither header nor cookie decides",
        |text, draft| Ok(draft.canary_weight = Some(number(text)?)),
    ),
    Annotation::nginx(
        "canary-weight-total",
        "number that `canary-weight` is out of; 100 if not given",
        |text, draft| Ok(draft.canary_total = Some(positive(text)?)),
    ),
    Annotation::nginx(
        "canary-by-header",
        "header that decides first, with value `always` or `never`, or as the next two annotations define",
        |text, draft| Ok(draft.canary_header = Some(token(text)?.to_ascii_lowercase())),
    ),
    Annotation::nginx(
        "canary-by-header-value",
        "header value that selects the canary",
        |text, draft| {
            let value = Text::OneOf(vec![field_value(text)?]);
            Ok(draft.canary_value = Some(value))
        },
    ),
    Annotation::nginx(
        "canary-by-header-pattern",
        "regular expression for the header value that selects the canary; `canary-by-header-value` wins",
        |text, draft| {
            let pattern = Text::Regex(Pattern::whole(text)?);
            draft.canary_value.get_or_insert(pattern);
            Ok(())
        },
    ),
    Annotation::nginx(
        "canary-by-cookie",
        "cookie that decides after the header, with value `always` or `never`",
        |text, draft| Ok(draft.canary_cookie = Some(token(text)?)),
    ),
    Annotation::own(
        "mirror-service",
        "`name:port` of a Service in the namespace that gets a copy of each request; a copy that is slower than the upload is aborted",
        |text, draft| Ok(draft.mirror = Some(service_port(text)?)),
    ),
    Annotation::own(
        "mirror-percent",
        "percentage of requests that are copied; 100 if not given",
        |text, draft| match number(text)? {
            percent @ 0..=100 => Ok(draft.mirror_percent = Some(percent)),
            _ => Err("is more than 100".into()),
        },
    ),
    // Error pages.
    Annotation::nginx(
        "default-backend",
        "name of a Service in the namespace that gets requests while their backend has no endpoint, and whose responses to `GET /`, with the query of the request, replace those with the codes of `custom-http-errors`; these requests have `X-Code`, `X-Format`, `X-Original-URI`, `X-Namespace`, `X-Ingress-Name`, `X-Service-Name` and `X-Service-Port`",
        |text, draft| Ok(draft.error_backend = Some(plain_name(text)?)),
    ),
    Annotation::nginx(
        "custom-http-errors",
        "status codes from 400 to 599, separated by commas, of responses that `default-backend` replaces; not those of guards",
        |text, draft| {
            let codes = list(text).map(error_code).collect::<Result<_, _>>()?;
            Ok(draft.error_codes = Some(not_empty(codes)?))
        },
    ),
    // The rest.
    Annotation::nginx(
        "ssl-passthrough",
        "`true`: TLS connections for the hosts are forwarded, without decryption, to the backend of their first path; refused together with guards that need decrypted requests; other annotations have no effect",
        |text, draft| Ok(draft.passthrough = boolean(text)?),
    ),
    Annotation::nginx(
        "proxy-connect-timeout",
        "timeout for connecting to a backend; 5s if not given",
        |text, draft| Ok(draft.policy.timeouts.connect = duration(text)?),
    ),
    Annotation::nginx(
        "proxy-read-timeout",
        "timeout between two reads from a backend; 60s if not given",
        |text, draft| Ok(draft.policy.timeouts.read = duration(text)?),
    ),
    Annotation::nginx(
        "proxy-send-timeout",
        "timeout between two writes to a backend; 60s if not given",
        |text, draft| Ok(draft.policy.timeouts.send = duration(text)?),
    ),
    Annotation::nginx(
        "proxy-next-upstream",
        "when another endpoint is tried: `error`, `timeout`, `invalid_header` (the same as `error`), `http_502` …, `non_idempotent`, or `off`; `error timeout` if not given",
        |text, draft| {
            let tries = draft.policy.retry.tries;
            Ok(draft.policy.retry = Retry { tries, ..retry(text)? })
        },
    ),
    Annotation::nginx(
        "proxy-next-upstream-tries",
        "total number of endpoints that are tried; 3 if not given",
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
        "`false`: no spans, and trace headers pass unchanged; true if not given and the proxy has `--otlp-endpoint`",
        |text, draft| Ok(draft.policy.traces = boolean(text)?),
    ),
    Annotation::nginx(
        "opentelemetry-trust-incoming-span",
        "`false`: traces are continued only from `--trusted-proxies`, and others start again; true if not given: traces of any client are continued",
        |text, draft| Ok(draft.policy.trusts_traces = boolean(text)?),
    ),
];

fn error_code(text: &str) -> Result<u16, String> {
    match number(text)? {
        code @ 400..=599 => Ok(code),
        code => Err(format!("{code} is not the code of an error (400 to 599)")),
    }
}

fn redirect_code(text: &str) -> Result<u16, String> {
    match number(text)? {
        code @ 300..=308 => Ok(code),
        code => Err(format!("{code} is not a redirect code (300 to 308)")),
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
            // A response with an invalid head is an error.
            "error" | "invalid_header" => retry.on_error = true,
            "timeout" => retry.on_timeout = true,
            "non_idempotent" => retry.resend = Resend::Always,
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
    known.ok_or_else(|| {
        format!(
            "`{word}` is not one of error, timeout, invalid_header, http_…, non_idempotent, off"
        )
    })
}

fn header_edits(text: &str) -> Result<Vec<HeaderEdit>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let edit = |line: &str| {
        let (name, value) = line.split_once(':').ok_or("a line is not `Name: value`")?;
        let name = settable(name.trim())?;
        Ok(match value.trim() {
            "" => HeaderEdit::Remove(name),
            value => HeaderEdit::Set(name, field_value(value)?),
        })
    };
    lines.map(edit).collect()
}

fn origin(text: &str) -> Result<CorsOrigin, String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or(format!("`{text}` is not an origin"))?;
    let (wildcard, rest) = match rest.strip_prefix("*.") {
        Some(rest) => (Some(HostMode::OneLabel), rest),
        None => (None, rest),
    };
    Ok(CorsOrigin {
        scheme: token(scheme)?.to_ascii_lowercase() + "://",
        wildcard,
        host: host(rest)?,
    })
}

fn tokens(text: &str) -> Result<String, String> {
    let tokens: Vec<String> = list(text).map(token).collect::<Result<_, _>>()?;
    Ok(not_empty(tokens)?.join(", "))
}
