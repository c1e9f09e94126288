//! The request that a backend gets.

use std::borrow::Cow;

use headgate_model::ingress::{PathMatch, path};
use http::{HeaderValue, Response, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};

use crate::{
    answer,
    body::Body,
    call::{Call, with_query},
    client::Client,
    headers::{self, ForwardedInfo},
};

/// Sets the path that the backend gets: the result of the rewrite rule, the normal form where the
/// client's spelling is ambiguous, or that spelling.
pub(crate) fn rewrite(call: &Call, parts: &mut Parts) -> Result<(), Response<Body>> {
    let target = match rewritten(call, parts.uri.query()) {
        Some(target) => target,
        None if call.spelling.is_none() => return Ok(()),
        None => Some(call.target(&parts.uri).into_owned()),
    };
    let target = target.and_then(|target| PathAndQuery::try_from(target).ok());
    let bad = || answer::error(StatusCode::BAD_REQUEST, "the path is invalid");
    parts.uri = Uri::from(target.ok_or_else(bad)?);
    Ok(())
}

/// Returns path and query after the rewrite rule of the route, if it has one. A query in the rule comes
/// before that of the client; `?` at the end of the rule removes that, as in nginx.
fn rewritten(call: &Call, query: Option<&str>) -> Option<Option<String>> {
    let template = call.route.rewrite.as_ref()?;
    let PathMatch::Regex(pattern) = &(*call.route).as_ref().path else {
        return None;
    };
    let groups = pattern.regex().captures(&call.path)?;
    let expanded = |template: &str| {
        let mut out = String::new();
        groups.expand(template, &mut out);
        out
    };
    let (path, own) = match template.split_once('?') {
        Some((path, own)) => (path, Some(own)),
        None => (template.as_str(), None),
    };
    let path = expanded(path);
    let path = path::decoded(&path::encoded(&path)).map(|path| path::encoded(&path).into_owned());
    let query: Option<Cow<'_, str>> = match (own.map(expanded), query) {
        (None, query) => query.map(Cow::from),
        (Some(own), _) if own.is_empty() => None,
        (Some(own), None) => Some(path::encoded(&own).into_owned().into()),
        (Some(own), Some(query)) => Some(format!("{}&{query}", path::encoded(&own)).into()),
    };
    Some(path.map(|path| with_query(&path, query.as_deref())))
}

/// Sets the headers that the backend gets.
pub(crate) fn prepare(
    client: &Client,
    call: &Call,
    parts: &mut Parts,
    protocol: Option<HeaderValue>,
) {
    let policy = call.route.policy();
    let headers = &mut parts.headers;
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let arrival = ForwardedInfo {
        peer: client.peer.ip(),
        peer_text: &client.peer_text,
        origin: call.origin,
        prefix: policy.forwarded_prefix.as_deref(),
    };
    headers::set_forwarded(headers, arrival);
    if !headers.contains_key(headers::REQUEST_ID) {
        headers::insert(
            headers,
            headers::REQUEST_ID,
            &format!("{:032x}", fastrand::u128(..)),
        );
    }
    if let Some(host) = &policy.host {
        headers::insert(headers, header::HOST, host);
    }
    headers::remove_lookalikes(headers, &policy.request_headers);
    headers::edit(headers, &policy.request_headers);
}
