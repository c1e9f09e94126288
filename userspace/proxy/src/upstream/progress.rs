//! The progress of a request's upload, so that a slow client does not count as a slow endpoint.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::Body as _;
use tokio::time::Instant;

use crate::{
    body::{Body, BodyError},
    observed::{FrameObserver, Observed, PolledFrame},
};

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

/// A request body that records its progress.
pub(super) type RequestBody = Observed<Body, Recorder>;

/// Records the progress of a body unless it is empty. hyper polls for a frame only when it can send it,
/// so the time between two polls is the time that the endpoint needs for a frame.
#[derive(Debug)]
pub(crate) struct Recorder(Option<Arc<Progress>>);

impl RequestBody {
    /// Wraps a body.
    pub(super) fn recording(body: Body) -> Self {
        let progress = (!body.is_end_stream()).then(|| Arc::new(Progress::new()));
        Self::new(body, Recorder(progress))
    }

    /// Returns the wrapped body.
    pub(super) fn into_body(mut self) -> Body {
        std::mem::replace(&mut self.body, Body::empty())
    }

    /// The progress of the upload; `None` for an empty body.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.observer.0.clone()
    }
}

impl FrameObserver<Body> for Recorder {
    fn observe(
        &mut self,
        body: &Body,
        polled: PolledFrame<BodyError>,
        _context: &mut Context<'_>,
    ) -> PolledFrame<BodyError> {
        if let Some(progress) = &self.0 {
            progress.enter(match &polled {
                Poll::Pending => CLIENT,
                Poll::Ready(Some(Ok(_))) if !body.is_end_stream() => SENDING,
                Poll::Ready(Some(Err(_))) => BROKEN,
                Poll::Ready(_) => RESPONSE,
            });
        }
        polled
    }

    /// hyper drops the body when it needs no more of it.
    fn end(&mut self, _body: &Body) {
        let Some(progress) = &self.0 else {
            return;
        };
        match progress.phase() {
            Phase::Client | Phase::Sending(_) => progress.enter(RESPONSE),
            Phase::Response(_) | Phase::Broken => {}
        }
    }
}
