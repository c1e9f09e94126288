//! Golden packets and the walk on the host, without any BPF object.
//!
//! The cases in `cases/` are tests of two packages: of `headgate-datapath` on the host alone, and of
//! `headgate-prog`, which runs every frame through the kernel as well and compares byte by byte. Each
//! package brings a function `load` that makes a [`Replica`], or none.

mod builder;
mod host;

pub use builder::{Builder, describe, is_checksum_right, mutations};
use headgate_abi::{Reason, Traffic};
use headgate_datapath::Hook;
pub use host::{Host, State};

/// The result of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `pass`, `drop`, `answer` or `redirect`.
    pub action: &'static str,
    /// The reason that was counted.
    pub reason: Reason,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Outcome {
    /// Whether XDP leaves the packet unchanged to TC, which decides again.
    pub fn is_left_to_tc(&self) -> bool {
        matches!(
            self.reason,
            Reason::PartialChecksum | Reason::ForTc | Reason::LinkUnknown
        )
    }
}

/// A second place that runs the same walk, with tables of its own: the kernel. It panics if it cannot
/// run a frame.
pub trait Replica {
    /// Runs one frame through XDP of [`Hook::External`].
    fn run_xdp(&mut self, frame: &[u8]) -> Outcome;
    /// Runs one frame through TC of a hook.
    fn run_tc(&mut self, hook: Hook, frame: &[u8]) -> Outcome;
    /// Number of connection entries.
    fn connections(&self) -> usize;
    /// Traffic of a service.
    fn traffic(&self, service: u32) -> Traffic;
}
