//! The sweep: forgets connections and sockets that lead to removed backends, and marks the connections that
//! continue until one of their ends closes them.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use headgate_abi::{
    CtEntry, CtFlags, CtState, FlowKey, FrontendKey, MemberKey, Protocol, SocketEntry, Takeover,
};
use headgate_datapath::{Direction, mirrored};
use headgate_model::Sweep;

use super::MapWriter;
use crate::{error::Error, sockets::Connected, store::Scan};

/// Connections that one step reads: about a millisecond, after which changes have their turn.
const AT_ONCE: usize = 4096;
/// The pause after a sweep, as a multiple of the time that the sweep took.
const REST: u32 = 9;

/// A Service and a backend that it sends to. The address distinguishes the backend from a later owner of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PairInUse {
    pub(super) pair: MemberKey,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// What a sweep is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    /// Pairs that are not in use any more.
    pub(super) pairs: BTreeSet<PairInUse>,
    /// Frontends that other Services serve now: their ids, inside and outside. 0 stands for no Service.
    pub(super) frontends: HashMap<FrontendKey, [u32; 2]>,
}

impl Removed {
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.frontends.is_empty()
    }

    /// Takes back what an unfinished sweep was for. Newer notes about a frontend stay.
    pub(super) fn put_back(&mut self, unfinished: Self) {
        self.pairs.extend(unfinished.pairs);
        for (frontend, services) in unfinished.frontends {
            self.frontends.entry(frontend).or_insert(services);
        }
    }
}

/// A sweep that has begun: each step reads some more connections.
pub(super) struct RunningSweep {
    pub(super) removed: Removed,
    connections: Scan<FlowKey, CtEntry>,
    /// Time that all steps took.
    took: Duration,
}

/// Which connections are stale.
pub(super) enum Stale<'a> {
    /// Those of removed pairs and frontends.
    Removed(&'a Removed),
    /// Those of all pairs that are not in use.
    AllBut(&'a BTreeSet<PairInUse>),
}

impl Stale<'_> {
    fn has_pair(&self, pair: &PairInUse) -> bool {
        match self {
            Self::Removed(removed) => removed.pairs.contains(pair),
            Self::AllBut(in_use) => pair.pair.service != 0 && !in_use.contains(pair),
        }
    }

    fn has_frontend(&self, flow: &FlowKey, entry: &CtEntry) -> bool {
        let Self::Removed(removed) = self else {
            return false;
        };
        let (address, port) = match Direction::of(entry) {
            Direction::Original => (flow.destination, flow.destination_port),
            Direction::Reply => (entry.source, entry.source_port),
        };
        let key = FrontendKey::new(address, port, flow.protocol);
        let now = removed.frontends.get(&key);
        entry.service != 0 && now.is_some_and(|services| !services.contains(&entry.service))
    }

    /// Whether the entry's Service does not send to its backend any more, or does not serve its frontend.
    fn has(&self, flow: &FlowKey, entry: &CtEntry) -> bool {
        let (address, port) = match Direction::of(entry) {
            Direction::Original => (entry.destination, entry.destination_port),
            Direction::Reply => (flow.source, flow.source_port),
        };
        let pair = PairInUse {
            pair: MemberKey {
                service: entry.service,
                backend: entry.backend,
            },
            address: IpAddr::from(address),
            port: port.number(),
        };
        self.has_pair(&pair) || self.has_frontend(flow, entry)
    }
}

/// Whether a stale connection can be forgotten without a loss: UDP, which has no end of its own, and TCP
/// that was never answered. Established TCP connections end when one of their ends closes them.
fn is_dispensable(flow: &FlowKey, entry: &CtEntry) -> bool {
    flow.protocol == Protocol::UDP || entry.state == CtState::NEW
}

impl MapWriter {
    /// The pair as connections remember it.
    fn pair_in_use(&self, service: u32, backend: u32) -> PairInUse {
        let entry = self.maps.backends.get(backend).unwrap_or_default();
        PairInUse {
            pair: MemberKey { service, backend },
            address: IpAddr::from(entry.address),
            port: entry.port.number(),
        }
    }

    /// Notes that a Service does not send to a backend any more: a sweep is due.
    pub(super) fn note_removed(&mut self, service: u32, backend: u32) {
        self.removed
            .pairs
            .insert(self.pair_in_use(service, backend));
    }

    /// Notes that a Service sends to a backend. It may be back before a sweep read its connections.
    pub(super) fn note_in_use(&mut self, service: u32, backend: u32) {
        let pair = self.pair_in_use(service, backend);
        self.removed.pairs.remove(&pair);
        if let Some(sweep) = &mut self.sweep {
            sweep.removed.pairs.remove(&pair);
        }
    }

