//! Texts about routes and backends for operators.

use headgate_model::edge::{
    Auth, Balance, Condition, Cors, CorsOrigins, HashBy, Limits, PathChange, PathMatch, Policy,
    Rate, Redirect, Rewrite, RouteKind, RouteOrigin, Share, Sources, Text, UpstreamPolicy,
};
use ipnet::IpNet;

use crate::upstream::EndpointHealth;

/// Returns the name of an Ingress, or kind, name and rule of another object.
pub(crate) fn origin(origin: &RouteOrigin) -> String {
    match origin.kind {
        RouteKind::Ingress => origin.name.to_string(),
        RouteKind::HttpRoute | RouteKind::GrpcRoute | RouteKind::TlsRoute => origin.to_string(),
    }
}

pub(crate) fn host(name: &str) -> String {
    match name {
        "" => "any other".into(),
        name => name.into(),
    }
}

pub(crate) fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(path) if path.is_empty() => "every path".into(),
        PathMatch::Prefix(path) => format!("{path} and below"),
        PathMatch::Regex(pattern) => format!("matching {pattern}"),
    }
}

pub(crate) fn condition(condition: &Condition) -> String {
    match condition {
        Condition::Method(wanted) => format!("method{}", text(wanted)),
        Condition::Header(name, wanted) => format!("header {name}{}", text(wanted)),
        Condition::Query(name, wanted) | Condition::FirstQuery(name, wanted) => {
            format!("parameter {name}{}", text(wanted))
        }
        Condition::Source(networks) => format!("from {}", list(networks)),
    }
}

fn text(wanted: &Text) -> String {
    match wanted {
        Text::Any => " is present".into(),
        Text::OneOf(texts) => format!(" is {}", texts.join(" or ")),
        Text::Regex(pattern) => format!(" matches {pattern}"),
    }
}

fn list(networks: &[IpNet]) -> String {
    let texts: Vec<String> = networks.iter().map(IpNet::to_string).collect();
    texts.join(", ")
}

/// Returns what applies to requests before the backend, in order.
pub(crate) fn front(policy: &Policy) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(policy.closed.iter().map(|why| format!("closed: {why}")));
    words.extend(policy.parts.iter().cloned());
    words.extend(sources(&policy.sources));
    if policy.to_https {
        words.push("HTTP is redirected to HTTPS".into());
    }
    words.extend(policy.cors.as_ref().map(cors));
    words.extend(
        policy
            .auth
            .iter()
            .map(|auth| format!("needs {}", proof(auth))),
    );
    words.extend(policy.redirect.as_ref().map(redirect));
    let root = policy.app_root.as_ref();
    words.extend(root.map(|root| format!("redirects / to {root}")));
    words.extend(limits(&policy.limits));
    words.extend(policy.rewrite.iter().map(rewrite));
    words.extend(
        policy
            .path
            .as_ref()
            .map(|change| format!("rewrites {}", path_change(change))),
    );
    let pages = policy.error_pages.as_ref();
    words.extend(pages.map(|pages| format!("error pages of {}", pages.upstream)));
    let mirrors = policy.mirrors.iter();
    words.extend(mirrors.map(|copy| format!("copies {} to {}", share(copy.share), copy.upstream)));
    words
}

/// Returns a part of the requests.
pub(crate) fn share(share: Share) -> String {
    match share {
        Share { part, whole: 100 } => format!("{part} %"),
        Share { part, whole } if part == whole => "100 %".into(),
        Share { part, whole } => format!("{part} of {whole}"),
    }
}

fn redirect(redirect: &Redirect) -> String {
    match redirect {
        Redirect::Location { location, code } => format!("redirects to {location} ({code})"),
        Redirect::Parts(to) => {
            let scheme = to
                .scheme
                .map(|scheme| format!("scheme {}", scheme.as_str()));
            let host = to.host.as_ref().map(|host| format!("host {host}"));
            let port = to.port.map(|port| format!("port {port}"));
            let path = to.path.as_ref().map(path_change);
            let parts: Vec<String> = [scheme, host, port, path].into_iter().flatten().collect();
            format!("redirects to {} ({})", parts.join(", "), to.code)
        }
    }
}

fn path_change(change: &PathChange) -> String {
    match change {
        PathChange::Full(path) => format!("path {path}"),
        PathChange::Prefix(prefix) => format!("prefix {prefix}"),
    }
}

