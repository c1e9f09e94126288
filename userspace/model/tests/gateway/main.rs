//! Verdicts and routes of the Gateway API. Names of tests begin with the number of the behaviour.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod addresses;
mod attachment;
mod build;
mod grpc;
mod infrastructure;
mod listeners;
mod objects;
mod policies;
mod policy_crd;
mod properties;
mod references;
mod repeat;
mod request;
mod routes;
mod statuses;
mod streams;
mod tls;
