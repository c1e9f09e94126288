//! Frontends: the addresses and ports of Services.

use bitflags::bitflags;

use crate::{Addr, AddressEntry, Port, Protocol};

/// An address, port and protocol of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
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
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FrontendEntry {
    /// Serves traffic from this node's processes and pods.
    pub inside: u32,
    /// Serves traffic that arrives from other machines.
    pub outside: u32,
    /// See [`FrontendFlags`].
    pub flags: FrontendFlags,
    /// When the agent wrote it, in seconds of the monotonic clock. Shown by the CLI only.
    pub programmed_s: u32,
}

impl FrontendEntry {
    /// Whether it is left to a process of the node: a cluster IP that the node itself has (NodeLocal
    /// DNSCache).
    #[inline(always)]
    pub const fn is_left_to_node(&self, address: AddressEntry) -> bool {
        address.is_of_node() && self.flags.is_of_cluster_ip()
    }
}

/// The kind of address that a frontend is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FrontendKind {
    /// A cluster IP.
    ClusterIp = 0,
    /// A node port, on an address of the node.
    NodePort = 1,
    /// An IP of `status.loadBalancer`.
    LoadBalancer = 2,
    /// One of `spec.externalIPs`.
    ExternalIp = 3,
}

/// Facts about a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct FrontendFlags(u32);

const KIND_SHIFT: u32 = 8;

bitflags! {
    impl FrontendFlags: u32 {
        /// Without backend, traffic from inside is dropped instead of rejected.
        const DROP_INSIDE = 1;
        /// Without backend, traffic from outside is dropped instead of rejected.
        const DROP_OUTSIDE = 2;
        /// Only the service's source ranges may use it.
        const SOURCE_RANGES = 4;
        /// The two bits of the kind, see [`FrontendFlags::kind`].
        const KIND = 3 << KIND_SHIFT;
    }
}

impl FrontendFlags {
    /// The flags of a frontend of this kind, no other set.
    pub const fn of_kind(kind: FrontendKind) -> Self {
        Self((kind as u32) << KIND_SHIFT)
    }

    #[inline(always)]
    const fn is_of_cluster_ip(self) -> bool {
        self.0 & Self::KIND.0 == (FrontendKind::ClusterIp as u32) << KIND_SHIFT
    }

    /// The kind.
    #[inline(always)]
    pub const fn kind(self) -> FrontendKind {
        match (self.0 >> KIND_SHIFT) & 3 {
            0 => FrontendKind::ClusterIp,
            1 => FrontendKind::NodePort,
            2 => FrontendKind::LoadBalancer,
            _ => FrontendKind::ExternalIp,
        }
    }
}
