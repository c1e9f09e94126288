//! A whole proxy between a client, backends that write down what they get, and a collector that
//! decodes what it is told.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod collector;
mod context;
mod export;
mod setup;
mod spans;
