//! `loadBalancerSourceRanges`.

use crate::Addr;

/// Service and client address: the key of a longest-prefix match, whose prefix always includes the
/// whole service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct RangeKey {
    /// Id of the service that serves the frontend's traffic from outside.
    pub service: u32,
    /// First address of the range, or the client's.
    pub address: Addr,
}

impl RangeKey {
    /// Bits that a whole key has.
    pub const BITS: u32 = 160;
    /// Bits before the IPv4 address in a key: the service, and the prefix of mapped addresses.
    pub const BITS_BEFORE_V4: u32 = 32 + 96;
    /// Bits before the IPv6 address in a key.
    pub const BITS_BEFORE_V6: u32 = 32;
}
