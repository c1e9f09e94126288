//! Random packets, objects and bytes, and checks that must hold for all of them.
//!
//! A [`Target`] makes inputs, which are bytes, and runs them. An input describes its case completely, so a
//! failing one is saved as a file, and the tests run it from then on ([`regressions()`]).

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

/// Runs an input and returns the number of its cases: packets, objects or requests. It panics if a check
/// fails.
pub type Runner = Box<dyn FnMut(&[u8]) -> u64>;

/// A part of the system that gets random input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Whether it loads programs into the kernel.
    pub needs_root: bool,
    /// Makes a random input.
    pub make: fn(&mut Rng) -> Vec<u8>,
    /// Makes a runner for one thread.
    pub runner: fn() -> Result<Runner>,
}

/// All targets.
pub const TARGETS: &[Target] = &[packet::HOST, packet::KERNEL, objects::OBJECTS, http::HTTP];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
