//! A request with its route, and the client that it comes from.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicBool},
};

use http::HeaderValue;
use tracing::{Span, field::display};

use crate::{
    activity::Activity,
    serving::ServedRoute,
    tls::facts::Handshake,
    trace::{Routed, Trace},
};

pub(crate) const TOO_LARGE: &str = "the request body is too large";

/// The connection of a client, over which requests come.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// The peer's address without port, as every request names it.
    pub(crate) peer_text: HeaderValue,
    pub(crate) local: SocketAddr,
    pub(crate) is_secure: bool,
    pub(crate) handshake: Handshake,
    /// The next response is the last.
    pub(crate) is_closing: AtomicBool,
    /// As of the last request.
    pub(crate) is_http2: AtomicBool,
    pub(crate) activity: Arc<Activity>,
    pub(crate) span: Span,
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, is_secure: bool) -> Self {
        let peer_text = HeaderValue::try_from(peer.ip().to_string());
        Self {
            peer,
            peer_text: peer_text.unwrap_or(HeaderValue::from_static("unknown")),
            local,
            is_secure,
            handshake: Handshake::default(),
            is_closing: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            activity: Arc::new(Activity::new()),
            span: Span::current(),
        }
    }
}

/// A request whose route is known.
pub(crate) struct Call {
    pub(crate) route: Arc<ServedRoute>,
    /// The client's address; behind trusted proxies it is not the peer's.
    pub(crate) client: IpAddr,
    pub(crate) host: String,
    /// In its normal form.
    pub(crate) path: String,
    pub(crate) trace: Option<Trace>,
}

impl Call {
    /// Adds host and route to the span of the request.
    pub(crate) fn record(&self, span: &Span) {
        if !span.is_disabled() {
            span.record("host", &*self.host);
            span.record("route", display(&self.route.model().ingress));
        }
    }

    /// What a trace records of it.
    pub(crate) fn routed(&self) -> Routed<'_> {
        Routed {
            route: self.route.model(),
            host: &self.host,
            client: self.client,
        }
    }
}
