//! Bodies of requests, with their limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Frame, Incoming};

use crate::{
    body::BodyError,
    observed::{FrameObserver, Observed, PolledFrame},
    upstream::IdleTimeout,
};

/// A body of a request. It fails once it is too large, or once the client is silent for too long
/// before there is a response. After the head of the response the client may be silent, as in gRPC.
pub(crate) type Upload = Observed<Incoming, UploadLimits>;

/// The limits of a body.
#[derive(Debug)]
pub(crate) struct UploadLimits {
    /// In bytes; `None` if the size is not limited.
    remaining: Option<u64>,
    silence: IdleTimeout,
    end: Arc<UploadEnd>,
}

/// How a body ended.
#[derive(Debug, Default)]
pub(crate) struct UploadEnd {
    is_exceeded: AtomicBool,
    is_late: AtomicBool,
    is_answered: AtomicBool,
}

impl UploadEnd {
    /// Whether it was too large.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Whether the client was silent for too long.
    pub(crate) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// The head of the response is here: the client may be silent from now on.
    pub(crate) fn answer(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }
}

impl Upload {
    /// Limits a body to `most` bytes and to silences of `longest`.
    pub(crate) fn limited(
        body: Incoming,
        most: Option<u64>,
        longest: Duration,
        end: Arc<UploadEnd>,
    ) -> Self {
        let limits = UploadLimits {
            remaining: most,
            silence: IdleTimeout::new(longest),
            end,
        };
        Self::new(body, limits)
    }
}

impl UploadLimits {
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if self.end.is_answered.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        ready!(self.silence.poll_elapsed(context));
        self.end.is_late.store(true, Ordering::Relaxed);
        Poll::Ready("the client is silent".into())
    }

    /// Counts the bytes of a frame. Returns `None` if they exceed the limit.
    fn count(&mut self, frame: &Frame<Bytes>) -> Option<()> {
        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.checked_sub(len)?;
        }
        Some(())
    }
}

impl FrameObserver<Incoming> for UploadLimits {
    fn observe(
        &mut self,
        _body: &Incoming,
        polled: PolledFrame<hyper::Error>,
        context: &mut Context<'_>,
    ) -> PolledFrame<BodyError> {
        let Poll::Ready(frame) = polled else {
            return self.poll_silence(context).map(|error| Some(Err(error)));
        };
        self.silence.reset();
        if let Some(Ok(frame)) = &frame
            && self.count(frame).is_none()
        {
            self.end.is_exceeded.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err("the request body is too large".into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}
