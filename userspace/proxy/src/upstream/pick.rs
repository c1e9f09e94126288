//! The endpoint that a request goes to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::{HeaderMap, HeaderValue, Request, Uri};

use super::endpoint::Endpoint;

/// What a choice may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who asks.
    pub client: IpAddr,
    /// For what.
    pub uri: &'a Uri,
    /// What else is said.
    pub headers: &'a HeaderMap,
}

impl<'a> Ask<'a> {
    /// For a request.
    pub fn new<B>(client: IpAddr, request: &'a Request<B>) -> Self {
        Self {
            client,
            uri: request.uri(),
            headers: request.headers(),
        }
    }
}

/// An endpoint that was picked. The request is counted as in flight until this is dropped; once it
/// is answered, until the body of the answer is dropped. An answer that changes the protocol leaves
/// the count here.
#[derive(Debug)]
pub struct Pick {
    endpoint: Arc<Endpoint>,
    is_counted: AtomicBool,
    cookie: Option<HeaderValue>,
}

impl Pick {
    /// An endpoint that has been entered.
    pub(super) fn new(endpoint: Arc<Endpoint>, cookie: Option<HeaderValue>) -> Self {
        Self {
            endpoint,
            is_counted: AtomicBool::new(true),
            cookie,
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// `Set-Cookie` for the client, so that its next request comes here too.
    pub fn cookie(&self) -> Option<HeaderValue> {
        self.cookie.clone()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Leaves the counting to another.
    pub(super) fn hand_over(&self) -> InFlight {
        if !self.is_counted.swap(false, Relaxed) {
            self.endpoint.enter(None);
        }
        InFlight(self.endpoint.clone())
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        if *self.is_counted.get_mut() {
            self.endpoint.leave();
        }
    }
}

/// Counts a request as long as it is here.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.leave();
    }
}
