//! What we answer on.

use crate::{Addr, Port, Protocol};

/// An address, port and protocol of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FrontendKey {
    /// Cluster IP, node address, load-balancer IP or external IP.
    pub address: Addr,
    /// Port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always zero.
    pub zero: u8,
}

impl FrontendKey {
    /// The key of a frontend.
    #[inline(always)]
    pub const fn new(address: Addr, port: Port, protocol: Protocol) -> Self {
        Self {
            address,
            port,
            protocol,
            zero: 0,
        }
    }
}

/// Which services serve a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FrontendEntry {
    /// Serves traffic from this node's processes and pods.
    pub inside: u32,
    /// Serves traffic that arrives from other machines.
    pub outside: u32,
    /// See [`FrontendFlags`].
    pub flags: FrontendFlags,
    /// When the agent wrote it, in seconds of the monotonic clock. For people.
    pub programmed_s: u32,
}

/// Facts about a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct FrontendFlags(pub u32);

impl FrontendFlags {
    /// Without backend, traffic from inside is dropped instead of rejected.
    pub const DROP_INSIDE: Self = Self(1);
    /// Without backend, traffic from outside is dropped instead of rejected.
    pub const DROP_OUTSIDE: Self = Self(2);
    /// Only the service's source ranges may use it.
    pub const SOURCE_RANGES: Self = Self(4);
    /// The kind: two bits, see [`FrontendFlags::kind`].
    pub const KIND_SHIFT: u32 = 8;
    /// The kind of node ports.
    pub const NODE_PORT: u32 = 1;

    /// Whether all of `other` is set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// 0 cluster IP, 1 node port, 2 load balancer, 3 external IP.
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        (self.0 >> Self::KIND_SHIFT) & 3
    }
}
