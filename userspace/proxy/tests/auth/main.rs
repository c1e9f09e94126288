//! Authentication from connection to backend: a proxy, a backend that tells what it got, and clients
//! over TLS.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod certificates;
mod gate;
mod oidc;
mod setup;
