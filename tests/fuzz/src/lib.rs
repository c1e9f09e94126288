//! Random packets, objects and bytes, and what must hold whatever they are.
//!
//! A [`Target`] makes inputs, which are bytes, and runs them. An input says everything about its case,
//! so one that failed is kept as a file and run by the tests from then on ([`regressions()`]).

mod http;
mod input;
mod objects;
mod packet;
mod regressions;
mod run;

use anyhow::Result;
use fastrand::Rng;

pub use regressions::{regressions, save};
pub use run::{Failure, Limit, Outcome, run};

/// Runs an input, and returns how many cases there were in it: packets, objects, requests. It panics
/// if something does not hold.
pub type Runner = Box<dyn FnMut(&[u8]) -> u64>;

/// Something that is fed with random input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Whether it loads programs into the kernel.
    pub needs_root: bool,
    /// Makes an input.
    pub make: fn(&mut Rng) -> Vec<u8>,
    /// A runner for one thread.
    pub runner: fn() -> Result<Runner>,
}

/// All targets.
pub const TARGETS: &[Target] = &[packet::HOST, packet::KERNEL, objects::OBJECTS, http::HTTP];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
