//! The faults that a test sets: one value that every connection and every watch follows.

use std::time::Duration;

use tokio::sync::watch;

/// The current faults. A watch compares each counter with the value that it has seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FaultState {
    pub(crate) refusing: bool,
    pub(crate) garbling: bool,
    pub(crate) stalled: bool,
    pub(crate) gone_as_status: bool,
    pub(crate) delay: Duration,
    /// Number of times that watches were cut.
    pub(crate) dropped: u64,
    /// Number of times that watches were expired.
    pub(crate) expired: u64,
    /// Number of requested bookmarks.
    pub(crate) bookmarked: u64,
}

/// The faults, and the signal that one changed.
pub(crate) struct Faults {
    faults: watch::Sender<FaultState>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            faults: watch::Sender::new(FaultState::default()),
        }
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut FaultState)) {
        self.faults.send_modify(change);
    }

    pub(crate) fn now(&self) -> FaultState {
        self.faults.borrow().clone()
    }

    pub(crate) fn follow(&self) -> watch::Receiver<FaultState> {
        self.faults.subscribe()
    }
}
