//! Backends.

use crate::{Addr, Port, Protocol};

/// Where a backend is, seen from this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct Location(u8);

impl Location {
    /// On another node of the cluster.
    pub const OTHER_NODE: Self = Self(0);
    /// On this node.
    pub const THIS_NODE: Self = Self(1);
    /// On no node that the API names: it cannot read encapsulated packets.
    pub const OUTSIDE: Self = Self(2);
}

/// One backend; its index in the map is its id. Id 0 is never used.
///
/// Written before any slot names it, and cleared after the last slot that named it was replaced. A
/// program that read a slot just before that may find an empty entry (port 0), and drops the packet
/// (`Reason::StaleBackend`). Clearing keeps the address, so that a program that reads meanwhile finds
/// the backend or an empty entry. Another backend gets the id only after two seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct BackendEntry {
    /// Address of the pod or host.
    pub address: Addr,
    /// Target port; 0 if the id is not in use.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it is.
    pub location: Location,
}

impl BackendEntry {
    /// Whether no backend has this id: nothing can be sent to port 0.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.port.word() == 0
    }
}

/// The backend that the outer headers of an encapsulated packet name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct BackendKey {
    /// Address of the pod or host.
    pub address: Addr,
    /// Target port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always zero.
    pub zero: u8,
}

impl From<&BackendEntry> for BackendKey {
    fn from(entry: &BackendEntry) -> Self {
        Self {
            address: entry.address,
            port: entry.port,
            protocol: entry.protocol,
            zero: 0,
        }
    }
}
