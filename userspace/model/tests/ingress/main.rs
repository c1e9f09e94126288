//! Routes from Ingresses. Names of tests begin with the number of the behaviour.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod aliases;
mod annotations;
mod backends;
mod build;
mod canaries;
mod classes;
mod conditions;
mod defaults;
mod exceptions;
mod guide;
mod hosts;
mod merging;
mod migration;
mod owners;
mod passthrough;
mod paths;
mod patterns;
mod properties;
mod tls;
mod values;
