//! The whole loop of the proxy, from a source to a server that records its calls.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod edge;
mod events;
mod gateways;
mod input;
mod kube;
mod order;
mod server;
mod source;
mod sources;
mod status;
