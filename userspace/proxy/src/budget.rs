//! Memory and time of an HTTP/2 connection. Its client may ask for many responses at once and read none of them:
//! then their bodies wait at the backends, not here, and not for ever.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

/// Bytes that all responses of a connection may have in memory, beside one piece of each.
const MOST: usize = 1 << 20;

/// Counts the bytes of responses that were read from backends and not yet sent.
#[derive(Debug, Default)]
pub(crate) struct Budget(Mutex<BudgetState>);

#[derive(Debug, Default)]
struct BudgetState {
    used: usize,
    waiting: Vec<Waker>,
    /// Responses that wait for their client, and since when.
    offered: BTreeMap<u64, Instant>,
    /// Number of the next response.
    next: u64,
}

/// A response, while its client has the turn or its backend.
#[derive(Debug)]
pub(crate) struct Turn {
    budget: Arc<Budget>,
    number: u64,
}

/// Bytes that count until they are sent.
struct Counted {
    bytes: Bytes,
    budget: Arc<Budget>,
}

impl Budget {
    /// Ready if more may be read from backends.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.used < MOST {
            return Poll::Ready(());
        }
        state.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// Counts bytes until the last copy of what is returned is dropped.
    pub(crate) fn count(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.lock().used += bytes.len();
        Bytes::from_owner(Counted {
            bytes,
            budget: self.clone(),
        })
    }

    /// Begins a response, whose head the client gets now.
    pub(crate) fn offer(self: &Arc<Self>) -> Turn {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.offered.insert(number, Instant::now());
        drop(state);
        Turn {
            budget: self.clone(),
            number,
        }
    }

    /// Waits until the client has taken nothing of a response for `longest`.
    pub(crate) async fn stuck(&self, longest: Duration) {
        loop {
            let oldest = self.lock().offered.values().min().copied();
            let end = oldest.unwrap_or_else(Instant::now) + longest;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Gives the turn to the client, who gets a part of the response, or to the backend, whose next part is awaited.
    pub(crate) fn pass_to(&self, is_client: bool) {
        let mut state = self.budget.lock();
        match is_client {
            true => drop(state.offered.insert(self.number, Instant::now())),
            false => drop(state.offered.remove(&self.number)),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.budget.lock().offered.remove(&self.number);
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let woken = {
            let mut state = self.budget.lock();
            state.used -= self.bytes.len();
            match state.used < MOST {
                true => mem::take(&mut state.waiting),
                false => Vec::new(),
            }
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Context, Waker},
    };

    use bytes::Bytes;

    use super::{Budget, MOST};

    #[test]
    fn l138_bytes_count_until_they_are_sent() {
        let budget = Arc::new(Budget::default());
        let mut context = Context::from_waker(Waker::noop());
        assert!(budget.poll(&mut context).is_ready());
        let most = budget.count(Bytes::from(vec![1; MOST]));
        let copy = most.slice(1..2);
        drop(most);
        assert!(budget.poll(&mut context).is_pending());
        assert_eq!(copy, [1][..]);
        drop(copy);
        assert!(budget.poll(&mut context).is_ready());
        assert!(budget.count(Bytes::new()).is_empty());
    }
}
