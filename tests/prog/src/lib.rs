//! Golden packets through the host walk and the kernel.
//!
//! [`Host`] and [`Kernel`] run the same walk over the same state; a test asks both and compares.

mod host;
mod kernel;
mod packets;

use headgate_abi::Reason;
pub use host::{Host, State};
pub use kernel::Kernel;
pub use packets::{Builder, describe, is_checksum_right, mutations};

/// What came of a packet.
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
    /// Whether XDP left the packet as it is to TC, which has an opinion of its own.
    pub fn is_left_to_tc(&self) -> bool {
        matches!(self.reason, Reason::PartialChecksum | Reason::ForTc)
    }
}
