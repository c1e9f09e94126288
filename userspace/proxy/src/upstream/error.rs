//! Errors of a request to an endpoint.

use std::fmt;

use http::Request;

use crate::body::{Body, BodyError};

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The upstream has no endpoints.
    #[error("no endpoint")]
    Missing,
    /// Each endpoint has reached its limit of requests in flight.
    #[error("all endpoints are busy")]
    Busy,
}

/// A request without a response.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {source}")]
pub struct SendError {
    /// The kind of error.
    pub kind: ErrorKind,
    /// Whether the endpoint may have acted on the request.
    pub is_sent: bool,
    /// The request with its whole body, if it can be sent again: none of it was sent, or it is in memory.
    pub request: Option<Box<Request<Body>>>,
    /// The cause.
    pub source: BodyError,
}

/// Why a request got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The TCP connection failed.
    Connect,
    /// The TLS handshake failed, or the TLS settings are invalid.
    Tls,
    /// A timeout ended.
    Timeout,
    /// The endpoint closed the connection early or violated the protocol.
    Broken,
    /// The client did not send the whole request body.
    Body,
}

impl ErrorKind {
    /// Whether the error counts as a failure of the endpoint.
    pub(super) fn is_endpoint_fault(self) -> bool {
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
            Self::Timeout => "timeout",
            Self::Broken => "connection failed",
            Self::Body => "request body incomplete",
        })
    }
}

/// A timeout; the text names what did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("no {0} in time")]
pub(super) struct TimedOut(pub(super) &'static str);
