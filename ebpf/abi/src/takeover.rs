//! Taking over from other rules of this node, and giving back to them; and from programs of another version.

/// Which packets of unknown connections are left to the kernel, as other rules may have the connection, or dropped, as
/// former programs may have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct Takeover(pub u32);

impl Takeover {
    /// None: no other rules.
    pub const DONE: Self = Self(0);
    /// TCP segments that do not open a connection: other rules are or were there.
    pub const BEGUN: Self = Self(1);
    /// All: other rules get the new connections.
    pub const GIVEN_BACK: Self = Self(2);

    /// Connections of former programs are being copied until this second of the monotonic clock, or until another value
    /// is written: what may be of one of them is dropped, and its sender repeats it.
    pub const fn copying_until(second: u32) -> Self {
        match second > Self::GIVEN_BACK.0 {
            true => Self(second),
            false => Self(Self::GIVEN_BACK.0 + 1),
        }
    }

    /// Whether connections are being copied.
    #[inline(always)]
    pub const fn is_copying(self, now_s: u32) -> bool {
        self.0 > Self::GIVEN_BACK.0 && now_s < self.0
    }
}
