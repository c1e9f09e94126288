//! The loops: events in, changes of a dataplane or routes of a proxy out.

pub(crate) mod ingress;
pub(crate) mod reconcile;
