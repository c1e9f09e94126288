//! Events for the monitor: connections that open, packets that are dropped or rejected.

use crate::{Addr, FlowKey, Port};

/// The hook of an [`Event`]. Not flags: one of these numbers.
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
    /// The flow before translation. At a socket its source is the network namespace
    /// (`Addr::of_netns`).
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
    /// The hook.
    pub site: EventSite,
    /// Always zero.
    pub zero: [u8; 2],
}

/// The monitor's lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct MonitorEntry {
    /// End of the lease, in seconds of the monotonic clock. The monitor renews it; after it no
    /// event is emitted.
    pub until_s: u32,
    /// Sampling threshold: an event is emitted if a random `u32` is at most this.
    pub share: u32,
    /// Events lost because the ring buffer was full.
    pub lost: u64,
}
