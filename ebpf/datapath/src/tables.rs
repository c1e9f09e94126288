//! Everything the logic may ask.

use headgate_abi::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry, CtFlags,
    CtState, DatapathConfig, FlowKey, FragmentEntry, FragmentKey, FrontendEntry, FrontendKey,
    MemberKey, Port, Protocol, Reason, ServiceEntry,
};

use crate::wire::Family;

/// The questions and the changes that the walk may ask for. In the kernel they are answered by
/// maps and helpers, in tests by ordinary collections.
pub trait Tables {
    /// Monotonic clock in seconds.
    fn now_s(&self) -> u32;
    /// What was fixed at load time.
    fn config(&self) -> &DatapathConfig;
    /// Whether packets are sent or accepted by DSR. Apart from [`Self::config`], so that what DSR
    /// needs is not even compiled where it is known that it is off.
    fn has_dsr(&self) -> bool {
        self.config().has_dsr()
    }

    /// Whether packets of this entry are sent on in capsules. Where DSR is off, what is left of a time
    /// when it was on is translated like anything else: a backend's node knows the connection.
    #[inline(always)]
    fn is_encapsulating(&self, entry: &CtEntry) -> bool {
        self.has_dsr() && entry.flags.contains(CtFlags::ENCAPSULATES)
    }

    /// What is known of an address; `None` if no frontend is on it.
    fn address(&self, address: &Addr) -> Option<AddressEntry>;
    /// What answers on an address and port.
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendEntry>;
    /// A service by id.
    fn service(&self, id: u32) -> Option<ServiceEntry>;
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<BackendEntry>;

    /// The id of a backend of this node.
    fn local_backend(&self, key: &BackendKey) -> Option<u32>;

    /// Whether the source ranges of a service admit a client.
    fn admits(&self, service: u32, client: &Addr) -> bool;

    /// The backend that a client of a service got last.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry>;
    /// Remembers which backend a client got. If there is no room, it is forgotten.
    fn put_affinity(&mut self, key: &AffinityKey, entry: &AffinityEntry);
    /// Whether a backend is eligible for a service with affinity.
    fn is_member(&self, key: &MemberKey) -> bool;

    /// The ports that the first fragment carried.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;
    /// Remembers the ports of a first fragment. If there is no room, they are forgotten.
    fn put_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry);

    /// The connection entry of a flow, however old.
    fn connection(&self, flow: &FlowKey) -> Option<CtEntry>;
    /// Adds an entry unless there is one.
    fn add_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Added;
    /// Adds or replaces an entry; [`Reason::ConntrackFull`] if it cannot.
    fn put_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Result<(), Reason>;
    /// Updates an entry in place; false if there is none.
    fn touch_connection(&mut self, flow: &FlowKey, state: CtState, seen_s: u32) -> bool;

    /// Where the kernel would send this.
    fn route(&self, query: &RouteQuery) -> Route;

    /// Counts a translated packet; `opens` says that it made the connection.
    fn count(&self, service: u32, backend: u32, bytes: u32, opens: bool);

    /// Tells whoever looks that a connection opened, or that something goes no further.
    /// `entry` says what it is translated to, and means nothing unless it is forwarded.
    fn emit(&self, reason: Reason, flow: &FlowKey, entry: &CtEntry);
}

/// Result of [`Tables::add_connection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The entry is there now.
    Yes,
    /// There was one already, and it stays.
    Exists,
    /// No room.
    Full,
}

/// What a route depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuery {
    /// Family of the packet.
    pub family: Family,
    /// Source address after translation.
    pub source: Addr,
    /// Destination address after translation.
    pub destination: Addr,
    /// Source port after translation.
    pub source_port: Port,
    /// Destination port after translation.
    pub destination_port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Length with network header, in bytes; of many segments in one, of all together.
    pub total_len: u16,
    /// How many of these are headers of a capsule, which is not around the packet yet.
    pub outer_len: u16,
    /// TCP or UDP, of the packet inside if there is a capsule.
    pub inner_protocol: Protocol,
}

/// Addresses of the next link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the device.
    pub ifindex: u32,
    /// Next hop.
    pub destination: [u8; 6],
    /// Our address on the device.
    pub source: [u8; 6],
}

/// Answer to a [`RouteQuery`].
///
/// VERIFIER: not an enum with fields, for the fields of variants that are not there would be
/// undefined registers, which the compiler (LLVM 22) may save on the stack and the verifier does
/// not let it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the kernel knows.
    pub result: RouteResult,
    /// Device for [`RouteResult::Neighbour`], device and addresses for [`RouteResult::NextHop`].
    pub next_hop: NextHop,
    /// For [`RouteResult::TooBig`]: bytes with network header that the next hop takes.
    pub mtu: u16,
}

/// What the kernel knows about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteResult {
    /// Send it there.
    NextHop,
    /// Send it out of this device and let the kernel find the next hop's link address.
    Neighbour,
    /// This hook cannot send it; a later one can.
    NotHere,
    /// The destination is this machine, or the kernel does not forward here.
    Stack,
    /// It does not fit the next hop.
    TooBig,
    /// There is no way.
    Unreachable,
}

impl Route {
    /// Leave it to the kernel.
    pub const STACK: Self = Self {
        result: RouteResult::Stack,
        next_hop: NextHop {
            ifindex: 0,
            destination: [0; 6],
            source: [0; 6],
        },
        mtu: 0,
    };
}
