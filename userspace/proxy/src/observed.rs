//! A body that is watched while its frames pass.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::body::BodyError;

/// The result of polling a body for a frame.
pub(crate) type PolledFrame<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

/// Watches the frames of a body `B`.
pub(crate) trait FrameObserver<B: HttpBody<Data = Bytes>> {
    /// Receives what a poll of `body` returned, and returns what the reader gets.
    fn observe(
        &mut self,
        body: &B,
        polled: PolledFrame<B::Error>,
        context: &mut Context<'_>,
    ) -> PolledFrame<BodyError>;

    /// Ready if `body` may be polled.
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Called once, when `body` is dropped, whether it was read to its end or not.
    fn end(&mut self, _body: &B) {}
}

/// A body and its observer.
#[derive(Debug)]
pub(crate) struct Observed<B: HttpBody<Data = Bytes>, O: FrameObserver<B>> {
    pub(crate) body: B,
    pub(crate) observer: O,
}

impl<B: HttpBody<Data = Bytes>, O: FrameObserver<B>> Observed<B, O> {
    pub(crate) fn new(body: B, observer: O) -> Self {
        Self { body, observer }
    }
}

impl<B, O> HttpBody for Observed<B, O>
where
    B: HttpBody<Data = Bytes> + Unpin,
    O: FrameObserver<B> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame<BodyError> {
        let this = self.get_mut();
        ready!(this.observer.poll_ready(context));
        let polled = Pin::new(&mut this.body).poll_frame(context);
        this.observer.observe(&this.body, polled, context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: HttpBody<Data = Bytes>, O: FrameObserver<B>> Drop for Observed<B, O> {
    fn drop(&mut self) {
        self.observer.end(&self.body);
    }
}