fn rewrite(rule: &Rewrite) -> String {
    let Rewrite { target, query, .. } = rule;
    let query = query.as_ref().map(|query| format!("?{query}"));
    let verb = match rule.is_redirect {
        true => "redirects",
        false => "rewrites",
    };
    format!("{verb} to {target}{}", query.unwrap_or_default())
}

fn sources(sources: &Sources) -> impl Iterator<Item = String> {
    let allow = sources.allow.as_ref().map(|allow| match allow.is_empty() {
        true => "for no client".into(),
        false => format!("only for {}", list(allow)),
    });
    let deny = (!sources.deny.is_empty()).then(|| format!("not for {}", list(&sources.deny)));
    allow.into_iter().chain(deny)
}

/// Returns what a request needs to be authorized.
pub(crate) fn proof(auth: &Auth) -> &'static str {
    match auth {
        Auth::Certificate(_) => "a client certificate",
        Auth::Basic(_) => "a password",
        Auth::External(_) => "the approval of another service",
        Auth::Hmac(_) => "a signature",
        Auth::ApiKey(_) => "an API key",
        Auth::Jwt(_) => "a JSON Web Token",
        Auth::Introspection(_) => "a token that its issuer accepts",
        Auth::Ldap(_) => "a password of an LDAP directory",
        Auth::Paseto(_) => "a PASETO token",
        Auth::Oidc(_) => "a login with OpenID Connect",
    }
}

fn cors(cors: &Cors) -> String {
    let CorsOrigins::Listed(origins) = &cors.origins else {
        return "CORS for every origin".into();
    };
    let origins = origins.iter().map(|origin| {
        let wildcard = if origin.wildcard.is_some() { "*." } else { "" };
        format!("{}{wildcard}{}", origin.scheme, origin.host)
    });
    format!("CORS for {}", origins.collect::<Vec<_>>().join(", "))
}

/// Returns the limits of each client, and of bodies unless it is the default.
pub(crate) fn limits(limits: &Limits) -> Vec<String> {
    let rates = limits.rates.iter().map(rate);
    let concurrent = limits.concurrent;
    let concurrent = concurrent.map(|most| format!("{} at a time per client", count(most)));
    let body = (limits.body_bytes != Limits::default().body_bytes).then(|| {
        limits.body_bytes.map_or_else(
            || "bodies of any size".into(),
            |most| format!("bodies up to {most} bytes"),
        )
    });
    rates.chain(concurrent).chain(body).collect()
}

fn count(requests: u32) -> String {
    match requests {
        1 => "1 request".into(),
        _ => format!("{requests} requests"),
    }
}

fn rate(rate: &Rate) -> String {
    let requests = count(rate.requests);
    let seconds = rate.period.as_secs();
    let period = match seconds {
        1 => "second".into(),
        60 => "minute".into(),
        _ => format!("{seconds} s"),
    };
    format!("{requests} per client and {period}, burst {}", rate.burst)
}

pub(crate) fn balance(policy: &UpstreamPolicy) -> String {
    let next = match &policy.balance {
        Balance::RoundRobin => "round robin".into(),
        Balance::LeastConnections => "fewest requests in progress".into(),
        Balance::Random => "the less loaded of two random endpoints".into(),
        Balance::LeastTime => "shortest response time".into(),
        Balance::Hash(by) => format!("by {}", hashed(by)),
    };
    match &policy.sticky {
        Some(sticky) => format!("by cookie {}, else {next}", sticky.name),
        None => next,
    }
}

fn hashed(by: &HashBy) -> String {
    match by {
        HashBy::Source => "client address".into(),
        HashBy::Header(name) => format!("header {name}"),
        HashBy::Cookie(name) => format!("cookie {name}"),
        HashBy::Query(name) => format!("query parameter {name}"),
        HashBy::Uri => "path and query".into(),
        HashBy::Path => "path".into(),
        HashBy::Args => "query".into(),
        HashBy::Host => "host".into(),
        HashBy::Several(all) => {
            let all: Vec<String> = all.iter().map(hashed).collect();
            all.join(", ")
        }
    }
}

pub(crate) fn health(health: &EndpointHealth) -> String {
    match health {
        EndpointHealth::Healthy => "well".into(),
        EndpointHealth::Unhealthy { reason } => format!("down: {reason}"),
        EndpointHealth::Ejected { remaining, reason } => {
            format!("ejected for {} s more: {reason}", remaining.as_secs())
        }
    }
}
