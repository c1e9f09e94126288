//! What a walk takes and gives back.

use headgate_abi::{BackendKey, CtEntry, FlowKey, FragmentKey, Reason};

/// Where a packet is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Arriving on a device that leads out of the node: XDP, or TC ingress.
    External,
    /// Arriving from a pod of this node: TC ingress of the host's end.
    Pod,
    /// Leaving through any of these devices: TC egress. Only replies are translated here.
    Egress,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it to the kernel, as it is now.
    Pass,
    /// Drop it.
    Drop,
    /// Send it back through the device it came from.
    Answer,
    /// Send it through another device.
    Redirect,
    /// Send it through another device; the kernel fills in the link addresses.
    RedirectNeighbour,
}

/// What to do with a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// What to do.
    pub verdict: Verdict,
    /// Index of the device to redirect to.
    pub ifindex: u32,
    /// Why: to be counted.
    pub reason: Reason,
    /// Whether it made a connection.
    pub opens: bool,
}

/// What a walk writes down on its way; its contents before do not matter. The caller brings it,
/// because the kernel's stack of 512 bytes could not hold it beside the rest.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Context {
    /// The flow of a packet that is told about. Not of every packet, for a copy of it takes a tenth
    /// of the time that an established connection's packet takes.
    pub(crate) flow: FlowKey,
    /// The entry for the packet's flow.
    pub(crate) entry: CtEntry,
    /// The flow of the other direction.
    pub(crate) other_flow: FlowKey,
    /// The entry for it.
    pub(crate) other: CtEntry,
    /// If the packet is a fragment, of what.
    pub(crate) fragment: FragmentKey,
    /// If the packet is in a capsule, whom it is for.
    pub(crate) backend: BackendKey,
}
