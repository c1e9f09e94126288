//! Fragments: only the first carries ports.

use crate::{Addr, Port, Protocol};

/// A fragmented packet (RFC 791; RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Identification, in the order of bytes on the wire.
    pub id: u32,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always zero.
    pub zero: [u8; 3],
}

/// The ports that the first fragment carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FragmentEntry {
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
}
