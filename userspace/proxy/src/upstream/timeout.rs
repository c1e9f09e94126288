//! Timeouts of an exchange: for the head of a response, and between frames of a body.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::poll_fn;
use headgate_model::edge::Timeouts;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    error::TimedOut,
    progress::{Phase, Progress},
};

/// Waits for the head of a response: at most `read` after the endpoint has the whole request, and at
/// most `send` while the endpoint reads no more of it. The timer is set again only when it fires, so
/// once for most requests, however many frames they have.
///
/// # Errors
///
/// Fails if one of the two timeouts ends.
pub(super) async fn response_head<T>(
    response: impl Future<Output = T>,
    progress: Option<&Progress>,
    timeouts: &Timeouts,
    mut timer: Pin<&mut Sleep>,
) -> Result<T, TimedOut> {
    let begin = Instant::now();
    let deadline = || match progress.map(Progress::phase) {
        None => (begin + timeouts.read, "response"),
        Some(Phase::Client | Phase::Broken) => (Instant::now() + timeouts.read, "response"),
        Some(Phase::Sending(since)) => (since + timeouts.send, "upload progress"),
        Some(Phase::Response(since)) => (since + timeouts.read, "response"),
    };
    let mut response = pin!(response);
    timer
        .as_mut()
        .reset(begin + timeouts.read.min(timeouts.send));
    poll_fn(|context| {
        if let Poll::Ready(response) = response.as_mut().poll(context) {
            return Poll::Ready(Ok(response));
        }
        loop {
            ready!(timer.as_mut().poll(context));
            let (deadline, missing) = deadline();
            if deadline <= Instant::now() {
                return Poll::Ready(Err(TimedOut(missing)));
            }
            timer.as_mut().reset(deadline);
        }
    })
    .await
}

/// The longest wait for the next frame of a body. The timer is made at the first wait and set again
/// only when it fires.
#[derive(Debug)]
pub(crate) struct IdleTimeout {
    longest: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl IdleTimeout {
    /// A timeout of `longest`.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            longest,
            since: None,
            timer: None,
        }
    }

    /// Ends the current wait: a frame arrived.
    pub(crate) fn reset(&mut self) {
        self.since = None;
    }

    /// Begins or continues a wait. Ready once it has lasted too long.
    pub(crate) fn poll_elapsed(&mut self, context: &mut Context<'_>) -> Poll<()> {
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
