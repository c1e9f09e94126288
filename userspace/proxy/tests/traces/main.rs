//! A whole proxy between a client, backends that record what they receive, and a collector that decodes
//! spans.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod collector;
mod context;
mod export;
mod setup;
mod spans;
