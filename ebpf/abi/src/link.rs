//! The link addresses of devices.

use crate::clock;

/// Number of entries; a device's is at its index modulo this number.
pub const LINKS: u32 = 256;

/// Number of devices that XDP sends frames of other devices to.
pub const XDP_DEVICES: u32 = 64;

/// A device whose link address the kernel has shown: TC has seen a frame that was for this machine.
/// XDP compares its frames with it, because the kernel does not name the receiver there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct LinkEntry {
    /// Index of the device; 0 if the entry is not in use.
    pub ifindex: u32,
    /// When TC last saw such a frame, in seconds of the monotonic clock.
    pub seen_s: u32,
    /// Destination of that frame.
    pub address: [u8; 6],
    /// Always zero.
    pub zero: [u8; 2],
}

impl LinkEntry {
    /// Returns the seconds since that frame.
    #[inline(always)]
    pub const fn age_s(&self, now_s: u32) -> u32 {
        clock::age_s(self.seen_s, now_s)
    }
}