    /// Returns every pair that the tables of Services name.
    fn pairs_in_use(&self) -> BTreeSet<PairInUse> {
        let services = (1..self.maps.services.len())
            .filter_map(|service| Some((service, self.maps.services.get(service)?)));
        let pairs = services.flat_map(|(service, entry)| {
            let backends = self.backends_in(entry.slots()).into_iter();
            backends.map(move |backend| self.pair_in_use(service, backend))
        });
        pairs.collect()
    }

    /// Does some of the sweep that is due, if one is.
    pub(super) fn sweep_some(&mut self) -> Result<Sweep, Error> {
        self.end_older_sockets()?;
        if self.is_new {
            return self.first_sweep();
        }
        let mut sweep = match self.sweep.take() {
            Some(sweep) => sweep,
            None if self.removed.is_empty() => return Ok(Sweep::Done),
            None => {
                let pause = self.next_sweep.saturating_duration_since(Instant::now());
                if !pause.is_zero() {
                    return Ok(Sweep::Again(pause));
                }
                RunningSweep {
                    connections: self.maps.connections.scan()?,
                    removed: std::mem::take(&mut self.removed),
                    took: Duration::ZERO,
                }
            }
        };
        match self.step(&mut sweep) {
            Ok(true) => {
                let pause = sweep.took * REST;
                self.next_sweep = Instant::now() + pause;
                self.end_sockets(&Stale::Removed(&sweep.removed))?;
                // More may have been removed meanwhile.
                Ok(self.again_after(pause))
            }
            Ok(false) => {
                self.sweep = Some(sweep);
                Ok(Sweep::Again(Duration::ZERO))
            }
            Err(error) => {
                self.removed.put_back(sweep.removed);
                Err(error)
            }
        }
    }

    /// Sweeps for everything that is not in use: an agent that was killed after it changed tables left
    /// connections to removed backends.
    fn first_sweep(&mut self) -> Result<Sweep, Error> {
        let in_use = self.pairs_in_use();
        let stale = Stale::AllBut(&in_use);
        let connections = self.maps.connections.scan()?;
        self.forget_connections(&stale, connections)?;
        self.is_new = false;
        self.removed.pairs.clear();
        self.end_sockets(&stale)?;
        Ok(self.again_after(Duration::ZERO))
    }

    fn again_after(&self, pause: Duration) -> Sweep {
        match self.removed.is_empty() {
            true => Sweep::Done,
            false => Sweep::Again(pause),
        }
    }

    /// Reads some more connections; returns whether these were the last.
    fn step(&mut self, sweep: &mut RunningSweep) -> Result<bool, Error> {
        let start = Instant::now();
        let mut is_end = false;
        let connections = std::iter::from_fn(|| {
            let next = sweep.connections.next();
            is_end = next.is_none();
            next
        });
        let stale = Stale::Removed(&sweep.removed);
        self.forget_connections(&stale, connections.take(AT_ONCE))?;
        sweep.took += start.elapsed();
        Ok(is_end)
    }

    /// Finishes the sweep for a Service id that a new Service gets. Otherwise its previous owner's connections
    /// would look like its own, if both send to the same backends.
    pub(super) fn finish_sweep_for(&mut self, service: u32) -> Result<(), Error> {
        let running = self.sweep.iter().flat_map(|sweep| &sweep.removed.pairs);
        let mut all = running.chain(&self.removed.pairs);
        if !all.any(|pair| pair.pair.service == service) {
            return Ok(());
        }
        if let Some(sweep) = self.sweep.take() {
            self.removed.put_back(sweep.removed);
        }
        let connections = self.maps.connections.scan()?;
        let is_of_service = |pair: &PairInUse| pair.pair.service == service;
        let removed = Removed {
            pairs: { self.removed.pairs.iter() }
                .filter(|pair| is_of_service(pair))
                .copied()
                .collect(),
            frontends: HashMap::new(),
        };
        let stale = Stale::Removed(&removed);
        self.forget_connections(&stale, connections)?;
        self.end_sockets(&stale)?;
        self.removed.pairs.retain(|pair| !is_of_service(pair));
        Ok(())
    }

    /// Forgets the stale ones of these connections that are dispensable, and marks the others.
    fn forget_connections(
        &mut self,
        stale: &Stale<'_>,
        connections: impl Iterator<Item = Result<(FlowKey, CtEntry), Error>>,
    ) -> Result<(), Error> {
        let mut flows = Vec::new();
        for item in connections {
            let (flow, entry) = item?;
            let is_due = is_dispensable(&flow, &entry) || !entry.flags.contains(CtFlags::REMOVED);
            if is_due && stale.has(&flow, &entry) {
                flows.push(flow);
            }
        }
        for flow in flows {
            self.forget_connection(stale, &flow)?;
        }
        Ok(())
    }

