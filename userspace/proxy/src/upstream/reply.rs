//! The body of a response, and whether its connection returns to the pool.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::{
    endpoint::Endpoint, error::TimedOut, http1::Http1Conn, http2::Http2Stream, pick::InFlight,
    timeout::IdleTimeout,
};
use crate::{
    body::{BodyError, poll_incoming},
    stream::Tunnel,
};

/// A response body with its connection.
#[derive(Debug)]
pub(super) enum Leased {
    /// A connection, and whether it returns to the pool when response and request have ended.
    Http1(Box<Http1Conn>, bool),
    /// An HTTP/2 stream.
    Http2(Incoming, Http2Stream),
    /// No body: the endpoint switched protocols.
    Tunnel(Tunnel),
    /// The connection is back in the pool or closed.
    Ended,
}

impl Leased {
    /// Returns the connection to the pool if it can be used again: the body was read to its end. If the
    /// request has not ended, the endpoint does not need the rest of it and may never read it: the
    /// connection is closed, so that the client does not wait to send it.
    pub(super) fn end(&mut self, endpoint: &Endpoint) {
        if let Self::Http1(conn, true) = mem::replace(self, Self::Ended) {
            endpoint.http1.put(conn);
        }
    }
}

impl HttpBody for Leased {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(conn, _) => conn.poll_frame(context),
            Self::Http2(body, _) => poll_incoming(body, context),
            Self::Tunnel(_) | Self::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(conn, _) => conn.is_read(),
            Self::Http2(body, _) => body.is_end_stream(),
            Self::Tunnel(_) | Self::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(conn, _) => conn.size_hint(),
            Self::Http2(body, _) => body.size_hint(),
            Self::Tunnel(_) | Self::Ended => SizeHint::with_exact(0),
        }
    }
}

/// A response body. Its request counts as in flight until it is dropped; the connection returns to
/// the pool if the body was read to its end.
#[derive(Debug)]
pub struct Reply {
    body: Leased,
    in_flight: InFlight,
    idle_timeout: IdleTimeout,
    /// The time for the whole response.
    end: Option<Pin<Box<Sleep>>>,
}

impl Reply {
    pub(super) fn new(
        body: Leased,
        in_flight: InFlight,
        idle_timeout: IdleTimeout,
        end: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        Self {
            body,
            in_flight,
            idle_timeout,
            end,
        }
    }

    /// Closes the connection and counts a failure of the endpoint.
    fn fail(&mut self, error: BodyError) -> BodyError {
        if !matches!(mem::replace(&mut self.body, Leased::Ended), Leased::Ended) {
            let endpoint = self.in_flight.endpoint();
            endpoint.record_failure(&error.to_string(), Duration::ZERO);
        }
        error
    }

    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        ready!(self.idle_timeout.poll_elapsed(context));
        if let Leased::Http2(_, stream) = &self.body {
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
        if let Some(end) = &mut this.end
            && end.as_mut().poll(context).is_ready()
        {
            // No failure of the endpoint: the client may have read slowly. But the connection may be dead.
            if let Leased::Http2(_, stream) = mem::replace(&mut this.body, Leased::Ended) {
                stream.retire();
            }
            return Poll::Ready(Some(Err(TimedOut("end of the response").into())));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            return this.poll_timeout(context).map(|error| Some(Err(error)));
        };
        this.idle_timeout.reset();
        let frame = frame.map(|frame| frame.map_err(|error| this.fail(error)));
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
