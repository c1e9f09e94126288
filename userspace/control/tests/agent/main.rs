//! The whole loop, from a source to maps in memory.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod growth;
mod health;
mod kube;
mod listeners;
mod manifests;
mod memory;
mod services;
mod source;
