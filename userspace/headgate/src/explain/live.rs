//! The live maps as the tables of a walk. Each lookup is noted as a step; what the walk writes stays in
//! this process.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use headgate_abi::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry, CtFlags,
    CtState, DatapathConfig, FlowKey, FragmentEntry, FragmentKey, FrontendEntry, FrontendKey,
    LinkEntry, Location, MemberKey, REFUSED, Reason, SERVICE_RANGES, ServiceEntry, ServiceFlags,
    SourceEntry, Takeover,
};
use headgate_datapath::{Added, Direction, Route, RouteQuery, SlicePacket, Tables, is_expired};
use headgate_dataplane::now_s;

use crate::view::{View, client, endpoint, protocol};

/// Live maps, read only, with the writes of this walk on top.
pub(super) struct LiveTables<'a> {
    view: &'a View,
    config: DatapathConfig,
    now_s: u32,
    connections: HashMap<FlowKey, CtEntry>,
    affinities: HashMap<AffinityKey, AffinityEntry>,
    fragments: HashMap<FragmentKey, FragmentEntry>,
    steps: RefCell<Vec<String>>,
    /// Entries of the live maps that the walk used.
    pub(super) used: RefCell<UsedEntries>,
}

/// Entries of the live maps that a walk used.
#[derive(Default)]
pub(super) struct UsedEntries {
    pub(super) connections: HashMap<FlowKey, CtEntry>,
    pub(super) affinities: HashMap<AffinityKey, AffinityEntry>,
}

impl<'a> LiveTables<'a> {
    pub(super) fn new(view: &'a View, config: DatapathConfig) -> Self {
        Self {
            view,
            config,
            now_s: now_s(),
            connections: HashMap::new(),
            affinities: HashMap::new(),
            fragments: HashMap::new(),
            steps: RefCell::default(),
            used: RefCell::default(),
        }
    }

    /// Takes the steps noted since the last call, without duplicates.
    pub(super) fn take_steps(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut steps = self.steps.take();
        steps.retain(|step| seen.insert(step.clone()));
        steps
    }

    fn note(&self, step: String) {
        self.steps.borrow_mut().push(step);
    }

    fn describe_connection(&self, flow: &FlowKey, entry: &CtEntry) -> String {
        let age_s = self.now_s.saturating_sub(entry.seen_s);
        let what = match (
            is_expired(&self.config, entry, flow.protocol, self.now_s),
            Direction::of(entry),
        ) {
            (true, _) => "an expired connection",
            (false, Direction::Original) => "an open connection",
            (false, Direction::Reply) => "replies of an open connection",
        };
        let of = match entry.service {
            0 => "to no Service".into(),
            id => format!("of Service {}", self.view.service_name(id)),
        };
        let state = entry.state.name();
        if entry.flags.contains(CtFlags::OWN) {
            return format!(
                "known as a connection that this node opened ({state}, last packet {age_s} s ago): the kernel gets it"
            );
        }
        if entry.flags.contains(CtFlags::ENCAPSULATES) {
            return format!(
                "known as {what} {of} ({state}, last packet {age_s} s ago): the whole packet is forwarded to {}",
                endpoint(entry.destination, entry.destination_port),
            );
        }
        let by_kernel = match entry.flags.contains(CtFlags::KERNEL) {
            true => " by the kernel's NAT",
            false => "",
        };
        format!(
            "known as {what} {of} ({state}, last packet {age_s} s ago): {} → {} becomes {} → {}{by_kernel}",
            endpoint(flow.source, flow.source_port),
            endpoint(flow.destination, flow.destination_port),
            endpoint(entry.source, entry.source_port),
            endpoint(entry.destination, entry.destination_port),
        )
    }

    /// Notes that the source of a new connection is translated, by the entry for its replies.
    fn note_source(&self, flow: &FlowKey, entry: &CtEntry) {
        let source = endpoint(flow.destination, flow.destination_port);
        if source != endpoint(entry.destination, entry.destination_port) {
            self.note(format!(
                "replies must return through this node, so the source becomes {source}"
            ));
        }
    }
}

