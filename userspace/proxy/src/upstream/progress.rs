//! The progress of a request's upload, so that a slow client does not count as a slow endpoint.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::{Body, body::BodyError};

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// More of the body from the client.
    Client,
    /// The endpoint reads no more of the body since then.
    Sending(Instant),
    /// The response: the endpoint has the whole request since then.
    Response(Instant),
    /// Nothing: the client did not send the whole body.
    Broken,
}

const CLIENT: u64 = 0;
const SENDING: u64 = 1;
const RESPONSE: u64 = 2;
const BROKEN: u64 = 3;

/// The phase, written by the request body and read by the wait for the response.
#[derive(Debug)]
pub(super) struct Progress {
    born: Instant,
    /// Milliseconds since `born`, shifted left by two bits, and the phase in those bits.
    phase: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            phase: AtomicU64::new(SENDING),
        }
    }

    /// The current phase.
    pub(super) fn phase(&self) -> Phase {
        let phase = self.phase.load(Relaxed);
        let since = self.born + Duration::from_millis(phase >> 2);
        match phase & 3 {
            SENDING => Phase::Sending(since),
            RESPONSE => Phase::Response(since),
            BROKEN => Phase::Broken,
            _ => Phase::Client,
        }
    }

    fn enter(&self, phase: u64) {
        let millis = self.born.elapsed().as_millis() as u64;
        self.phase.store(millis << 2 | phase, Relaxed);
    }
}

/// A request body that records its progress. hyper polls for a frame only when it can send it, so the
/// time between two polls is the time that the endpoint needs for a frame.
#[derive(Debug)]
pub(super) struct RequestBody {
    body: Body,
    progress: Option<Arc<Progress>>,
}

impl RequestBody {
    /// Wraps a body.
    pub(super) fn new(body: Body) -> Self {
        let progress = (!body.is_end_stream()).then(|| Arc::new(Progress::new()));
        Self { body, progress }
    }

    /// Returns the wrapped body.
    pub(super) fn into_body(mut self) -> Body {
        std::mem::replace(&mut self.body, Body::empty())
    }

    /// The progress of the upload; `None` for an empty body.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }

    fn enter(&self, phase: u64) {
        if let Some(progress) = &self.progress {
            progress.enter(phase);
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        this.enter(match &frame {
            Poll::Pending => CLIENT,
            Poll::Ready(Some(Ok(_))) if !this.body.is_end_stream() => SENDING,
            Poll::Ready(Some(Err(_))) => BROKEN,
            Poll::Ready(_) => RESPONSE,
        });
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    /// hyper drops the body when it needs no more of it.
    fn drop(&mut self) {
        let Some(progress) = &self.progress else {
            return;
        };
        match progress.phase() {
            Phase::Client | Phase::Sending(_) => progress.enter(RESPONSE),
            Phase::Response(_) | Phase::Broken => {}
        }
    }
}
