//! State outside the packet: maps and helpers in the kernel, collections in tests.

use headgate_abi::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry, CtFlags,
    CtState, DatapathConfig, FlowKey, FragmentEntry, FragmentKey, FrontendEntry, FrontendKey,
    LinkEntry, MemberKey, Port, Protocol, Reason, ServiceEntry, SourceEntry, Takeover,
};

use crate::{parse::Parsed, sequence::follow, wire::Family};

/// Queries and changes of the walk. In the kernel maps and helpers implement them, in tests
/// ordinary collections.
pub trait Tables {
    /// Monotonic clock in seconds.
    fn now_s(&self) -> u32;
    /// Configuration fixed at load time.
    fn config(&self) -> &DatapathConfig;
    /// Whether packets are sent or accepted by DSR. Separate from [`Self::config`], so that DSR
    /// code is not compiled where it is known to be off.
    fn has_dsr(&self) -> bool {
        self.config().has_dsr()
    }

    /// Whether packets of this entry are sent encapsulated. Where DSR is off, entries from a time
    /// when it was on are translated like others: the backend's node knows the connection.
    #[inline(always)]
    fn is_encapsulating(&self, entry: &CtEntry) -> bool {
        self.has_dsr() && entry.flags.contains(CtFlags::ENCAPSULATES)
    }

    /// Facts about an address; `None` if it has no frontend.
    fn address(&self, address: &Addr) -> Option<AddressEntry>;
    /// Whether Services alone use an address.
    ///
    /// VERIFIER: no comparison with `Some`, which reads the field of `None` (LLVM 22).
    #[inline(always)]
    fn is_of_services(&self, address: &Addr) -> bool {
        self.address(address).unwrap_or_default().is_service()
    }
    /// Whether the cluster assigns an address to Services.
    fn is_in_service_range(&self, address: &Addr) -> bool;
    /// The frontend of an address, port and protocol.
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendEntry>;
    /// A service by id.
    fn service(&self, id: u32) -> Option<ServiceEntry>;
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<BackendEntry>;

    /// The id of a backend of this node.
    fn local_backend(&self, key: &BackendKey) -> Option<u32>;
    /// Whether this is a backend, asked while connections of former programs are copied.
    fn is_paused(&self, sender: &BackendKey) -> bool;

    /// Whether the source ranges of a service admit a client.
    fn admits(&self, service: u32, client: &Addr) -> bool;

    /// The backend that a client of a service got last.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry>;
    /// Stores the backend that a client got; dropped if the table is full.
    fn put_affinity(&mut self, key: &AffinityKey, entry: &AffinityEntry);
    /// Whether a backend is eligible for a service with affinity.
    fn is_member(&self, key: &MemberKey) -> bool;

    /// The entry of a fragmented packet, however old.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;
    /// Adds an entry; false if there is one.
    fn add_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) -> bool;
    /// Adds or replaces an entry; dropped if the table is full.
    fn put_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry);

    /// What TC saw on the device of the packet; an old entry if it saw nothing.
    fn link(&self) -> LinkEntry;
    /// Stores what TC saw.
    fn put_link(&mut self, entry: &LinkEntry);

    /// The connection entry of a flow, however old.
    fn connection(&self, flow: &FlowKey) -> Option<CtEntry>;
    /// Copies the connection entry of a packet's flow, however old, to `entry`; false if there is
    /// none. Both then take over the numbers of a plain segment ([`follow`]).
    #[inline(always)]
    fn observe(&mut self, parsed: &Parsed, entry: &mut CtEntry) -> bool {
        let Some(found) = self.connection(&parsed.flow) else {
            return false;
        };
        *entry = found;
        if follow(entry, parsed) {
            self.put_numbers(&parsed.flow, entry);
        }
        true
    }
    /// Updates the sequence numbers of an entry in place, if it exists.
    fn put_numbers(&mut self, flow: &FlowKey, entry: &CtEntry);
    /// Adds an entry unless there is one.
    fn add_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Added;
    /// Adds or replaces an entry.
    ///
    /// # Errors
    ///
    /// [`Reason::ConntrackFull`] if the table is full.
    fn put_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Result<(), Reason>;
    /// Updates an entry in place; false if it does not exist.
    fn touch_connection(&mut self, flow: &FlowKey, state: CtState, seen_s: u32) -> bool;

    /// Whether the process that a socket hook runs for belongs to a pod that has opted out.
    fn has_opted_out(&self) -> bool;

    /// Which packets of unknown connections are left to the kernel.
    fn takeover(&self) -> Takeover;

    /// Asks the kernel's routing table.
    fn route(&self, query: &RouteQuery) -> Route;

    /// The addresses that the node sends from by a device, if it has any there.
    fn source(&self, ifindex: u32) -> Option<SourceEntry>;

    /// Counts a translated packet; `opens`: it opened the connection.
    fn count(&self, service: u32, backend: u32, bytes: u32, opens: bool);

    /// Emits an event to the monitor: a connection opened, or a packet is dropped or rejected.
    /// `entry` is the translation, valid only if the packet is forwarded.
    fn emit(&self, reason: Reason, flow: &FlowKey, entry: &CtEntry);
}

/// Result of [`Tables::add_connection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The entry was added.
    Yes,
    /// An entry exists, and stays.
    Exists,
    /// The table is full.
    Full,
}

/// The packet to route.
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
    /// Length with network header, in bytes; of a GSO frame, of all its segments.
    pub total_len: u16,
    /// Length of the outer headers, in bytes, which `total_len` includes and the frame lacks yet.
    pub outer_len: u16,
    /// TCP or UDP: of the inner packet, if it is to be encapsulated.
    pub inner_protocol: Protocol,
}

/// Device and link addresses of the next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the device.
    pub ifindex: u32,
    /// Link address of the next hop.
    pub destination: [u8; 6],
    /// Link address of the device.
    pub source: [u8; 6],
}

/// Answer to a [`RouteQuery`].
///
/// VERIFIER: not an enum with fields. The fields of absent variants would be undefined registers,
/// which the compiler (LLVM 22) may spill to the stack and the verifier does not let it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the routing table says.
    pub result: RouteResult,
    /// The device, unless the result is [`RouteResult::Stack`] or [`RouteResult::Unreachable`]; with its
    /// addresses for [`RouteResult::NextHop`].
    pub next_hop: NextHop,
    /// For [`RouteResult::TooBig`]: the MTU of the next hop, in bytes.
    pub mtu: u16,
}

/// What the kernel's routing table says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteResult {
    /// Send it to this next hop.
    NextHop,
    /// Send it out of this device; the kernel finds the next hop's link address.
    Neighbour,
    /// This hook cannot send it; a later hook can.
    NotHere,
    /// The destination is this machine, or the kernel does not forward here.
    Stack,
    /// It is larger than the MTU of the next hop.
    TooBig,
    /// There is no route.
    Unreachable,
}

impl Route {
    /// Leaves the packet to the kernel.
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
