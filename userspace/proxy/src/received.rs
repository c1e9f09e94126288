//! Bodies of requests as clients send them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::{
    body::{BodyError, poll_incoming},
    http1::Shared,
};

/// The body of a client's request.
pub(crate) enum Received {
    /// No body.
    Empty,
    /// The body of the message with this number, which the connection reads.
    Http1(Shared, u64),
    /// A stream.
    Http2(Incoming),
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(connection, message) => match connection.lock().body_of(*message) {
                Some(body) => body.poll_frame(context),
                None => Poll::Ready(Some(Err("the request has ended".into()))),
            },
            Self::Http2(body) => poll_incoming(body, context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(connection, message) => {
                let mut connection = connection.lock();
                connection
                    .body_of(*message)
                    .is_some_and(|body| body.is_read())
            }
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(connection, message) => {
                let mut connection = connection.lock();
                let body = connection.body_of(*message);
                body.map(|body| body.size_hint()).unwrap_or_default()
            }
            Self::Http2(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http_body_util::BodyExt;
    use tokio::io::empty;

    use super::Received;
    use crate::http1::{Decoder, Length, Shared, Transport};

    /// An endpoint may answer before it has read the body of a request, and read on during the next one.
    #[tokio::test]
    async fn l171_a_body_ends_with_its_request() {
        let read = BytesMut::from(&b"onetwo"[..]);
        let connection = Shared::new(Transport::new(empty(), read));
        let begin = || {
            let decoder = Decoder::new(Length::Exact(3));
            let message = connection.lock().begin_body(decoder);
            Received::Http1(connection.clone(), message)
        };
        let mut first = begin();
        assert!(connection.lock().end_message());
        assert!(
            first.frame().await.unwrap().is_err(),
            "between two requests"
        );
        let mut second = begin();
        assert!(first.frame().await.unwrap().is_err(), "during the next one");
        let frame = second.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "two");
    }
}
