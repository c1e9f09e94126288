//! Addresses of frontends: looked up first for a packet of no known connection.

/// Facts about an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct AddressEntry(pub u32);

impl AddressEntry {
    /// Also used by the node or another machine: a packet without frontend is left to the kernel.
    pub const SHARED: Self = Self(0);
    /// Used by Services alone: an unused port is refused, and packets from it are dropped.
    pub const SERVICE: Self = Self(1);
}
