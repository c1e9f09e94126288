//! HTTP that this binary serves and asks for.

pub(crate) mod client;
mod guard;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod page;

pub(crate) use guard::guard;
