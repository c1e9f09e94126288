//! Bodies of requests and responses.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::{stream::Tunnel, upstream::Reply};

/// Any error of a body.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// Reads the next frame of a body over HTTP/2. The HTTP library ends a body that the other side resets without an error
/// code as if it were complete; only one with END_STREAM is (RFC 9113, 8.1).
pub(crate) fn poll_incoming(
    body: &mut Incoming,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let frame = ready!(Pin::new(&mut *body).poll_frame(context));
    if frame.is_none() && !body.is_end_stream() {
        return Poll::Ready(Some(Err("the stream was reset before its end".into())));
    }
    Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
}

/// A body of a request or response.
#[derive(Debug)]
pub enum Body {
    /// The body of a response of an endpoint.
    Reply(Reply),
    /// Bytes in memory; `None` if empty, or after they were read.
    Full(Option<Bytes>),
    /// No body: the endpoint switched protocols, and this is the connection to it.
    Tunnel(Tunnel),
    /// Any other body.
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// Returns an empty body.
    pub fn empty() -> Self {
        Self::Full(None)
    }

    /// Returns the whole body if it is in memory.
    pub(crate) fn in_memory(&self) -> Option<Bytes> {
        match self {
            Self::Full(bytes) => Some(bytes.clone().unwrap_or_default()),
            body => body.is_end_stream().then(Bytes::new),
        }
    }

    /// Boxes any other body.
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
            Self::Tunnel(_) => Poll::Ready(None),
            Self::Boxed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Reply(body) => body.is_end_stream(),
            Self::Full(bytes) => bytes.is_none(),
            Self::Tunnel(_) => true,
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Reply(body) => body.size_hint(),
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}
