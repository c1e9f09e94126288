//! Bodies of requests and responses.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::{
    access_log::Entry,
    upstream::{IdleTimeout, Reply},
};

/// Any error of a body.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A body: passed on as it comes from an endpoint, made here, or made of another one.
#[derive(Debug)]
pub enum Body {
    /// As it comes from an endpoint.
    Reply(Reply),
    /// Bytes that are here.
    Full(Option<Bytes>),
    /// Anything else.
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::Full(None)
    }

    /// Anything else.
    pub fn boxed(body: impl HttpBody<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self::Boxed(body.boxed_unsync())
    }
}

impl From<Reply> for Body {
    fn from(body: Reply) -> Self {
        Self::Reply(body)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Reply(body) => Pin::new(body).poll_frame(context),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Boxed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Reply(body) => body.is_end_stream(),
            Self::Full(bytes) => bytes.is_none(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Reply(body) => body.size_hint(),
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

/// A body of a response that keeps what the request holds, until it is sent; then the request is
/// logged.
#[derive(Debug)]
pub(crate) struct Held<G> {
    body: Body,
    bytes: u64,
    entry: Option<Box<Entry>>,
    _guard: G,
}

impl<G> Held<G> {
    pub(crate) fn new(body: Body, guard: G, entry: Option<Box<Entry>>) -> Self {
        Self {
            body,
            bytes: 0,
            entry,
            _guard: guard,
        }
    }
}

impl<G: Unpin> HttpBody for Held<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<G> Drop for Held<G> {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            entry.write(self.bytes);
        }
    }
}

/// A body of a request. It fails once it is too large, or if the client is silent for too long and
/// nobody has answered yet: an answer may well be about what is still to come, as in gRPC.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Incoming,
    rest: Option<u64>,
    silence: IdleTimeout,
    fate: Arc<Fate>,
}

/// What becomes of a body.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    is_exceeded: AtomicBool,
    is_late: AtomicBool,
    is_answered: AtomicBool,
}

impl Fate {
    /// Whether it was too large.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Whether the client was silent for too long.
    pub(crate) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// The head of the answer is here.
    pub(crate) fn answer(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }
}

impl Upload {
    pub(crate) fn new(
        body: Incoming,
        most: Option<u64>,
        longest_silence: Duration,
        fate: Arc<Fate>,
    ) -> Self {
        Self {
            body,
            rest: most,
            silence: IdleTimeout::new(longest_silence),
            fate,
        }
    }

    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if self.fate.is_answered.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        ready!(self.silence.poll_elapsed(context));
        self.fate.is_late.store(true, Ordering::Relaxed);
        Poll::Ready("the client is silent".into())
    }

    /// Counts the bytes of a frame: `None` if they are too many.
    fn count(&mut self, frame: &Frame<Bytes>) -> Option<()> {
        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(rest) = &mut self.rest {
            *rest = rest.checked_sub(len)?;
        }
        Some(())
    }
}

impl HttpBody for Upload {
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
        this.silence.reset();
        if let Some(Ok(frame)) = &frame
            && this.count(frame).is_none()
        {
            this.fate.is_exceeded.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err("the body is too large".into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
