//! The walk on the host, over collections in memory.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
};

use headgate_abi::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry, CtState,
    DatapathConfig, FlowKey, FragmentEntry, FragmentKey, FrontendEntry, FrontendFlags, FrontendKey,
    LinkEntry, Location, MemberKey, Reason, ServiceEntry, ServiceFlags, ServiceRange, SlotRange,
    SourceEntry, Takeover, Traffic,
};
use headgate_datapath::{
    Added, Hook, Memory, Route, RouteQuery, SlicePacket, Tables, Verdict, walk,
};

use crate::Outcome;

/// What the tables hold before the first packet.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Read-only configuration.
    pub config: DatapathConfig,
    /// Addresses.
    pub addresses: HashMap<Addr, AddressEntry>,
    /// Frontends.
    pub frontends: HashMap<FrontendKey, FrontendEntry>,
    /// Services by id.
    pub services: HashMap<u32, ServiceEntry>,
    /// Backend ids by slot.
    pub slots: Vec<u32>,
    /// Backends by id.
    pub backends: HashMap<u32, BackendEntry>,
    /// Ranges by service: the first address of a range, and its prefix length of 128 bits.
    pub ranges: Vec<(u32, Addr, u32)>,
    /// Backends of services with affinity.
    pub members: HashSet<MemberKey>,
    /// Addresses that the node sends from, by device.
    pub sources: HashMap<u32, SourceEntry>,
    /// Ranges of Service addresses.
    pub service_ranges: Vec<ServiceRange>,
    /// Which packets of unknown connections are left to the kernel.
    pub takeover: Takeover,
}

impl State {
    /// Adds a frontend that one service serves from inside and outside, and its address.
    pub fn add_frontend(
        &mut self,
        key: FrontendKey,
        service: u32,
        flags: FrontendFlags,
        address: AddressEntry,
    ) {
        let entry = FrontendEntry {
            inside: service,
            outside: service,
            flags,
            programmed_s: 0,
        };
        self.frontends.insert(key, entry);
        self.addresses.insert(key.address, address);
    }

    /// Adds a service that has these backends, by id, one slot each.
    pub fn add_service(&mut self, id: u32, backends: &[u32], affinity_timeout_s: u32) {
        let range = SlotRange {
            first: self.slots.len() as u32,
            count: backends.len() as u32,
        };
        self.slots.extend(backends);
        self.services.insert(
            id,
            ServiceEntry::new(range, affinity_timeout_s, ServiceFlags::default()),
        );
        if affinity_timeout_s != 0 {
            let members = backends.iter().map(|backend| MemberKey {
                service: id,
                backend: *backend,
            });
            self.members.extend(members);
        }
    }
}

/// Tables in memory.
#[derive(Debug)]
pub struct Host {
    /// What the agent wrote.
    pub state: State,
    /// Last backends of clients.
    pub affinities: HashMap<AffinityKey, AffinityEntry>,
    fragments: HashMap<FragmentKey, FragmentEntry>,
    /// What TC saw on the device, if not only frames for it just now.
    pub link: Option<LinkEntry>,
    /// Connections by flow.
    pub connections: HashMap<FlowKey, CtEntry>,
    /// Traffic by service.
    pub traffic: RefCell<HashMap<u32, Traffic>>,
    /// Emitted events.
    pub emitted: RefCell<Vec<(Reason, FlowKey)>>,
    /// Seconds on the clock.
    pub now_s: u32,
    /// Whether the process of a socket has opted out.
    pub has_opted_out: bool,
    /// The answer to every route query.
    pub route: Route,
    /// The last route query.
    pub asked: Cell<Option<RouteQuery>>,
    /// Maximum number of connection entries.
    pub capacity: usize,
}

impl Host {
    /// A host with this state and no connection.
    pub fn new(state: State) -> Self {
        Self {
            state,
            affinities: HashMap::new(),
            fragments: HashMap::new(),
            link: None,
            connections: HashMap::new(),
            traffic: RefCell::default(),
            emitted: RefCell::default(),
            now_s: 1000,
            has_opted_out: false,
            route: Route::STACK,
            asked: Cell::default(),
            capacity: usize::MAX,
        }
    }

    /// Walks one frame, at XDP if the hook has it.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let mut memory = with_room(frame);
        self.walk(hook, SlicePacket::new(&mut memory, frame.len()))
    }

    /// Walks one frame at TC.
    pub fn run_tc(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let mut memory = with_room(frame);
        let packet = SlicePacket::new(&mut memory, frame.len());
        self.walk(hook, packet.at_tc::<true>())
    }

    /// Walks one frame at TC of a device without link headers. The link header of `frame` is out of reach, and
    /// shows only what the kernel knows of the packet.
    pub fn run_l3(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let mut memory = with_room(frame);
        let packet = SlicePacket::new(&mut memory, frame.len());
        self.walk(hook, packet.at_tc::<false>())
    }

    fn walk<const IS_BEFORE_TC: bool, const HAS_LINK: bool>(
        &mut self,
        hook: Hook,
        mut packet: SlicePacket<'_, IS_BEFORE_TC, HAS_LINK>,
    ) -> Outcome {
        let mut memory = Memory::default();
        let outcome = walk(hook, &mut packet, self, &mut memory);
        Outcome {
            action: match outcome.verdict {
                Verdict::Pass => "pass",
                Verdict::Drop => "drop",
                Verdict::Answer => "answer",
                Verdict::Redirect | Verdict::RedirectNeighbour => "redirect",
            },
            reason: outcome.reason,
            frame: packet.frame().to_vec(),
        }
    }
}

