//! Authentication from connection to backend: a proxy, a backend that echoes the request headers, and
//! clients over TLS.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod certificates;
mod guard;
mod oidc;
mod setup;
