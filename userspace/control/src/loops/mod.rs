//! The loops: events of a source in, changes of a dataplane or routes of a proxy out.

use std::time::Duration;

mod failed;
pub(crate) mod ingress;
pub(crate) mod intake;
pub(crate) mod listeners;
pub(crate) mod reconcile;
pub(crate) mod status;

/// How long a loop waits for lists that it can do without.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
