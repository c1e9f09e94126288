//! Finds listener and route of a request.

use std::sync::{Arc, atomic::Ordering};

use headgate_model::edge::Scheme;
use http::{Response, StatusCode, request::Parts};
use tokio::time::Instant;

use crate::{
    answer,
    body::Body,
    call::Call,
    client::Client,
    message::{Misunderstood, RequestHead},
    origin::Origin,
    serving::{ServedListener, Serving},
    spelling,
};

/// Returns the response to a request that the proxy cannot understand. The connection ends with it: it
/// is unknown where the next request begins.
pub(crate) fn refuse(client: &Client, why: Misunderstood) -> Response<Body> {
    client.is_closing.store(true, Ordering::Relaxed);
    let status = match why {
        Misunderstood::Method => StatusCode::METHOD_NOT_ALLOWED,
        Misunderstood::Long => StatusCode::URI_TOO_LONG,
        Misunderstood::Coding => StatusCode::NOT_IMPLEMENTED,
        Misunderstood::Host
        | Misunderstood::Hosts
        | Misunderstood::Path
        | Misunderstood::Readings => StatusCode::BAD_REQUEST,
    };
    answer::error(status, &why.to_string())
}

/// Returns a received request with its route.
pub(crate) fn route(
    serving: &Serving,
    client: &Client,
    origin: Origin,
    begin: Instant,
    parts: &Parts,
) -> Result<Call, Response<Body>> {
    let head = RequestHead::of(parts).map_err(|why| refuse(client, why))?;
    let index = &listener(serving, client, &head.host)?.index;
    let route = index.find(&head, parts, origin.client);
    let none = || answer::error(StatusCode::NOT_FOUND, "no rule for this host and path");
    let route = route.ok_or_else(none)?;
    let spelling = spelling::sent(index, &head, parts, origin.client, route);
    Ok(Call {
        route: route.clone(),
        origin,
        host: head.host.into_owned(),
        path: head.path.into_owned(),
        spelling: spelling.map_err(|why| refuse(client, why))?,
        trace: None,
        begin,
    })
}

/// Returns the listener for a request. Over TLS it must be the one that the handshake was for
/// (RFC 9110, 15.5.20).
#[allow(
    clippy::result_large_err,
    reason = "a response is moved once, either way"
)]
pub(crate) fn listener<'a>(
    serving: &'a Serving,
    client: &Client,
    host: &str,
) -> Result<&'a ServedListener, Response<Body>> {
    let Some(gateway) = &client.gateway else {
        return Ok(&serving.ingress);
    };
    let port = serving.port(gateway);
    // The protocol of the port may have changed since the client connected.
    if port.is_some_and(|port| (port.scheme == Scheme::Https) != client.is_encrypted) {
        client.is_closing.store(true, Ordering::Relaxed);
        let why = "the port has another protocol now: connect again";
        return Err(answer::error(StatusCode::MISDIRECTED_REQUEST, why));
    }
    let none = || answer::error(StatusCode::NOT_FOUND, "no listener for this host");
    let listener = port.and_then(|port| port.listener(host)).ok_or_else(none)?;
    let name = client.handshake.server_name.as_deref().unwrap_or_default();
    let shaken = port.filter(|_| client.is_encrypted);
    let is_other = shaken.is_some_and(|port| {
        let other = port.listener(name);
        other.is_none_or(|other| !Arc::ptr_eq(other, listener))
    });
    if is_other {
        let why = "the connection is for another listener";
        return Err(answer::error(StatusCode::MISDIRECTED_REQUEST, why));
    }
    // A certificate that was not asked for, or is checked in another way now.
    let met = client.demands.as_ref();
    let is_stale = met.is_some_and(|met| {
        let now = &listener.tls.demands;
        !Arc::ptr_eq(met, now) && met != now
    });
    if is_stale {
        client.is_closing.store(true, Ordering::Relaxed);
        let why = "clients of this listener are checked in another way now: connect again";
        return Err(answer::error(StatusCode::MISDIRECTED_REQUEST, why));
    }
    Ok(listener)
}