impl Tables for LiveTables<'_> {
    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn config(&self) -> &DatapathConfig {
        &self.config
    }

    fn address(&self, address: &Addr) -> Option<AddressEntry> {
        let entry = self.view.maps.addresses.get(address, 0).ok();
        let name = IpAddr::from(*address);
        self.note(match entry {
            None => format!("{name} is not an address of a Service"),
            Some(entry) if entry.is_service() => format!("{name} is an address of Services only"),
            Some(_) => {
                format!("{name} is an address of Services, and also of this node or another host")
            }
        });
        entry
    }

    fn is_in_service_range(&self, address: &Addr) -> bool {
        let mut ranges =
            (0..SERVICE_RANGES).filter_map(|index| self.view.maps.service_ranges.get(index));
        let is_in_range = ranges.any(|range| range.is_used() && range.contains(address));
        if is_in_range {
            let name = IpAddr::from(*address);
            self.note(format!("the cluster assigns {name} to Services"));
        }
        is_in_range
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendEntry> {
        let entry = self.view.maps.frontends.get(key, 0).ok();
        let name = endpoint(key.address, key.port);
        let protocol = protocol(key.protocol);
        self.note(match &entry {
            None => format!("no Service uses {name} over {protocol}"),
            Some(entry) => match self.view.frontend(key, entry) {
                Ok(row) => format!(
                    "{name} over {protocol} is {} of Service {} (external traffic policy {}, \
                     internal {}){}",
                    row.kind,
                    row.service,
                    row.policy,
                    row.internal_policy,
                    row.listener
                        .map_or_else(String::new, |listener| format!(": {listener}"))
                ),
                Err(error) => format!("{name} over {protocol}: {error}"),
            },
        });
        entry
    }

    fn service(&self, id: u32) -> Option<ServiceEntry> {
        let entry = self.view.maps.services.get(id)?;
        let (count, slots) = (self.view.backends_of(id).len(), entry.slots().count);
        let how = match entry.flags.contains(ServiceFlags::CONSISTENT) {
            true => format!("by a Maglev table of {slots} slots"),
            false => "from a plain list".into(),
        };
        let affinity = match entry.affinity_timeout_s {
            0 => String::new(),
            timeout_s => format!(", with session affinity for {timeout_s} s"),
        };
        self.note(format!(
            "the Service has {count} eligible backends, chosen {how}{affinity}"
        ));
        Some(entry)
    }

    fn slot(&self, index: u32) -> Option<u32> {
        let id = self.view.maps.slots.get(index)?;
        self.note(format!(
            "the hash of the client selects slot {index} in the array of all slots"
        ));
        if id == REFUSED {
            self.note(
                "this slot refuses: a backend of the route is not valid, or has no eligible endpoint"
                    .into(),
            );
        }
        Some(id)
    }

    fn backend(&self, id: u32) -> Option<BackendEntry> {
        let entry = self.view.maps.backends.get(id)?;
        let node = match entry.location {
            Location::THIS_NODE => "on this node",
            Location::OUTSIDE => "outside of the cluster",
            _ => "on another node",
        };
        self.note(format!(
            "the backend is {}, {node}",
            endpoint(entry.address, entry.port)
        ));
        Some(entry)
    }

    fn local_backend(&self, key: &BackendKey) -> Option<u32> {
        let id = self.view.maps.local_backends.get(key, 0).ok();
        let (name, protocol) = (endpoint(key.address, key.port), protocol(key.protocol));
        let verb = if id.is_some() { "is" } else { "is not" };
        self.note(format!(
            "another node forwards it to {name} over {protocol}, which {verb} a backend on this node"
        ));
        id
    }

    fn is_paused(&self, sender: &BackendKey) -> bool {
        let is_paused = self.view.maps.is_paused(sender);
        let name = endpoint(sender.address, sender.port);
        if is_paused {
            self.note(format!(
                "connections are being copied, and {name} may have one that is not copied yet"
            ));
        }
        is_paused
    }

    fn admits(&self, service: u32, client: &Addr) -> bool {
        let admits = self.view.maps.admits(service, *client).unwrap_or(false);
        let verb = if admits { "admit" } else { "do not admit" };
        let name = self.view.service_name(service);
        let client = IpAddr::from(*client);
        self.note(format!("the source ranges of {name} {verb} {client}"));
        admits
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        if let Some(entry) = self.affinities.get(key) {
            return Some(*entry);
        }
        let entry = self.view.maps.affinities.get(key, 0).ok();
        let client = client(key.client);
        self.note(match &entry {
            None => format!("{client} has no backend of this Service yet"),
            Some(entry) => format!(
                "{client} had backend {} {} s ago",
                self.view.backend_name(entry.backend),
                self.now_s.saturating_sub(entry.seen_s)
            ),
        });
        if let Some(entry) = entry {
            self.used.borrow_mut().affinities.insert(*key, entry);
        }
        entry
    }

    fn put_affinity(&mut self, key: &AffinityKey, entry: &AffinityEntry) {
        self.affinities.insert(*key, *entry);
    }

    fn is_member(&self, key: &MemberKey) -> bool {
        let is_member = self.view.maps.members.get(key, 0).is_ok();
        if !is_member {
            self.note("that backend is not eligible any more".into());
        }
        is_member
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.fragments.get(key).copied()
    }

    fn add_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        let is_new = !self.fragments.contains_key(key);
        self.fragments.entry(*key).or_insert(*entry);
        is_new
    }

    fn link(&self) -> LinkEntry {
        LinkEntry {
            seen_s: self.now_s,
            address: SlicePacket::<true>::LINK,
            ..LinkEntry::default()
        }
    }

    fn put_link(&mut self, _entry: &LinkEntry) {}

    fn put_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) {
        self.fragments.insert(*key, *entry);
    }

    fn connection(&self, flow: &FlowKey) -> Option<CtEntry> {
        if let Some(entry) = self.connections.get(flow) {
            self.note(self.describe_connection(flow, entry));
            return Some(*entry);
        }
        let entry = self.view.maps.connections.get(flow, 0).ok();
        match &entry {
            None => self.note("no connection of this flow is open".into()),
            Some(entry) => {
                self.note(self.describe_connection(flow, entry));
                self.used.borrow_mut().connections.insert(*flow, *entry);
            }
        }
        entry
    }

    fn add_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Added {
        let in_use = self.connections.get(flow).copied();
        let in_use = in_use.or_else(|| self.view.maps.connections.get(flow, 0).ok());
        if let Some(in_use) = in_use {
            self.used.borrow_mut().connections.insert(*flow, in_use);
            let source = endpoint(flow.destination, flow.destination_port);
            let backend = endpoint(flow.source, flow.source_port);
            self.note(format!(
                "{source} is already in use for another connection to {backend}"
            ));
            return Added::Exists;
        }
        self.connections.insert(*flow, *entry);
        self.note_source(flow, entry);
        Added::Yes
    }

    fn put_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Result<(), Reason> {
        if entry.flags.contains(CtFlags::ENCAPSULATES) {
            self.note(format!(
                "that node answers the client directly, so the whole packet goes there, encapsulated \
                 in a datagram to UDP port {}",
                self.config.dsr_port.number()
            ));
        }
        if Direction::of(entry) == Direction::Reply {
            self.note("that connection is closed, so the port is available".into());
            self.note_source(flow, entry);
        }
        self.connections.insert(*flow, *entry);
        Ok(())
    }

    fn touch_connection(&mut self, flow: &FlowKey, state: CtState, seen_s: u32) -> bool {
        let known = self.used.borrow().connections.get(flow).copied();
        let known = self.connections.get(flow).copied().or(known);
        let known = known.or_else(|| self.view.maps.connections.get(flow, 0).ok());
        let Some(mut entry) = known else {
            return false;
        };
        self.used
            .borrow_mut()
            .connections
            .entry(*flow)
            .or_insert(entry);
        entry.state = state;
        entry.seen_s = seen_s;
        self.connections.insert(*flow, entry);
        true
    }

    fn put_numbers(&mut self, flow: &FlowKey, entry: &CtEntry) {
        if let Some(live) = self.connections.get_mut(flow) {
            live.end = entry.end;
            live.acknowledged = entry.acknowledged;
            live.claimed = entry.claimed;
        }
    }

    /// Asked about sockets alone, which are not explained.
    fn has_opted_out(&self) -> bool {
        false
    }

    fn takeover(&self) -> Takeover {
        let takeover = self.view.maps.takeover.get(0).unwrap_or_default();
        match takeover {
            Takeover::DONE => {}
            Takeover::BEGUN => self.note(
                "kube-proxy's rules or connections are there: segments of unknown connections are \
                 the kernel's"
                    .into(),
            ),
            _ => self.note("connections were given back to kube-proxy's rules".into()),
        }
        takeover
    }

    /// The test run of the program shows the kernel's routing decision.
    fn route(&self, _query: &RouteQuery) -> Route {
        Route::STACK
    }

    fn count(&self, _service: u32, _backend: u32, _bytes: u32, _opens: bool) {}

    fn source(&self, ifindex: u32) -> Option<SourceEntry> {
        self.view.maps.sources.get(&ifindex, 0).ok()
    }

    fn emit(&self, _reason: Reason, _flow: &FlowKey, _entry: &CtEntry) {}
}
