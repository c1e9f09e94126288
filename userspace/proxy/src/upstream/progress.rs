//! How far a request's body is, so that its endpoint is not blamed for a client that is slow.

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

/// Whom a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client, for more of the body.
    Client,
    /// The endpoint, that takes no more of the body since then.
    Sending(Instant),
    /// The endpoint, that has the whole request since then.
    Answer(Instant),
    /// Nobody: the client broke off.
    Broken,
}

const CLIENT: u64 = 0;
const SENDING: u64 = 1;
const ANSWER: u64 = 2;
const BROKEN: u64 = 3;

/// The phase, shared by the body and the one that waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    born: Instant,
    /// Milliseconds from `born`, and which phase in the lowest two bits.
    phase: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            phase: AtomicU64::new(SENDING),
        }
    }

    /// Where it is.
    pub(super) fn phase(&self) -> Phase {
        let phase = self.phase.load(Relaxed);
        let since = self.born + Duration::from_millis(phase >> 2);
        match phase & 3 {
            SENDING => Phase::Sending(since),
            ANSWER => Phase::Answer(since),
            BROKEN => Phase::Broken,
            _ => Phase::Client,
        }
    }

    fn enter(&self, phase: u64) {
        let millis = self.born.elapsed().as_millis() as u64;
        self.phase.store(millis << 2 | phase, Relaxed);
    }
}

/// A request's body that tells how far it is. hyper asks for a frame only when it can take it, so
/// the time until it asks again is the time that the endpoint takes for the frame before.
#[derive(Debug)]
pub(super) struct RequestBody {
    body: Body,
    progress: Option<Arc<Progress>>,
}

impl RequestBody {
    /// Of a body.
    pub(super) fn new(body: Body) -> Self {
        let progress = (!body.is_end_stream()).then(|| Arc::new(Progress::new()));
        Self { body, progress }
    }

    /// The body again.
    pub(super) fn into_body(mut self) -> Body {
        std::mem::replace(&mut self.body, Body::empty())
    }

    /// Where it tells; `None` if there is nothing to tell as it is empty.
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
            Poll::Ready(_) => ANSWER,
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
    /// hyper needs no more of it.
    fn drop(&mut self) {
        let Some(progress) = &self.progress else {
            return;
        };
        match progress.phase() {
            Phase::Client | Phase::Sending(_) => progress.enter(ANSWER),
            Phase::Answer(_) | Phase::Broken => {}
        }
    }
}
