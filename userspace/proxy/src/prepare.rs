//! The request that a backend gets.

use headgate_model::ingress::PathMatch;
use http::{HeaderValue, Response, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};
use ipnet::IpNet;

use crate::{
    answer,
    body::Body,
    call::{Call, Client},
    headers::{self, ForwardedInfo},
    path,
};

/// Sets the path that the backend gets: the normal form, or the result of the rewrite rule.
pub(crate) fn rewrite(call: &Call, parts: &mut Parts) -> Result<(), Response<Body>> {
    let rewritten = call.route.rewrite.as_ref().and_then(|template| {
        let PathMatch::Regex(pattern) = &(*call.route).as_ref().path else {
            return None;
        };
        let mut out = String::new();
        pattern
            .regex()
            .captures(&call.path)?
            .expand(template, &mut out);
        Some(out)
    });
    let path = match &rewritten {
        Some(path) => path::normal(path),
        None => Some(call.path.as_str().into()),
    };
    let bad = || answer::error(StatusCode::BAD_REQUEST, "the path is invalid");
    let path = path.ok_or_else(bad)?;
    if path == parts.uri.path() && parts.uri.authority().is_none() {
        return Ok(());
    }
    let target = match parts.uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path.as_ref()),
    };
    parts.uri = Uri::from(target.map_err(|_invalid| bad())?);
    Ok(())
}

/// Sets the headers that the backend gets.
pub(crate) fn prepare(
    trusted: &[IpNet],
    client: &Client,
    call: &Call,
    parts: &mut Parts,
    is_upgrade: bool,
) {
    let policy = call.route.policy();
    let headers = &mut parts.headers;
    let upgrade = is_upgrade.then(|| headers.get(header::UPGRADE).cloned());
    headers::strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade.flatten() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let arrival = ForwardedInfo {
        peer: client.peer.ip(),
        peer_text: &client.peer_text,
        client: call.client,
        is_secure: client.is_secure,
        port: client.local.port(),
        host: &call.host,
        prefix: policy.forwarded_prefix.as_deref(),
    };
    headers::set_forwarded(
        headers,
        arrival,
        trusted.iter().any(|net| net.contains(&arrival.peer)),
    );
    if !headers.contains_key(headers::REQUEST_ID) {
        headers::insert(
            headers,
            headers::REQUEST_ID,
            &format!("{:032x}", fastrand::u128(..)),
        );
    }
    match &policy.host {
        Some(host) => headers::insert(headers, header::HOST, host),
        // HTTP/2 carries the host in the target.
        None if !headers.contains_key(header::HOST) => {
            headers::insert(headers, header::HOST, &call.host);
        }
        None => {}
    }
    headers::remove_lookalikes(headers, &policy.request_headers);
    headers::edit(headers, &policy.request_headers);
}
