//! Addresses that frontends are on: what is asked first about a packet of no known connection.

/// Facts about an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct AddressEntry(pub u32);

impl AddressEntry {
    /// Shared with the node or with machines elsewhere: what no frontend takes is not ours.
    pub const SHARED: Self = Self(0);
    /// Of services alone: ports that none uses are refused, and nobody sends from it.
    pub const SERVICE: Self = Self(1);
}
