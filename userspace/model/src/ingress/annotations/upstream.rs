//! Annotations about backends.

use crate::edge::{Balance, HashBy, Template, UpstreamProtocol, Variable};

use super::{
    Annotation,
    draft::weights,
    values::{boolean, duration, host, number, object_name, path, positive, token},
};

/// Meaning of the annotations about ingress-nginx's buffers.
const STREAMED: &str = "has no effect: bodies are streamed, never buffered";

pub(super) const ANNOTATIONS: &[Annotation] = &[
    Annotation::nginx(
        "backend-protocol",
        "`HTTP`, `HTTPS`, `GRPC`, `GRPCS` or `HTTP2` (without TLS)",
        |text, draft| {
            draft.set_protocol(match text.to_ascii_uppercase().as_str() {
                "HTTP" => UpstreamProtocol::Http,
                "HTTPS" => UpstreamProtocol::Https,
                "HTTP2" => UpstreamProtocol::Http2,
                "GRPC" => UpstreamProtocol::Grpc,
                "GRPCS" => UpstreamProtocol::Grpcs,
                _ => return Err(format!("`{text}` is not supported")),
            });
            Ok(())
        },
    ),
    Annotation::nginx(
        "secure-backends",
        "`true`: the older form of `backend-protocol: HTTPS`",
        |text, draft| {
            if boolean(text)? {
                draft.set_protocol(UpstreamProtocol::Https);
            }
            Ok(())
        },
    ),
    Annotation::nginx(
        "load-balance",
        "`round_robin`, `least_conn`, `random` (of two at random, the one with fewer requests), `ewma` (of two at random, the faster one) or `ip_hash`",
        |text, draft| {
            draft.upstream.balance = match text {
                "round_robin" => Balance::RoundRobin,
                "least_conn" => Balance::LeastConnections,
                "random" => Balance::Random,
                "ewma" => Balance::LeastTime,
                "ip_hash" => Balance::Hash(HashBy::Source),
                _ => return Err(format!("`{text}` is not supported")),
            };
            Ok(())
        },
    ),
    Annotation::nginx(
        "upstream-hash-by",
        "requests with the same values go to the same endpoint: one or more of `$remote_addr`, `$request_uri`, `$uri`, `$args`, `$host`, `$http_NAME`, `$cookie_NAME`, `$arg_NAME`; those without any are spread",
        |text, draft| Ok(draft.hash = Some(hash_by(text)?)),
    ),
    Annotation::own(
        "weights",
        "weights of endpoints by the name of their node: `node-a=3, node-b=1`; 1 if not given",
        |text, draft| Ok(draft.upstream.weights = weights(text)?),
    ),
    Annotation::nginx(
        "affinity",
        "`cookie`: a cookie pins a client to its endpoint while that exists",
        |text, draft| match text {
            "cookie" => Ok(draft.cookie.is_on = true),
            _ => Err(format!("`{text}` is not supported")),
        },
    ),
    Annotation::nginx(
        "affinity-mode",
        "`persistent` and `balanced` are the same: a client moves only if its endpoint is gone",
        |text, _| match text {
            "persistent" | "balanced" => Ok(()),
            _ => Err(format!("`{text}` is not supported")),
        },
    ),
    Annotation::nginx(
        "session-cookie-name",
        "name of the cookie; `INGRESSCOOKIE` if not given",
        |text, draft| Ok(draft.cookie.name = Some(token(text)?)),
    ),
    Annotation::nginx("session-cookie-path", "path of the cookie; that of the rule if not given, or what a regular expression begins with", |text, draft| {
        match text.contains(';') {
            true => Err(format!("`{text}` has more than a path")),
            false => Ok(draft.cookie.path = Some(path(text)?)),
        }
    }),
    Annotation::nginx("session-cookie-domain", "domain of the cookie", |text, draft| {
        Ok(draft.cookie.domain = Some(host(text)?))
    }),
    Annotation::nginx(
        "session-cookie-max-age",
        "lifetime of the cookie in seconds; until the browser is closed if not given",
        |text, draft| Ok(draft.cookie.max_age_s = Some(number(text)?)),
    ),
    Annotation::nginx(
        "session-cookie-expires",
        "the same as `session-cookie-max-age`, which wins",
        |text, draft| Ok(draft.cookie.expires_s = Some(number(text)?)),
    ),
    Annotation::nginx(
        "session-cookie-samesite",
        "`SameSite` of the cookie: `Strict`, `Lax` or `None`",
        |text, draft| {
            let known = ["Strict", "Lax", "None"];
            let known = known.iter().find(|known| known.eq_ignore_ascii_case(text));
            let known = known.ok_or(format!("`{text}` is not one of Strict, Lax, None"))?;
            Ok(draft.cookie.same_site = Some((*known).into()))
        },
    ),
    Annotation::nginx(
        "session-cookie-conditional-samesite-none",
        "has no effect: `SameSite=None` is sent to all browsers",
        |text, _| boolean(text).map(|_| ()),
    ),
    Annotation::nginx(
        "session-cookie-secure",
        "`true`: the cookie is sent over HTTPS only",
        |text, draft| Ok(draft.cookie.secure = boolean(text)?),
    ),
    Annotation::nginx(
        "service-upstream",
        "`true`: requests go to the cluster IP instead of endpoints",
        |text, draft| Ok(draft.upstream.by_cluster_ip = boolean(text)?),
    ),
    Annotation::nginx(
        "proxy-ssl-secret",
        "Secret in the namespace with the CA certificates (`ca.crt`) that verify backends, and perhaps a client certificate for them (`tls.crt`, `tls.key`)",
        |text, draft| Ok(draft.tls_secret = Some(object_name(text)?)),
    )
    .guard(),
    Annotation::nginx(
        "proxy-ssl-verify",
        "`on`: certificates of backends are verified",
        |text, draft| Ok(draft.tls_verify = boolean(text)?),
    )
    .guard(),
    Annotation::nginx(
        "proxy-ssl-name",
        "server name that is sent to backends, and that their certificates must have",
        |text, draft| Ok(draft.tls_name = Some(host(text)?)),
    )
    .guard(),
    Annotation::own(
        "slow-start",
        "time in which the share of a new endpoint grows to its weight",
        |text, draft| Ok(draft.upstream.slow_start = duration(text)?),
    ),
    Annotation::own(
        "health-check-path",
        "path that each node requests from each endpoint; a status below 400 is healthy",
        |text, draft| Ok(draft.probe_path = Some(path(text)?)),
    ),
    Annotation::own("health-check-interval", "interval of health checks; 10s if not given", |text, draft| {
        Ok(draft.probe_interval = Some(duration(text)?))
    }),
    Annotation::own(
        "health-check-timeout",
        "timeout of a health check; 2s if not given",
        |text, draft| Ok(draft.probe_timeout = Some(duration(text)?)),
    ),
    Annotation::own(
        "outlier-failures",
        "consecutive failures (no connection, timeouts, 502, 503, 504) after which an endpoint is ejected; 5 if not given, 0 for never",
        |text, draft| Ok(draft.upstream.outlier.failures = number(text)?),
    ),
    Annotation::own(
        "outlier-ejection",
        "duration of the first ejection, and longer each time; 10s if not given",
        |text, draft| Ok(draft.upstream.outlier.ejection = duration(text)?),
    ),
    Annotation::own(
        "max-requests",
        "concurrent requests to one endpoint, from each node; if all endpoints are busy, 503",
        |text, draft| Ok(draft.upstream.concurrent = Some(positive(text)?)),
    ),
    Annotation::own(
        "proxy-protocol",
        "`true`: connections to backends begin with a PROXY protocol header (version 2)",
        |text, draft| Ok(draft.upstream.proxy_protocol = boolean(text)?),
    ),
    Annotation::nginx("proxy-buffering", STREAMED, |_, _| Ok(())),
    Annotation::nginx("proxy-request-buffering", STREAMED, |_, _| Ok(())),
    Annotation::nginx("proxy-buffer-size", STREAMED, |_, _| Ok(())),
    Annotation::nginx("proxy-buffers-number", STREAMED, |_, _| Ok(())),
    Annotation::nginx("proxy-busy-buffers-size", STREAMED, |_, _| Ok(())),
    Annotation::nginx("proxy-max-temp-file-size", STREAMED, |_, _| Ok(())),
    Annotation::nginx("client-body-buffer-size", STREAMED, |_, _| Ok(())),
];

