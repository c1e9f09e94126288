//! Sends messages.

use std::{
    io::{self, ErrorKind::UnexpectedEof},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::Body;

use super::{encode::Encoder, transport::Shared};
use crate::body::BodyError;

/// The part of a body that is not sent.
#[derive(Debug)]
pub(crate) struct Outgoing<B> {
    body: B,
    encoder: Encoder,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Outgoing<B> {
    /// `None` if the head is the whole message.
    pub(crate) fn new(body: B, encoder: Encoder) -> Option<Self> {
        let has_body = !matches!(encoder, Encoder::Ended);
        has_body.then_some(Self { body, encoder })
    }

    /// Adds frames to the output while it has room. Returns whether the body has ended.
    fn poll(
        &mut self,
        transport: &Shared,
        context: &mut Context<'_>,
    ) -> Poll<Result<bool, BodyError>> {
        while transport.lock().output.has_room() {
            // Not locked here: the body may read another connection.
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context)).transpose()?;
            let is_end = frame.is_none() || self.body.is_end_stream();
            let output = &mut transport.lock().output;
            if let Some(frame) = frame {
                self.encoder.frame(frame, output);
            }
            if is_end {
                let is_whole = self.encoder.end(output);
                let missing = || io::Error::from(UnexpectedEof).into();
                return Poll::Ready(is_whole.then_some(true).ok_or_else(missing));
            }
        }
        Poll::Ready(Ok(false))
    }
}

/// Sends what waits in the output, and the body. Ready once all is sent, or the other end reads no more of
/// it: then the connection is broken. Fails if the body fails.
pub(crate) fn poll_send<B: Body<Data = Bytes, Error = BodyError> + Unpin>(
    outgoing: &mut Option<Outgoing<B>>,
    transport: &Shared,
    context: &mut Context<'_>,
) -> Poll<Result<(), BodyError>> {
    loop {
        let mut is_waiting = false;
        match outgoing.as_mut().map(|one| one.poll(transport, context)) {
            None | Some(Poll::Ready(Ok(false))) => {}
            Some(Poll::Pending) => is_waiting = true,
            Some(Poll::Ready(ended)) => {
                *outgoing = None;
                ended?;
            }
        }
        let mut transport = transport.lock();
        if ready!(transport.poll_flush(context)).is_err() {
            transport.output.clear();
            *outgoing = None;
        }
        match outgoing {
            None => return Poll::Ready(Ok(())),
            Some(_) if is_waiting => return Poll::Pending,
            Some(_) => {}
        }
    }
}
