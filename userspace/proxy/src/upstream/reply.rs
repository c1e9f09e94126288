//! The body of an answer, and what becomes of its connection.

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
    error::Late,
    http1, http2,
    pick::InFlight,
    progress::{Phase, Progress},
    silence::Silence,
};
use crate::body::BodyError;

/// What an answer comes on.
#[derive(Debug)]
pub(super) enum Lease {
    /// A connection that can be used again when the answer has ended and the request too.
    Http1(Box<http1::Sender>, Option<Arc<Progress>>),
    /// A connection that is used for one request.
    Once(Box<http1::Sender>),
    /// A stream.
    Http2(http2::Stream),
}

impl Lease {
    /// The answer has ended.
    fn end(self, endpoint: &Endpoint) {
        match self {
            Self::Http1(sender, progress) if is_done(progress.as_deref()) => {
                endpoint.idle.put(sender);
            }
            Self::Http1(..) | Self::Once(_) | Self::Http2(_) => {}
        }
    }
}

/// Whether a request has ended.
pub(super) fn is_done(progress: Option<&Progress>) -> bool {
    progress.is_none_or(|progress| matches!(progress.phase(), Phase::Answer(_)))
}

/// A body with what it comes on.
#[derive(Debug)]
pub(super) struct Leased {
    body: Incoming,
    /// `None` once the connection is kept or given up.
    lease: Option<Lease>,
}

impl Leased {
    pub(super) fn new(body: Incoming, lease: Lease) -> Self {
        Self {
            body,
            lease: Some(lease),
        }
    }

    /// The body was read to its end: the connection can be kept.
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
            Some(Lease::Http1(sender, _) | Lease::Once(sender)) => {
                sender.poll(context, |context| Pin::new(&mut *body).poll_frame(context))
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

/// The body of an answer. Its request is in flight as long as the body is here; the connection is
/// kept if the body was read to its end.
#[derive(Debug)]
pub struct Reply {
    body: Leased,
    in_flight: InFlight,
    silence: Silence,
}

impl Reply {
    pub(super) fn new(body: Leased, in_flight: InFlight, silence: Silence) -> Self {
        Self {
            body,
            in_flight,
            silence,
        }
    }

    /// The connection is closed.
    fn fail(&mut self, error: BodyError) -> BodyError {
        if self.body.lease.take().is_some() {
            let endpoint = self.in_flight.endpoint();
            endpoint.failed(&error.to_string(), Duration::ZERO);
        }
        error
    }

    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        ready!(self.silence.poll_too_long(context));
        if let Some(Lease::Http2(stream)) = &self.body.lease {
            stream.doubt();
        }
        Poll::Ready(self.fail(Late("more of the answer").into()))
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
            return this.poll_silence(context).map(|error| Some(Err(error)));
        };
        this.silence.broken();
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
