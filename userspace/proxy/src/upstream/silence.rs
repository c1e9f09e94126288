//! The longest silence of an endpoint, in headers and in bodies.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::poll_fn;
use headgate_model::ingress::Timeouts;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    error::Late,
    progress::{Phase, Progress},
};

/// Waits for the headers of an answer: no longer than `read` once the endpoint has the request, and
/// no longer than `send` while it takes no more of it. The timer is set anew only when it rings, so
/// a request sets it once, however many frames it has.
pub(super) async fn headers<T>(
    answer: impl Future<Output = T>,
    progress: Option<&Progress>,
    timeouts: &Timeouts,
    mut timer: Pin<&mut Sleep>,
) -> Result<T, Late> {
    let begin = Instant::now();
    let deadline = || match progress.map(Progress::phase) {
        None => (begin + timeouts.read, "answer"),
        Some(Phase::Client | Phase::Broken) => (Instant::now() + timeouts.read, "answer"),
        Some(Phase::Sending(since)) => (since + timeouts.send, "room for more of the request"),
        Some(Phase::Answer(since)) => (since + timeouts.read, "answer"),
    };
    let mut answer = pin!(answer);
    timer
        .as_mut()
        .reset(begin + timeouts.read.min(timeouts.send));
    poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(Ok(answer));
        }
        loop {
            ready!(timer.as_mut().poll(context));
            let (deadline, what) = deadline();
            if deadline <= Instant::now() {
                return Poll::Ready(Err(Late(what)));
            }
            timer.as_mut().reset(deadline);
        }
    })
    .await
}

/// Watches for the silence between frames. There is no timer before the first silence, and it is set
/// anew only when it rings.
#[derive(Debug)]
pub(crate) struct Silence {
    longest: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// No longer than this.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            longest,
            since: None,
            timer: None,
        }
    }

    /// Something came.
    pub(crate) fn broken(&mut self) {
        self.since = None;
    }

    /// Nothing came: ready if that is so for too long.
    pub(crate) fn poll_too_long(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let end = *self.since.get_or_insert_with(Instant::now) + self.longest;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        loop {
            ready!(timer.as_mut().poll(context));
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }
}
