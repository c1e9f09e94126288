//! Whether a client uses its connection.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The requests in progress on a connection.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<ActivityState>);

#[derive(Debug)]
struct ActivityState {
    requests: usize,
    /// When the last request ended, or the connection began.
    since: Instant,
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct InProgress(Arc<Activity>);

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(ActivityState {
            requests: 0,
            since: Instant::now(),
        }))
    }

    /// Counts a request until the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InProgress {
        self.lock().requests += 1;
        InProgress(self.clone())
    }

    /// Waits until there has been no request for `longest`.
    pub(crate) async fn idle(&self, longest: Duration) {
        loop {
            let end = self.idle_since().unwrap_or_else(Instant::now) + longest;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.requests == 0).then_some(state.since)
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests -= 1;
        state.since = Instant::now();
    }
}
