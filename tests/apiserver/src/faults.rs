//! What a test can break: one value that every connection and every watch follows.

use std::time::Duration;

use tokio::sync::watch;

/// The current state of the knobs. Counters are compared with the last value seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Knobs {
    pub(crate) refusing: bool,
    pub(crate) garbling: bool,
    pub(crate) stalled: bool,
    pub(crate) gone_as_status: bool,
    pub(crate) delay: Duration,
    /// How often watches were cut.
    pub(crate) dropped: u64,
    /// How often watches were told that they expired.
    pub(crate) expired: u64,
    /// How often a bookmark was asked for.
    pub(crate) bookmarked: u64,
}

/// The knobs, and the signal that one was turned.
pub(crate) struct Faults {
    knobs: watch::Sender<Knobs>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            knobs: watch::Sender::new(Knobs::default()),
        }
    }

    pub(crate) fn turn(&self, change: impl FnOnce(&mut Knobs)) {
        self.knobs.send_modify(change);
    }

    pub(crate) fn now(&self) -> Knobs {
        self.knobs.borrow().clone()
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Knobs> {
        self.knobs.subscribe()
    }
}
