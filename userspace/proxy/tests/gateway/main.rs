//! What a proxy does for Gateways, from connection to backend: a proxy with ports of Gateways, backends
//! that echo what they get, and clients with and without TLS.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod backends;
mod client;
mod cors;
mod filters;
mod manifests;
mod matching;
mod migration;
mod policies;
mod setup;
mod streams;
mod timers;
mod tls;
mod worlds;
