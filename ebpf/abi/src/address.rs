//! Addresses of frontends: looked up first for a packet of no known connection.

use crate::Addr;

/// Facts about an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct AddressEntry(pub u32);

impl AddressEntry {
    /// Also used by another machine: a packet without frontend is left to the kernel.
    pub const SHARED: Self = Self(0);
    /// Used by Services alone: an unused port is refused, and packets from it are dropped.
    pub const SERVICE: Self = Self(1);
    /// Also used by the node: as [`Self::SHARED`], and the node may open connections from it.
    pub const NODE: Self = Self(4);

    /// The same address with an endpoint behind it, or without one.
    #[must_use]
    pub const fn with_echo(self, answers: bool) -> Self {
        match answers {
            true => Self(self.0 | 2),
            false => Self(self.0 & !2),
        }
    }

    /// Whether Services alone use the address.
    #[inline(always)]
    pub const fn is_service(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether the node has the address itself.
    #[inline(always)]
    pub const fn is_of_node(self) -> bool {
        self.0 & 4 != 0
    }

    /// Whether echo requests are answered: a Service of the address has a ready endpoint, and the
    /// node does not have the address itself.
    #[inline(always)]
    pub const fn answers_echo(self) -> bool {
        self.0 & 2 != 0
    }
}

/// Number of ranges of Service addresses.
pub const SERVICE_RANGES: u32 = 8;

/// A range of addresses that the cluster assigns to Services (ServiceCIDR). Entries in use come
/// first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ServiceRange {
    /// The first address.
    pub address: Addr,
    /// The bits that all addresses share; 0 if the entry is not in use.
    pub mask: Addr,
}

impl ServiceRange {
    /// Whether the entry is in use.
    #[inline(always)]
    pub const fn is_used(&self) -> bool {
        self.mask.words()[0] != 0
    }

    /// Whether an address is in the range.
    #[inline(always)]
    pub const fn contains(&self, address: &Addr) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (address.words(), self.mask.words());
        let [i, j, k, l] = self.address.words();
        a & e == i && b & f == j && c & g == k && d & h == l
    }
}
