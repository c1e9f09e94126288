//! The connection of a client.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use bytes::BytesMut;
use headgate_model::edge::GatewayPort;
use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use crate::{
    activity::Activity,
    budget::Budget,
    headers::about,
    origin::Origin,
    tls::{facts::Handshake, server::Demands},
};

/// The connection of a client, over which requests come.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// The peer's address without port, as every request names it.
    pub(crate) peer_text: HeaderValue,
    pub(crate) local: SocketAddr,
    /// The port of a Gateway that it is connected to.
    pub(crate) gateway: Option<Arc<GatewayPort>>,
    pub(crate) is_secure: bool,
    /// Whether the connection to this proxy uses TLS.
    pub(crate) is_encrypted: bool,
    pub(crate) handshake: Handshake,
    /// What the handshake demanded of the client.
    pub(crate) demands: Option<Arc<Demands>>,
    /// The next response is the last.
    pub(crate) is_closing: AtomicBool,
    /// Whether part of the last request was not read.
    pub(crate) is_unread: Arc<AtomicBool>,
    /// Whether what is written next is the last, and the end of the connection follows at once.
    pub(crate) is_ending: Arc<AtomicBool>,
    /// Memory for responses over HTTP/2.
    pub(crate) budget: Arc<Budget>,
    /// The place among all connections, which an upgraded one keeps.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) span: Span,
    /// What endpoints are sent about it, see [`Self::about`].
    about: OnceLock<BytesMut>,
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, is_secure: bool) -> Self {
        let peer_text = HeaderValue::try_from(peer.ip().to_string());
        Self {
            peer,
            peer_text: peer_text.unwrap_or(HeaderValue::from_static("unknown")),
            local,
            gateway: None,
            is_secure,
            is_encrypted: false,
            handshake: Handshake::default(),
            demands: None,
            is_closing: AtomicBool::new(false),
            is_unread: Arc::default(),
            is_ending: Arc::default(),
            budget: Arc::default(),
            permit: None,
            activity: Arc::new(Activity::new()),
            span: Span::current(),
            about: OnceLock::new(),
        }
    }

    /// Fields that name the client, its scheme and port, for requests whose origin is that of the connection.
    pub(crate) fn about(&self, origin: Origin) -> &[u8] {
        self.about.get_or_init(|| about(&self.peer_text, origin))
    }

    /// The port that the client connected to: that of the listener.
    pub(crate) fn port(&self) -> u16 {
        let gateway = self.gateway.as_ref();
        gateway.map_or_else(|| self.local.port(), |gateway| gateway.port)
    }
}
