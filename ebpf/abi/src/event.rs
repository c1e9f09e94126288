//! What programs tell somebody who looks: connections that open, and packets that go no further.

use crate::{Addr, FlowKey, Port};

/// Where an [`Event`] was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct EventSite(pub u8);

impl EventSite {
    /// XDP.
    pub const XDP: Self = Self(0);
    /// TC.
    pub const TC: Self = Self(1);
    /// A socket hook.
    pub const SOCKET: Self = Self(2);
}

/// A record in the ring buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Event {
    /// Monotonic clock in nanoseconds.
    pub time_ns: u64,
    /// What came. At a socket the source is the network namespace (`Addr::of_netns`).
    pub flow: FlowKey,
    /// Source address after translation; unspecified if nothing was translated.
    pub source: Addr,
    /// Destination address after translation; unspecified if nothing was translated.
    pub destination: Addr,
    /// Source port after translation.
    pub source_port: Port,
    /// Destination port after translation.
    pub destination_port: Port,
    /// The service; 0 if nothing was translated.
    pub service: u32,
    /// The backend; 0 if nothing was translated.
    pub backend: u32,
    /// The device; 0 at a socket.
    pub ifindex: u32,
    /// The process; 0 unless at a socket.
    pub pid: u32,
    /// Number of the `Reason`.
    pub reason: u8,
    /// Where it was.
    pub site: EventSite,
    /// Always zero.
    pub zero: [u8; 2],
}

/// Whether somebody looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct MonitorEntry {
    /// Events are told until then, in seconds of the monotonic clock: who looks says so again and
    /// again, so that nothing is told to one who went away.
    pub until_s: u32,
    /// An event is told if a random number is not above this.
    pub share: u32,
    /// Events that the ring buffer had no room for.
    pub lost: u64,
}
