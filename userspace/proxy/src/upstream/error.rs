//! What can go wrong with a request to an endpoint.

use std::fmt;

use http::Request;

use crate::{Body, body::BodyError};

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// There is none.
    #[error("no endpoint")]
    Missing,
    /// Each has as many requests as it may have.
    #[error("all endpoints are busy")]
    Busy,
}

/// A request that was not answered.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {source}")]
pub struct SendError {
    /// What happened.
    pub kind: ErrorKind,
    /// Whether the endpoint may have acted on the request.
    pub is_sent: bool,
    /// The request with its whole body, if none of it was sent.
    pub request: Option<Box<Request<Body>>>,
    /// The cause.
    pub source: BodyError,
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The endpoint cannot be reached.
    Connect,
    /// TLS with the endpoint failed, or its settings cannot be used.
    Tls,
    /// The endpoint took too long.
    Timeout,
    /// The endpoint broke the connection or the protocol.
    Broken,
    /// The body of the request broke off; the endpoint is not to blame.
    Body,
}

impl ErrorKind {
    /// Whether the endpoint is to blame.
    pub(super) fn is_of_endpoint(self) -> bool {
        match self {
            Self::Connect | Self::Tls | Self::Timeout | Self::Broken => true,
            Self::Body => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Connect => "cannot connect",
            Self::Tls => "TLS failed",
            Self::Timeout => "took too long",
            Self::Broken => "connection broke",
            Self::Body => "request broke off",
        })
    }
}

/// A wait that ended without what was waited for.
#[derive(Debug, thiserror::Error)]
#[error("no {0} in time")]
pub(super) struct Late(pub(super) &'static str);
