//! Fragments: only the first carries ports.

use crate::{Addr, Port, Protocol, clock};

/// A fragmented packet (RFC 791; RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Identification.
    pub id: u32,
    /// TCP or UDP for IPv4; 0 for IPv6.
    pub protocol: Protocol,
    /// Always zero.
    pub zero: [u8; 3],
}

/// State of a fragmented packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct FragmentState(pub u8);

impl FragmentState {
    /// Nothing was forwarded yet. Not stored.
    pub const NEW: Self = Self(0);
    /// The first fragment was forwarded: later ones follow it.
    pub const OPEN: Self = Self(1);
    /// All data was forwarded.
    pub const ENDED: Self = Self(2);
    /// Two packets have this key: their fragments are dropped.
    pub const MIXED: Self = Self(3);
    /// The key is one after translation, and so its identification is in use.
    pub const RESERVED: Self = Self(4);
}

/// What the first fragment carried, and what was forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FragmentEntry {
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// See [`FragmentState`].
    pub state: FragmentState,
    /// Length of the whole data, in bytes; 0 before the last fragment was seen.
    pub end: u16,
    /// Bytes of data forwarded.
    pub forwarded: u32,
    /// Identification after translation.
    pub id: u32,
    /// When the first fragment was seen, in seconds of the monotonic clock.
    pub seen_s: u32,
}

impl FragmentEntry {
    /// Returns the seconds since the first fragment.
    #[inline(always)]
    pub const fn age_s(&self, now_s: u32) -> u32 {
        clock::age_s(self.seen_s, now_s)
    }
}