/// The variables of a text. What is between them is the same for all requests.
fn hash_by(text: &str) -> Result<HashBy, String> {
    // The binary form of an address is equal for equal addresses as well.
    let template = Template::parse(&text.replace("binary_remote_addr", "remote_addr"))?;
    let parts: Result<Vec<HashBy>, String> = template.variables().map(hashed).collect();
    let mut parts = parts?;
    match parts.len() {
        0 => Err(format!("`{text}` has no variable")),
        1 => Ok(parts.remove(0)),
        _ => Ok(HashBy::Several(parts)),
    }
}

fn hashed(variable: &Variable) -> Result<HashBy, String> {
    Ok(match variable {
        Variable::Client => HashBy::Source,
        Variable::RequestUri | Variable::EscapedRequestUri => HashBy::Uri,
        Variable::Uri => HashBy::Path,
        Variable::Args | Variable::IsArgs => HashBy::Args,
        Variable::Host | Variable::Authority => HashBy::Host,
        Variable::Header(name) => HashBy::Header(name.clone()),
        Variable::Cookie(name) => HashBy::Cookie(name.clone()),
        Variable::Parameter(name) => HashBy::Query(name.clone()),
        Variable::Scheme | Variable::Method | Variable::Group(_) => {
            return Err(format!("`${variable}` is not supported"));
        }
    })
}
