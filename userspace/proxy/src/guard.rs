//! Decides whether a request may reach its backend, and answers those that need none.

use http::{HeaderValue, Response, StatusCode, header, request::Parts, uri::PathAndQuery};

use crate::{
    answer,
    auth::AuthInput,
    body::Body,
    call::{Call, Client, TOO_LARGE},
    cors,
};

/// Path of ACME challenges over HTTP (RFC 8555, 8.3). It is never redirected to HTTPS, which may have
/// no certificate yet.
const ACME: &str = "/.well-known/acme-challenge/";

/// Applies the rules for access. Returns cookies for the client if the request may continue, else the
/// response.
pub(crate) async fn guard(
    call: &Call,
    client: &Client,
    parts: &mut Parts,
) -> Result<Vec<HeaderValue>, Response<Body>> {
    if let Some(response) = check_policy(call, client, parts) {
        return Err(response);
    }
    let Some(authenticator) = &call.route.authenticator else {
        return Ok(Vec::new());
    };
    let input = AuthInput {
        address: call.client,
        host: &call.host,
        path: &call.path,
        is_https: is_https(client, parts, call),
        tls: &client.handshake,
    };
    // Boxed: large and rarely polled; inlined it would grow every request's future.
    Box::pin(authenticator.authorize(parts, &input)).await
}

/// Applies the rules that need no credentials: closed routes, client addresses, the redirect to HTTPS,
/// and CORS preflights, which browsers send without credentials.
pub(crate) fn check_policy(call: &Call, client: &Client, parts: &Parts) -> Option<Response<Body>> {
    let policy = call.route.policy();
    let error = |status, why| Some(answer::error(status, why));
    if policy.closed.is_some() {
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            "closed: an access rule of the Ingress is invalid",
        );
    }
    let is_in = |networks: &[ipnet::IpNet]| networks.iter().any(|one| one.contains(&call.client));
    let allowed = policy.sources.allow.as_deref();
    if is_in(&policy.sources.deny) || allowed.is_some_and(|allowed| !is_in(allowed)) {
        return error(StatusCode::FORBIDDEN, "not allowed for this client address");
    }
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let is_challenge = call.path.starts_with(ACME);
    if policy.to_https && !is_https(client, parts, call) && !is_challenge {
        let location = format!("https://{}{target}", call.host);
        return Some(answer::redirect(308, &location));
    }
    let cors = policy.cors.as_ref().filter(|_| cors::is_preflight(parts))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let origin = parts.headers.get(header::ORIGIN);
    cors::allow_preflight(cors, origin, response.headers_mut());
    Some(response)
}

/// Returns the response to a request that needs no backend: a redirect, or a body that is too large.
pub(crate) fn local_response(
    call: &Call,
    client: &Client,
    parts: &Parts,
) -> Option<Response<Body>> {
    let policy = call.route.policy();
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if let Some(redirect) = &policy.redirect {
        let scheme = if client.is_secure { "https" } else { "http" };
        let location = redirect.location.replace("$scheme", scheme);
        let location = location.replace("$host", &call.host);
        let location = location.replace("$request_uri", target);
        return Some(answer::redirect(redirect.code, &location));
    }
    if let Some(root) = policy.app_root.as_ref().filter(|_| call.path == "/") {
        return Some(answer::redirect(302, root));
    }
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most = policy.limits.body_bytes;
    if length.is_some_and(|length| most.is_some_and(|most| length > most)) {
        return Some(answer::error(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE));
    }
    None
}

/// Whether the client used TLS, to this proxy or to a trusted one.
fn is_https(client: &Client, parts: &Parts, call: &Call) -> bool {
    let is_forwarded = || {
        let scheme = parts.headers.get("x-forwarded-proto");
        // Client and peer differ only behind a trusted proxy.
        call.client != client.peer.ip() && scheme.is_some_and(|scheme| scheme == "https")
    };
    client.is_secure || is_forwarded()
}
