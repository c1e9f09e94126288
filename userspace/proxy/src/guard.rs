//! Decides whether a request may reach its backend, and answers those that need none.

use std::{net::IpAddr, sync::Arc};

use headgate_model::edge::{Redirect, Sources};
use http::{HeaderValue, Response, StatusCode, header, request::Parts, uri::PathAndQuery};

use crate::{
    answer,
    auth::AuthInput,
    body::Body,
    call::{Call, TOO_LARGE},
    client::Client,
    cors,
    direct::FirstTry,
    limits::{Admission, Limiter},
    rewrite::{location, redirected},
    variables::Variables,
};

/// Path of ACME challenges over HTTP (RFC 8555, 8.3). It is never redirected to HTTPS, which may have
/// no certificate yet.
const ACME: &str = "/.well-known/acme-challenge/";

/// What a request that may continue has got.
pub(crate) struct Pass {
    /// `Set-Cookie` values for the client.
    pub(crate) cookies: Vec<HeaderValue>,
    pub(crate) admission: Option<Admission>,
}

/// Applies the rules for access. Limits come before authentication, so that they slow down clients that
/// guess passwords. `first` is the first try of a request that the limits have admitted.
pub(crate) async fn guard(
    call: &Call,
    client: &Client,
    parts: &mut Parts,
    first: Option<&mut FirstTry>,
) -> Result<Pass, Response<Body>> {
    if let Some(response) = check_policy(call, parts) {
        return Err(response);
    }
    let limiter = call.route.limiter.as_ref();
    let admit = |limiter: &Arc<Limiter>| limiter.admit(call.origin.client).ok_or_else(too_many);
    let admission = match first {
        Some(first) => first.admission.take(),
        None => limiter.map(admit).transpose()?,
    };
    let Some(authenticator) = &call.route.authenticator else {
        return Ok(Pass {
            cookies: Vec::new(),
            admission,
        });
    };
    let target = call.target(&parts.uri).into_owned();
    let input = AuthInput {
        address: call.origin.client,
        host: &call.host,
        path: &call.path,
        target: &target,
        is_https: call.origin.is_secure,
        rule: &(*call.route).as_ref().path,
        tls: &client.handshake,
    };
    // Boxed: large and rarely polled; inlined it would grow every request's future.
    let cookies = Box::pin(authenticator.authorize(parts, &input)).await?;
    Ok(Pass { cookies, admission })
}

fn too_many() -> Response<Body> {
    let why = "too many requests from this client address";
    answer::error(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Applies the rules that need no credentials: closed routes, client addresses, the redirect to HTTPS,
/// and CORS preflights, which browsers send without credentials.
pub(crate) fn check_policy(call: &Call, parts: &Parts) -> Option<Response<Body>> {
    let policy = call.route.policy();
    let error = |status, why| Some(answer::error(status, why));
    if policy.closed.is_some() {
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            "closed: an access rule is invalid",
        );
    }
    if !admits(&policy.sources, call.origin.client) {
        return error(StatusCode::FORBIDDEN, "not allowed for this client address");
    }
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let is_challenge = call.path.starts_with(ACME);
    if policy.to_https && !call.origin.is_secure && !is_challenge {
        let location = format!("https://{}{target}", call.host);
        return Some(answer::redirect(308, &location));
    }
    let cors = policy.cors.as_ref().filter(|_| cors::is_preflight(parts))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    cors::allow_preflight(cors, &parts.headers, response.headers_mut());
    Some(response)
}

/// Whether clients of an address are admitted.
pub(crate) fn admits(sources: &Sources, address: IpAddr) -> bool {
    let is_in = |networks: &[ipnet::IpNet]| networks.iter().any(|one| one.contains(&address));
    let Sources { allow, deny } = sources;
    // A client whose address is unknown could be any of those.
    let is_denied = is_in(deny) || address.is_unspecified() && !deny.is_empty();
    !is_denied && allow.as_deref().is_none_or(is_in)
}

/// Returns the response to a request that needs no backend: a redirect, or a body that is too large.
pub(crate) fn local_response(call: &Call, parts: &Parts) -> Option<Response<Body>> {
    let policy = call.route.policy();
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    match &policy.redirect {
        Some(Redirect::Location { location, code }) => {
            let location = Variables::of(call, parts, target).render(location);
            return Some(answer::redirect(*code, &location));
        }
        Some(Redirect::Parts(to)) => {
            let location = redirected(to, call, target);
            return Some(answer::redirect(to.code, &location));
        }
        None => {}
    }
    if let Some(root) = policy.app_root.as_ref().filter(|_| call.path == "/") {
        return Some(answer::redirect(302, root));
    }
    let rewrite = (*call.route).as_ref().rewrite();
    if let Some(rule) = rewrite.filter(|rule| rule.is_redirect) {
        let location = location(rule, &Variables::of(call, parts, target));
        return Some(answer::redirect(302, &location));
    }
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most = policy.limits.body_bytes;
    if length.is_some_and(|length| most.is_some_and(|most| length > most)) {
        return Some(answer::error(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE));
    }
    None
}
