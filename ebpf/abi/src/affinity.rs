//! `sessionAffinity: ClientIP`.

use crate::{Addr, clock};

/// A client of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct AffinityKey {
    /// Address of the client; for a socket, [`Addr::of_netns`].
    pub client: Addr,
    /// Service id.
    pub service: u32,
}

/// The backend that a client got last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct AffinityEntry {
    /// Backend id.
    pub backend: u32,
    /// When the client last opened a connection, in seconds of the monotonic clock.
    pub seen_s: u32,
}

impl AffinityEntry {
    /// Seconds since the client's last connection.
    #[inline(always)]
    pub const fn age_s(&self, now_s: u32) -> u32 {
        clock::age_s(self.seen_s, now_s)
    }
}

/// A backend that is eligible for a service with affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct MemberKey {
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}
