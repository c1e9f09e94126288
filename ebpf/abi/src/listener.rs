//! Sockets that connections are steered to.

use crate::{Port, Protocol};

/// What a client connects to, on any address of the node except loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ListenerKey {
    /// Port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Of the packets.
    pub family: AddressFamily,
}

/// An address family as Linux numbers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct AddressFamily(pub u8);

impl AddressFamily {
    /// IPv4.
    pub const INET: Self = Self(2);
    /// IPv6.
    pub const INET6: Self = Self(10);
}
