//! Golden packets through the host walk and the kernel.
//!
//! [`Host`] and [`Kernel`] run the same walk over the same state; a test asks both and compares.

mod host;
mod kernel;
mod packets;

pub use host::{Host, State};
pub use kernel::Kernel;
pub use packets::{Builder, describe, is_checksum_right, mutations};

/// What came of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `pass`, `drop`, `answer` or `redirect`.
    pub action: &'static str,
    /// The reason that was counted.
    pub reason: headgate_abi::Reason,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}
