//! Hook, outcome and working memory of a walk.

use headgate_abi::{BackendKey, CtEntry, FlowKey, FragmentEntry, FragmentKey, Reason};

/// Where in the kernel a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of a device that leads out of the node: XDP, or TC ingress.
    External,
    /// Ingress from a pod of this node: TC ingress of the host end of its device.
    Pod,
    /// Egress of any of these devices: TC egress. Only replies are translated here.
    Egress,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it to the kernel, as it is now.
    #[default]
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
    /// Why, as counted.
    pub reason: Reason,
    /// Whether the packet opened a connection.
    pub opens: bool,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            verdict: Verdict::Pass,
            ifindex: 0,
            reason: Reason::NotOurs,
            opens: false,
        }
    }
}

/// What the steps of a walk share beside the packet's headers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Context {
    /// The flow, set only if an event may be emitted: the copy costs 10 % of the time of an
    /// established connection's packet.
    pub(crate) flow: FlowKey,
    /// The entry for the packet's flow.
    pub(crate) entry: CtEntry,
    /// The flow of the other direction.
    pub(crate) other_flow: FlowKey,
    /// The entry for it.
    pub(crate) other: CtEntry,
    /// The key of the datagram, if the packet is a fragment.
    pub(crate) fragment: FragmentKey,
    /// Its entry.
    pub(crate) datagram: FragmentEntry,
    /// The key of the datagram after translation.
    pub(crate) sent: FragmentKey,
    /// The entry that reserves it.
    pub(crate) reservation: FragmentEntry,
    /// The backend that the outer headers name, if the packet is encapsulated.
    pub(crate) backend: BackendKey,
}
