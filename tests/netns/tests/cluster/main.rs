//! Tests on clusters of network namespaces, in one binary that is linked once.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod api;
mod beside;
mod chart;
mod clients;
#[path = "../common/mod.rs"]
mod common;
mod deploy;
mod doctor;
mod dsr;
mod gateways;
mod ingress;
mod layouts;
mod listeners;
mod migrate;
mod nodes;
mod operate;
mod page;
mod paths;
mod reuse;
mod security;
mod served;
mod services;
mod steering;
