//! The body of a response, and whether its connection returns to the pool.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::{
    endpoint::Endpoint,
    error::TimedOut,
    http1, http2,
    pick::InFlight,
    progress::{Phase, Progress},
    timeout::IdleTimeout,
};
use crate::body::BodyError;

/// The connection or stream that a response comes on.
#[derive(Debug)]
pub(super) enum Lease {
    /// A connection that returns to the pool when response and request have ended.
    Http1(Box<http1::Http1Conn>, Option<Arc<Progress>>),
    /// A connection for one request.
    Once(Box<http1::Http1Conn>, Option<Arc<Progress>>),
    /// An HTTP/2 stream.
    Http2(http2::Http2Stream),
}

impl Lease {
    /// Returns the connection to the pool if it can be used again. If the request has not ended, the
    /// endpoint does not need the rest of it and may never read it: the connection is closed, so that the
    /// client does not wait to send it.
    fn end(self, endpoint: &Endpoint) {
        match self {
            Self::Http1(conn, progress) | Self::Once(conn, progress)
                if !is_done(progress.as_deref()) =>
            {
                conn.abort();
            }
            Self::Http1(conn, _) => endpoint.http1.put(conn),
            Self::Once(..) | Self::Http2(_) => {}
        }
    }
}

/// Whether the whole request was sent.
pub(super) fn is_done(progress: Option<&Progress>) -> bool {
    progress.is_none_or(|progress| matches!(progress.phase(), Phase::Response(_)))
}

/// A response body with its connection.
#[derive(Debug)]
pub(super) struct Leased {
    body: Incoming,
    /// `None` once the connection is back in the pool or closed.
    lease: Option<Lease>,
}

impl Leased {
    pub(super) fn new(body: Incoming, lease: Lease) -> Self {
        Self {
            body,
            lease: Some(lease),
        }
    }

    /// Returns the connection to the pool: the body was read to its end.
    pub(super) fn end(&mut self, endpoint: &Endpoint) {
        if let Some(lease) = self.lease.take() {
            lease.end(endpoint);
        }
    }
}

impl HttpBody for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, lease } = self.get_mut();
        match lease {
            Some(Lease::Http1(conn, _) | Lease::Once(conn, _)) => {
                conn.poll(context, |context| Pin::new(&mut *body).poll_frame(context))
            }
            Some(Lease::Http2(_)) | None => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body. Its request counts as in flight until it is dropped; the connection returns to
/// the pool if the body was read to its end.
#[derive(Debug)]
pub struct Reply {
    body: Leased,
    in_flight: InFlight,
    idle_timeout: IdleTimeout,
}

impl Reply {
    pub(super) fn new(body: Leased, in_flight: InFlight, idle_timeout: IdleTimeout) -> Self {
        Self {
            body,
            in_flight,
            idle_timeout,
        }
    }

    /// Closes the connection and counts a failure of the endpoint.
    fn fail(&mut self, error: BodyError) -> BodyError {
        if self.body.lease.take().is_some() {
            let endpoint = self.in_flight.endpoint();
            endpoint.record_failure(&error.to_string(), Duration::ZERO);
        }
        error
    }

    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        ready!(self.idle_timeout.poll_elapsed(context));
        if let Some(Lease::Http2(stream)) = &self.body.lease {
            stream.retire();
        }
        Poll::Ready(self.fail(TimedOut("response data").into()))
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            return this.poll_timeout(context).map(|error| Some(Err(error)));
        };
        this.idle_timeout.reset();
        let frame = frame.map(|frame| frame.map_err(|error| this.fail(error.into())));
        if frame.is_none() || this.body.is_end_stream() {
            this.body.end(this.in_flight.endpoint());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