    /// Marks an entry, so that the client's next SYN opens a new connection: the address of the backend may
    /// be another Service's by now. What a packet writes to the entry in these microseconds is lost.
    fn mark_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Result<(), Error> {
        let flags = entry.flags.union(CtFlags::REMOVED);
        self.maps.connections.put(flow, CtEntry { flags, ..*entry })
    }

    /// Forgets a stale connection, unless its backend has answered by now: without the entry, its packets would go
    /// to another backend, which resets it. A reply that arrives meanwhile shows in the reverse entry.
    fn forget_connection(&mut self, stale: &Stale<'_>, flow: &FlowKey) -> Result<(), Error> {
        let Some(mut entry) = self.maps.connections.get(flow)? else {
            return Ok(());
        };
        if !stale.has(flow, &entry) {
            return Ok(());
        }
        if !is_dispensable(flow, &entry) {
            return self.mark_connection(flow, &entry);
        }
        let connections = &mut self.maps.connections;
        connections.remove(flow)?;
        let (other_flow, _) = mirrored(flow, &entry);
        match connections.get(&other_flow)? {
            // The next packet that finds it would put this half back.
            Some(other) if is_dispensable(&other_flow, &other) => connections.remove(&other_flow),
            Some(other) => {
                entry.state = other.state;
                entry.flags = entry.flags.union(CtFlags::REMOVED);
                // Unless the client has opened another connection of this flow.
                connections.add(flow, entry)
            }
            None => Ok(()),
        }
    }

    /// Ends the connected UDP sockets of stale pairs, and forgets the backends of unconnected ones. It fails if
    /// the agent lacks the capability, or the kernel the feature; as a repetition would not help, the error is
    /// returned once.
    fn end_sockets(&mut self, stale: &Stale<'_>) -> Result<(), Error> {
        let mut lost = Vec::new();
        for item in self.maps.sockets.scan()? {
            let (key, entry) = item?;
            let pair = PairInUse {
                pair: MemberKey {
                    service: entry.service,
                    backend: entry.backend_id,
                },
                address: IpAddr::from(entry.backend),
                port: entry.backend_port.number(),
            };
            if entry.protocol != Protocol::UDP || entry.backend_id == 0 || !stale.has_pair(&pair) {
                continue;
            }
            // The frontend may belong to another service by now, which has the same backend.
            match self.service_with(&entry)? {
                Some(service) => self
                    .maps
                    .sockets
                    .replace(&key, SocketEntry { service, ..entry })?,
                None => lost.push((key, entry)),
            }
        }
        let connected: BTreeSet<Connected> = { lost.iter() }
            .map(|(key, entry)| Connected {
                cookie: key.cookie,
                address: IpAddr::from(entry.backend),
                port: entry.backend_port.number(),
            })
            .collect();
        if !connected.is_empty() {
            (self.maps.destroy_udp)(&connected).map_err(Error::Sockets)?;
        }
        for (key, entry) in lost {
            // Replies that are on their way still show the frontend.
            if self.maps.sockets.get(&key)? == Some(entry) {
                let entry = SocketEntry {
                    backend_id: 0,
                    ..entry
                };
                self.maps.sockets.replace(&key, entry)?;
            }
        }
        Ok(())
    }

    /// Returns the service that a socket's frontend has now, if it sends to this backend.
    fn service_with(&self, entry: &SocketEntry) -> Result<Option<u32>, Error> {
        let frontend = FrontendKey::new(entry.frontend, entry.frontend_port, entry.protocol);
        let Some(frontend) = self.maps.frontends.get(&frontend)? else {
            return Ok(None);
        };
        let service = self.maps.services.get(frontend.inside).unwrap_or_default();
        let is_there = self
            .backends_in(service.slots())
            .contains(&entry.backend_id);
        Ok(is_there.then_some(frontend.inside))
    }

    /// Ends the connected UDP sockets of this node that were connected to frontends before these had
    /// endpoints. No hook sees their packets; a process that gets the error connects again.
    fn end_older_sockets(&mut self) -> Result<(), Error> {
        let older = std::mem::take(&mut self.newly_served);
        // While we take over, the kernel translates them.
        if older.is_empty() || self.maps.takeover.get(0).unwrap_or_default() != Takeover::DONE {
            return Ok(());
        }
        (self.maps.destroy_udp)(&older).map_err(Error::Sockets)?;
        Ok(())
    }
}
