//! The request that a backend gets.

use headgate_model::edge::Template;
use http::{HeaderValue, header, request::Parts};

use crate::{
    call::Call,
    client::Client,
    headers::{self, ForwardedInfo},
    variables::Variables,
};

/// Sets the headers that the backend gets. The path must not be rewritten yet: variables stand for parts of
/// the client's request.
pub(crate) fn prepare(
    client: &Client,
    call: &Call,
    parts: &mut Parts,
    protocol: Option<HeaderValue>,
) {
    let policy = call.route.policy();
    let render =
        |text: &Template| Variables::of(call, parts, &call.target(&parts.uri)).render(text);
    let host = policy.host.as_ref().map(render);
    let prefix = policy.forwarded_prefix.as_ref().map(render);
    let headers = &mut parts.headers;
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let arrival = ForwardedInfo {
        peer: client.peer.ip(),
        peer_text: &client.peer_text,
        origin: call.origin,
        prefix: prefix.as_deref(),
    };
    headers::set_forwarded(headers, arrival);
    // A guard whose service sets the id has removed that of the client, and may have set none.
    headers::request_id(headers);
    if let Some(host) = &host {
        headers::insert(headers, header::HOST, host);
    }
    headers::remove_lookalikes(headers, &policy.request_headers);
    headers::edit(headers, &policy.request_headers);
}