/// Returns a frame with space to grow.
fn with_room(frame: &[u8]) -> Vec<u8> {
    let mut memory = frame.to_vec();
    memory.resize(frame.len() + 256, 0);
    memory
}

/// An address as a number whose first bit is the first on the wire.
fn bits_of(address: &Addr) -> u128 {
    let words = address.words().map(u32::from_be);
    words
        .into_iter()
        .fold(0, |bits, word| bits << 32 | u128::from(word))
}

impl Tables for Host {
    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn config(&self) -> &DatapathConfig {
        &self.state.config
    }

    fn address(&self, address: &Addr) -> Option<AddressEntry> {
        self.state.addresses.get(address).copied()
    }

    fn is_in_service_range(&self, address: &Addr) -> bool {
        let mut ranges = self.state.service_ranges.iter();
        ranges.any(|range| range.contains(address))
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendEntry> {
        self.state.frontends.get(key).copied()
    }

    fn service(&self, id: u32) -> Option<ServiceEntry> {
        self.state.services.get(&id).copied()
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.state.slots.get(index as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<BackendEntry> {
        self.state.backends.get(&id).copied()
    }

    fn local_backend(&self, key: &BackendKey) -> Option<u32> {
        let mut backends = self.state.backends.iter();
        let is_meant = |entry: &BackendEntry| {
            entry.location == Location::THIS_NODE && BackendKey::from(entry) == *key
        };
        backends.find_map(|(id, entry)| is_meant(entry).then_some(*id))
    }

    fn is_paused(&self, sender: &BackendKey) -> bool {
        let mut backends = self.state.backends.values();
        backends.any(|entry| BackendKey::from(entry) == *sender)
    }

    fn admits(&self, service: u32, client: &Addr) -> bool {
        self.state.ranges.iter().any(|(of, range, bits)| {
            let differing = bits_of(range) ^ bits_of(client);
            *of == service && (*bits == 0 || differing >> (128 - bits) == 0)
        })
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        self.affinities.get(key).copied()
    }

    fn put_affinity(&mut self, key: &AffinityKey, entry: &AffinityEntry) {
        self.affinities.insert(*key, *entry);
    }

    fn is_member(&self, key: &MemberKey) -> bool {
        self.state.members.contains(key)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.fragments.get(key).copied()
    }

    fn add_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        let is_new = !self.fragments.contains_key(key);
        self.fragments.entry(*key).or_insert(*entry);
        is_new
    }

    fn put_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) {
        self.fragments.insert(*key, *entry);
    }

    fn link(&self) -> LinkEntry {
        self.link.unwrap_or(LinkEntry {
            ifindex: 1,
            seen_s: self.now_s,
            address: SlicePacket::<true>::LINK,
            zero: [0; 2],
        })
    }

    fn put_link(&mut self, entry: &LinkEntry) {
        self.link = Some(*entry);
    }

    fn connection(&self, flow: &FlowKey) -> Option<CtEntry> {
        self.connections.get(flow).copied()
    }

    fn put_numbers(&mut self, flow: &FlowKey, entry: &CtEntry) {
        if let Some(live) = self.connections.get_mut(flow) {
            live.end = entry.end;
            live.acknowledged = entry.acknowledged;
            live.claimed = entry.claimed;
        }
    }

    fn add_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Added {
        if self.connections.contains_key(flow) {
            return Added::Exists;
        }
        match self.put_connection(flow, entry) {
            Ok(()) => Added::Yes,
            Err(_) => Added::Full,
        }
    }

    fn put_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Result<(), Reason> {
        if self.connections.len() >= self.capacity && !self.connections.contains_key(flow) {
            return Err(Reason::ConntrackFull);
        }
        self.connections.insert(*flow, *entry);
        Ok(())
    }

    fn touch_connection(&mut self, flow: &FlowKey, state: CtState, seen_s: u32) -> bool {
        let Some(entry) = self.connections.get_mut(flow) else {
            return false;
        };
        entry.state = state;
        entry.seen_s = seen_s;
        true
    }

    fn has_opted_out(&self) -> bool {
        self.has_opted_out
    }

    fn takeover(&self) -> Takeover {
        self.state.takeover
    }

    fn route(&self, query: &RouteQuery) -> Route {
        self.asked.set(Some(*query));
        self.route
    }

    fn source(&self, ifindex: u32) -> Option<SourceEntry> {
        self.state.sources.get(&ifindex).copied()
    }

    fn emit(&self, reason: Reason, flow: &FlowKey, _entry: &CtEntry) {
        self.emitted.borrow_mut().push((reason, *flow));
    }

    fn count(&self, service: u32, _backend: u32, bytes: u32, opens: bool) {
        let mut traffic = self.traffic.borrow_mut();
        let traffic = traffic.entry(service).or_default();
        traffic.connections += u64::from(opens);
        traffic.packets += 1;
        traffic.bytes += u64::from(bytes);
    }
}
