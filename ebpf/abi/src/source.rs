//! The addresses that the node sends from.

use crate::{Addr, Family};

/// Number of devices with addresses of their own.
pub const SOURCES: u32 = 1 << 12;

/// The addresses of a device, as masquerading chooses them. An unspecified one stands for those of the default route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SourceEntry {
    /// IPv4 address.
    pub v4: Addr,
    /// IPv6 address.
    pub v6: Addr,
}

impl SourceEntry {
    /// Returns the address of a family.
    #[inline(always)]
    pub const fn address(&self, family: Family) -> Addr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}
