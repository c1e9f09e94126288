//! Upstreams against real servers on the loopback.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod connections;
mod errors;
mod health;
mod http2;
mod proxy_header;
mod server;
mod setup;
mod tls;
