//! Takes over from the NAT rules of this node, and gives back to them, without a loss.
//!
//! The rules decide about the first packet of a connection, and the kernel's connection tracking remembers the
//! decision. So a connection changes hands by an entry: in our table the kernel's are marked, and left to it;
//! in the kernel's table ours are created, as if its rules had made them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::Path,
};

use headgate_abi::{
    BackendKey, CtEntry, CtFlags, CtState, DatapathConfig, FlowKey, FrontendKey, Protocol,
    Takeover, names,
};
use headgate_datapath::{Direction, mirrored};

use crate::{
    array::ReadWrite,
    error::Error,
    maps::Maps,
    netfilter::{KernelConnection, create, delete, translated},
    sockets::{Connected, destroy_udp},
    sys::now_s,
};

/// Attempts to create a connection in the kernel's table. Each packet that it tracks meanwhile is in the way.
const TRIES: usize = 100;

/// Both tables of connections: the kernel's and ours.
#[allow(missing_debug_implementations, reason = "the maps have none")]
pub struct Handover {
    maps: Maps<ReadWrite>,
    /// Connections of the kernel that our table has.
    known: HashSet<FlowKey>,
}

impl Handover {
    /// Opens the maps pinned below `pins`.
    ///
    /// # Errors
    ///
    /// As [`Maps::open`]; if our table cannot be read or written.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        let mut this = Self {
            maps: Maps::open_writable(pins)?,
            known: HashSet::new(),
        };
        if this.maps.takeover.get(0) == Some(Takeover::DONE) {
            return Ok(this);
        }
        // What an earlier agent marked, and what a `cleanup` paused that was killed.
        let all: Vec<_> = this.maps.all_connections()?.collect::<Result<_, _>>()?;
        for (flow, mut entry) in all {
            if entry.flags.contains(CtFlags::PAUSED) {
                entry.flags = entry.flags.difference(CtFlags::PAUSED);
                this.put(&flow, entry)?;
            }
            if entry.flags.contains(CtFlags::KERNEL) && Direction::of(&entry) == Direction::Original
            {
                this.known.insert(flow);
            }
        }
        Ok(this)
    }

    /// Says which packets of unknown connections to frontends are the kernel's.
    ///
    /// # Errors
    ///
    /// Never: the map has an element.
    pub fn set(&self, takeover: Takeover) -> Result<(), Error> {
        let capacity = self.maps.takeover.len();
        match self.maps.takeover.set(0, takeover) {
            true => Ok(()),
            false => Err(Error::Full {
                name: names::TAKEOVER,
                capacity,
            }),
        }
    }

    /// Marks the connections that the kernel translates in our table, and removes the marks of those that it
    /// has forgotten. Returns how many of them are to frontends.
    ///
    /// # Errors
    ///
    /// If the kernel's connections cannot be listed, or our table cannot be written.
    pub fn adopt(&mut self) -> Result<usize, Error> {
        let list = translated().map_err(Error::Netfilter)?;
        let backends = self.backends();
        let mut count = 0;
        let mut now = HashSet::with_capacity(list.len());
        for connection in &list {
            let flow = &connection.original;
            let key = FrontendKey::new(flow.destination, flow.destination_port, flow.protocol);
            let frontend = self.maps.frontends.get(&key, 0).ok();
            count += usize::from(frontend.is_some());
            let backend = BackendKey {
                address: connection.reply.source,
                port: connection.reply.source_port,
                protocol: flow.protocol,
                zero: 0,
            };
            // The sweep finds a connection of a removed backend by both ids.
            let ids = frontend.map(|frontend| frontend.outside);
            let ids = ids.zip(backends.get(&backend).copied());
            let (service, backend) = ids.unwrap_or_default();
            self.mark(flow, connection.entry(service, backend, now_s()))?;
            now.insert(*flow);
        }
        for flow in std::mem::replace(&mut self.known, now) {
            if !self.known.contains(&flow) {
                self.unmark(&flow)?;
            }
        }
        Ok(count)
    }

    /// Removes all marks.
    ///
    /// # Errors
    ///
    /// If our table cannot be written.
    pub fn release(&mut self) -> Result<(), Error> {
        for flow in std::mem::take(&mut self.known) {
            self.unmark(&flow)?;
        }
        Ok(())
    }

    /// Ids of all backends.
    fn backends(&self) -> HashMap<BackendKey, u32> {
        let ids = 1..self.maps.backends.len();
        let backends = ids.filter_map(|id| Some((id, self.maps.backends.get(id)?)));
        let used = backends.filter(|(_, entry)| !entry.is_empty());
        used.map(|(id, entry)| (BackendKey::from(&entry), id))
            .collect()
    }

    fn present(&self, flow: &FlowKey) -> Option<CtEntry> {
        self.maps.connections.get(flow, 0).ok()
    }

    fn put(&mut self, flow: &FlowKey, entry: CtEntry) -> Result<(), Error> {
        let result = self.maps.connections.insert(flow, entry, 0);
        result.map_err(|source| Error::map(names::CONNTRACK, source))
    }

    /// Writes the entries of both directions as the kernel's.
    fn put_marked(&mut self, flow: &FlowKey, mut entry: CtEntry) -> Result<(), Error> {
        entry.flags = entry.flags.difference(CtFlags::PAUSED);
        entry.flags = entry.flags.union(CtFlags::KERNEL);
        let (other_flow, other) = mirrored(flow, &entry);
        self.put(flow, entry)?;
        self.put(&other_flow, other)
    }

    fn mark(&mut self, flow: &FlowKey, mut entry: CtEntry) -> Result<(), Error> {
        if let Some(present) = self.present(flow) {
            let is_marked = present.flags.contains(CtFlags::KERNEL);
            // The reply of a connection that the kernel has just opened was noted as the node's own flow.
            let is_own = present.flags.contains(CtFlags::OWN);
            let is_ours = !is_marked && !is_own && present.state != CtState::CLOSED;
            if is_ours || is_marked && present.service == entry.service {
                return Ok(());
            }
            if is_marked {
                entry = CtEntry {
                    service: entry.service,
                    backend: entry.backend,
                    ..present
                };
            }
        }
        if self.is_reply_of_ours(flow, &entry) {
            // Anyone may have opened it with one packet.
            return delete(flow).map_err(Error::Netfilter);
        }
        self.put_marked(flow, entry)
    }

    /// Whether the replies of a connection of the kernel are those of another, open connection of ours.
    fn is_reply_of_ours(&self, flow: &FlowKey, entry: &CtEntry) -> bool {
        let (other_flow, other) = mirrored(flow, entry);
        const NOT_OURS: CtFlags = CtFlags::KERNEL.union(CtFlags::OWN);
        // A client may use one port for two frontends of a backend, so the source counts as well.
        let translation = |entry: &CtEntry| {
            (
                (entry.source, entry.source_port),
                (entry.destination, entry.destination_port),
            )
        };
        self.present(&other_flow).is_some_and(|present| {
            !present.flags.intersects(NOT_OURS)
                && present.state != CtState::CLOSED
                && translation(&present) != translation(&other)
        })
    }

    fn unmark(&mut self, flow: &FlowKey) -> Result<(), Error> {
        let Some(entry) = self.present(flow) else {
            return Ok(());
        };
        let (other_flow, _) = mirrored(flow, &entry);
        for flow in [*flow, other_flow] {
            let is_marked = |entry: CtEntry| entry.flags.contains(CtFlags::KERNEL);
            if self.present(&flow).is_some_and(is_marked) {
                // It may be evicted meanwhile.
                let _missing = self.maps.connections.remove(&flow);
            }
        }
        Ok(())
    }

    /// Makes the kernel forget the closed connections to frontends that it translates. A new connection from
    /// the same port directly to the backend would otherwise have the same replies.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn forget_closed(&self) -> Result<usize, Error> {
        let mut count = 0;
        for connection in translated().map_err(Error::Netfilter)? {
            let flow = &connection.original;
            let key = FrontendKey::new(flow.destination, flow.destination_port, flow.protocol);
            if connection.state == CtState::CLOSED && self.maps.frontends.get(&key, 0).is_ok() {
                delete(flow).map_err(Error::Netfilter)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Ends the connected UDP sockets of this node to frontends: rules translated them, and their connections
    /// are gone.
    ///
    /// # Errors
    ///
    /// If the agent lacks the capability, or the kernel the feature.
    pub fn end_older_sockets(&self) -> Result<usize, Error> {
        let keys = self.maps.frontends.keys().filter_map(Result::ok);
        let older: BTreeSet<Connected> = keys.filter_map(|key| Connected::to(&key)).collect();
        destroy_udp(&older).map_err(Error::Sockets)
    }

    /// Gives all open connections of our table to the kernel, which has rules for new ones by now. Returns how
    /// many, and how many it did not take: those of DSR, which other nodes translate.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a connection, or our table cannot be written.
    pub fn give_back(&mut self) -> Result<(usize, usize), Error> {
        self.set(Takeover::GIVEN_BACK)?;
        let (mut given, mut kept) = (0, 0);
        let all: Vec<_> = self.maps.all_connections()?.collect::<Result<_, _>>()?;
        for (flow, entry) in all {
            let is_open = entry.state != CtState::CLOSED;
            if Direction::of(&entry) == Direction::Reply
                || entry.flags.intersects(CtFlags::KERNEL.union(CtFlags::OWN))
                || !is_open
            {
                continue;
            }
            let of_dsr = CtFlags::ENCAPSULATES.union(CtFlags::ENCAPSULATED);
            match entry.flags.intersects(of_dsr) {
                true => kept += 1,
                false => {
                    self.give(&flow)?;
                    given += 1;
                }
            }
        }
        Ok((given, kept))
    }

    fn give(&mut self, flow: &FlowKey) -> Result<(), Error> {
        // It may have ended since the list was made.
        let Some(mut entry) = self.present(flow) else {
            return Ok(());
        };
        // The first packet sets the kernel's own timeout.
        let connection = KernelConnection::of(&DatapathConfig::default(), flow, &entry);
        // Where the source stays, the kernel sees the translated packets already, and tracks them.
        let is_tracked = entry.source == flow.source;
        if is_tracked && flow.protocol == Protocol::TCP {
            entry.flags = entry.flags.union(CtFlags::PAUSED);
            self.put(flow, entry)?;
        }
        let create = || {
            delete(flow)?;
            if is_tracked {
                delete(&connection.reply)?;
            }
            create(&connection)
        };
        let is_in_the_way = |result: &io::Result<()>| matches!(result, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
        let mut results = std::iter::repeat_with(create).take(TRIES);
        let result = results
            .find(|result| !is_in_the_way(result))
            .unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()));
        if let Err(error) = result {
            entry.flags = entry.flags.difference(CtFlags::PAUSED);
            self.put(flow, entry)?;
            return Err(Error::Netfilter(error));
        }
        self.put_marked(flow, entry)
    }
}
