//! The whole loop, from a source to maps in memory.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod kube;
mod memory;
mod scenarios;
mod services;
mod source;
