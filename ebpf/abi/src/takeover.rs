//! Taking over from other rules of this node, and giving back to them.

/// Which packets of unknown connections to frontends are left to the kernel, as other rules may have the
/// connection.
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
}
