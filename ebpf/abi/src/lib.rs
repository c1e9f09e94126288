//! The bytes that cross between kernel and userspace.
//!
//! Every struct here is a map key, a map value or a read-only global. Sizes and offsets are
//! asserted in `layout.rs`; any change to them is a change of [`ABI_VERSION`], because pinned maps
//! outlive the agent that made them.
#![no_std]

mod addr;
mod address;
mod affinity;
mod backend;
mod clock;
mod config;
mod conntrack;
mod contents;
mod counters;
mod event;
mod fragment;
mod frontend;
mod layout;
mod link;
mod listener;
pub mod names;
mod range;
mod service;
mod socket;
mod source;
mod takeover;

pub use addr::{Addr, Family, Port, Protocol};
pub use address::{AddressEntry, SERVICE_RANGES, ServiceRange};
pub use affinity::{AffinityEntry, AffinityKey, MemberKey};
pub use backend::{BackendEntry, BackendKey, Location};
pub use clock::seconds;
pub use config::{DatapathConfig, KernelHelpers, LEFT_CGROUPS, PodSockets, Timeouts};
pub use conntrack::{CtEntry, CtFlags, CtState, FlowKey};
pub use contents::{CONTENTS, Contents, RECORDED_LAYOUTS};
pub use counters::{Fate, Reason, Traffic};
pub use event::{Event, EventSite, MonitorEntry};
pub use fragment::{FragmentEntry, FragmentKey, FragmentState};
pub use frontend::{FrontendEntry, FrontendFlags, FrontendKey, FrontendKind};
pub use layout::{LAYOUTS, Layout};
pub use link::{LINKS, LinkEntry, XDP_DEVICES};
pub use listener::{AddressFamily, ListenerKey};
pub use range::RangeKey;
pub use service::{REFUSED, ServiceEntry, ServiceFlags, ServiceLabel, SlotRange};
pub use socket::{SocketEntry, SocketKey};
pub use source::{SOURCES, SourceEntry};
pub use takeover::Takeover;

/// Version of everything in this crate; part of the pin path.
pub const ABI_VERSION: u32 = 3;
