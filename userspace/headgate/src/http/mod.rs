//! HTTP: what this binary serves, and how it asks its own processes.

#[cfg(feature = "proxy")]
pub(crate) mod client;
#[cfg(any(feature = "page", feature = "proxy"))]
mod guard;
pub(crate) mod health;
mod listen;
pub(crate) mod metrics;
#[cfg(feature = "page")]
pub(crate) mod page;

#[cfg(any(feature = "page", feature = "proxy"))]
pub(crate) use guard::guard;
pub(crate) use listen::serve;
#[cfg(feature = "proxy")]
pub(crate) use listen::{ListenAddress, serve_socket};
