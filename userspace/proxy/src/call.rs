//! A request with its route, and the client that it comes from.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use http::{HeaderValue, Uri, uri::PathAndQuery};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Span, field::display};

use crate::{
    activity::Activity,
    budget::Budget,
    origin::Origin,
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
    /// Whether part of the last request was not read.
    pub(crate) is_unread: Arc<AtomicBool>,
    /// Memory for responses over HTTP/2.
    pub(crate) budget: Arc<Budget>,
    /// The place among all connections, which an upgraded one keeps.
    pub(crate) permit: Option<Arc<OwnedSemaphorePermit>>,
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
            is_unread: Arc::default(),
            budget: Arc::default(),
            permit: None,
            activity: Arc::new(Activity::new()),
            span: Span::current(),
        }
    }
}

/// A request whose route is known.
pub(crate) struct Call {
    pub(crate) route: Arc<ServedRoute>,
    pub(crate) origin: Origin,
    pub(crate) host: String,
    /// In its decoded form.
    pub(crate) path: String,
    /// The path that the backend gets instead of the client's spelling.
    pub(crate) spelling: Option<String>,
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

    /// Path and query that the backend gets unless the route rewrites them.
    pub(crate) fn target<'a>(&self, uri: &'a Uri) -> Cow<'a, str> {
        match (&self.spelling, uri.query()) {
            (Some(path), Some(query)) => format!("{path}?{query}").into(),
            (Some(path), None) => path.clone().into(),
            (None, _) => uri
                .path_and_query()
                .map_or("/", PathAndQuery::as_str)
                .into(),
        }
    }

    /// What a trace records of it.
    pub(crate) fn routed(&self) -> Routed<'_> {
        Routed {
            route: self.route.model(),
            host: &self.host,
            client: self.origin.client,
        }
    }
}
