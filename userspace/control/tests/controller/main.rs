//! The controller of Gateways at an API server.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod cluster;
mod election;
mod made;
mod servers;
mod statuses;
