//! Bodies of requests and responses.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::{access_log::Entry, upstream::Reply};

/// Any error of a body.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A body: passed on as it comes in, made here, or made of another one.
#[derive(Debug)]
pub enum Body {
    /// As it comes in.
    Incoming(Incoming),
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

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Self::Incoming(body)
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
            Self::Incoming(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Reply(body) => Pin::new(body).poll_frame(context),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Boxed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Reply(body) => body.is_end_stream(),
            Self::Full(bytes) => bytes.is_none(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
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
    entry: Option<Entry>,
    _guard: G,
}

impl<G> Held<G> {
    pub(crate) fn new(body: Body, guard: G, entry: Option<Entry>) -> Self {
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

/// A body that fails once it is too large, and says that this was why.
#[derive(Debug)]
pub(crate) struct Limited {
    body: Incoming,
    rest: u64,
    is_exceeded: Arc<AtomicBool>,
}

impl Limited {
    pub(crate) fn new(body: Incoming, most: u64, is_exceeded: Arc<AtomicBool>) -> Self {
        Self {
            body,
            rest: most,
            is_exceeded,
        }
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let len = frame.data_ref().map_or(0, |data| data.len() as u64);
            match this.rest.checked_sub(len) {
                Some(rest) => this.rest = rest,
                None => {
                    this.is_exceeded.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("the body is too large".into())));
                }
            }
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
