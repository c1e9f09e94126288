//! The endpoint picked for a request.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use headgate_model::edge::path::decoded;
use http::{HeaderMap, HeaderValue, Request, header::HOST};

use super::endpoint::Endpoint;

/// What balancing and affinity read of a request, as the client sent it.
#[derive(Clone, Debug)]
pub struct PickInput<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The host.
    pub host: &'a str,
    /// The path in its decoded form.
    pub path: Cow<'a, str>,
    /// The query.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> PickInput<'a> {
    /// The input for a request of `client` that was not changed.
    pub fn new<B>(client: IpAddr, request: &'a Request<B>) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        Self {
            client,
            host: host.unwrap_or_default(),
            path: decoded(uri.path()).unwrap_or(uri.path().into()),
            query: uri.query(),
            headers,
        }
    }
}

/// A picked endpoint. The request counts as in flight until this value is dropped or, once there is a
/// response, until the response body is dropped. After 101 (Switching Protocols) the count stays with
/// this value.
#[derive(Debug)]
pub struct Pick {
    endpoint: Arc<Endpoint>,
    is_counted: AtomicBool,
    cookie: Option<HeaderValue>,
}

impl Pick {
    /// A pick of an endpoint that counts the request already.
    pub(super) fn new(endpoint: Arc<Endpoint>, cookie: Option<HeaderValue>) -> Self {
        Self {
            endpoint,
            is_counted: AtomicBool::new(true),
            cookie,
        }
    }

    /// The endpoint's address.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The `Set-Cookie` value that pins the client to this endpoint, if it is not pinned yet.
    pub fn cookie(&self) -> Option<HeaderValue> {
        self.cookie.clone()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Moves the count of the request to the returned value.
    pub(super) fn hand_over(&self) -> InFlight {
        if !self.is_counted.swap(false, Relaxed) {
            self.endpoint.begin_request(None);
        }
        InFlight(self.endpoint.clone())
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        if *self.is_counted.get_mut() {
            self.endpoint.end_request();
        }
    }
}

/// Counts a request as in flight until dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end_request();
    }
}
