//! Forgetting connections and sockets of what is no more.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use headgate_abi::{CtEntry, CtState, FlowKey, FrontendKey, MemberKey, names};
use headgate_datapath::{Direction, mirror};

use super::{Writer, write::removed};
use crate::{entries::Entries, error::Error, sockets};

/// Connections that a sweep goes through before changes have their turn: about a millisecond.
const AT_ONCE: usize = 4096;

/// `BPF_NOEXIST` of bpf(2).
const NOEXIST: u64 = 1;

impl Writer {
    /// Everything that connections may rightly say.
    pub(super) fn all_taken(&self) -> BTreeSet<Taken> {
        let services = (1..self.maps.services.len())
            .filter_map(|service| Some((service, self.maps.services.get(service)?)));
        let pairs = services.flat_map(|(service, entry)| {
            let backends = self.backends_in(entry.slots()).into_iter();
            backends.map(move |backend| self.taken(service, backend))
        });
        pairs.collect()
    }

    /// Forgets those of these connections that are dispensable.
    pub(super) fn forget_connections(
        &mut self,
        stale: &Stale<'_>,
        connections: impl Iterator<Item = Result<(FlowKey, CtEntry), Error>>,
    ) -> Result<(), Error> {
        let mut flows = Vec::new();
        for item in connections {
            let (flow, entry) = item?;
            if stale.is_dispensable(&flow, &entry) {
                flows.push(flow);
            }
        }
        for flow in flows {
            self.forget_connection(stale, &flow)?;
        }
        Ok(())
    }

    /// Forgets a connection unless its backend has answered by now: without its entry it would go on to
    /// another one, and be reset. Should it answer in this very moment, the other half tells.
    pub(super) fn forget_connection(
        &mut self,
        stale: &Stale<'_>,
        flow: &FlowKey,
    ) -> Result<(), Error> {
        let connections = &mut self.maps.connections;
        let Ok(mut entry) = connections.get(flow, 0) else {
            return Ok(());
        };
        if !stale.is_dispensable(flow, &entry) {
            return Ok(());
        }
        removed(names::CONNTRACK, connections.remove(flow))?;
        let (mut other_flow, mut other) = (FlowKey::default(), CtEntry::default());
        mirror(flow, &entry, &mut other_flow, &mut other);
        match connections.get(&other_flow, 0) {
            // The next packet that meets it would put this half back.
            Ok(other) if stale.is_dispensable(&other_flow, &other) => {
                removed(names::CONNTRACK, connections.remove(&other_flow))
            }
            Ok(other) => {
                entry.state = other.state;
                // In vain if the client has begun anew.
                let _again = connections.insert(flow, entry, NOEXIST);
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Goes through some more connections; whether these were the last.
    pub(super) fn go_on(&mut self, sweep: &mut Sweep) -> Result<bool, Error> {
        let start = Instant::now();
        let mut is_end = false;
        let connections = std::iter::from_fn(|| {
            let next = sweep.connections.next();
            is_end = next.is_none();
            next
        });
        let stale = Stale::These(&sweep.removed);
        self.forget_connections(&stale, connections.take(AT_ONCE))?;
        sweep.took += start.elapsed();
        Ok(is_end)
    }

    /// A new service gets this id. If one had it whose connections are still to be forgotten, nothing
    /// would tell them from those of the new one to the same backends: they are forgotten first.
    pub(super) fn end_sweep_for(&mut self, service: u32) -> Result<(), Error> {
        let under_way = self.sweep.iter().flat_map(|sweep| &sweep.removed.pairs);
        let mut all = under_way.chain(&self.removed.pairs);
        if !all.any(|taken| taken.pair.service == service) {
            return Ok(());
        }
        if let Some(sweep) = self.sweep.take() {
            self.removed.put_back(sweep.removed);
        }
        let connections = self.maps.all_connections()?;
        let removed = std::mem::take(&mut self.removed);
        let stale = Stale::These(&removed);
        if let Err(error) = self.forget_connections(&stale, connections) {
            self.removed = removed;
            return Err(error);
        }
        self.end_sockets(&stale)
    }

    /// Ends the connected UDP sockets of stale pairs. It fails where the agent may not, or the kernel
    /// cannot, which is told once: to try again would not help.
    pub(super) fn end_sockets(&mut self, stale: &Stale<'_>) -> Result<(), Error> {
        let mut gone = Vec::new();
        for item in self.maps.all_sockets()? {
            let (key, entry) = item?;
            let taken = Taken {
                pair: MemberKey {
                    service: entry.service,
                    backend: entry.backend,
                },
                address: IpAddr::from(key.address),
                port: key.port.number(),
            };
            if key.protocol == headgate_abi::Protocol::UDP && stale.has(&taken) {
                gone.push(key);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let cookies = gone.iter().map(|key| key.cookie).collect();
        sockets::destroy_udp(&cookies).map_err(Error::Sockets)?;
        for key in gone {
            removed(names::SOCKETS, self.maps.sockets.remove(&key))?;
        }
        Ok(())
    }
}

/// By which pair traffic gets to a backend, and where that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Taken {
    pub(super) pair: MemberKey,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// What connections are forgotten for.
#[derive(Default)]
pub(super) struct Removed {
    /// Ways that services no longer take.
    pub(super) pairs: BTreeSet<Taken>,
    /// Frontends over UDP that have other services now, and which, from inside and outside; 0: none.
    pub(super) frontends: HashMap<FrontendKey, [u32; 2]>,
}

impl Removed {
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.frontends.is_empty()
    }

    /// Adds what was taken out before, and not done.
    pub(super) fn put_back(&mut self, older: Self) {
        self.pairs.extend(older.pairs);
        for (frontend, services) in older.frontends {
            self.frontends.entry(frontend).or_insert(services);
        }
    }
}

/// Going through all connections for those that are no more.
pub(super) struct Sweep {
    pub(super) removed: Removed,
    pub(super) connections: Entries<FlowKey, CtEntry>,
    /// How long it took so far.
    pub(super) took: Duration,
}

/// What is no more.
pub(super) enum Stale<'a> {
    These(&'a Removed),
    AllBut(&'a BTreeSet<Taken>),
}

impl Stale<'_> {
    pub(super) fn has(&self, taken: &Taken) -> bool {
        match self {
            Self::These(removed) => removed.pairs.contains(taken),
            Self::AllBut(there) => taken.pair.service != 0 && !there.contains(taken),
        }
    }

    /// Whether nobody would miss a connection: UDP, which has no end of its own, and TCP that was never
    /// answered. Established TCP ends as its ends see fit.
    pub(super) fn is_dispensable(&self, flow: &FlowKey, entry: &CtEntry) -> bool {
        let (address, port) = match Direction::of(entry) {
            Direction::Original => (entry.destination, entry.destination_port),
            Direction::Reply => (flow.source, flow.source_port),
        };
        let taken = Taken {
            pair: MemberKey {
                service: entry.service,
                backend: entry.backend,
            },
            address: IpAddr::from(address),
            port: port.number(),
        };
        (flow.protocol == headgate_abi::Protocol::UDP || entry.state == CtState::NEW)
            && (self.has(&taken) || self.has_frontend(flow, entry))
    }

    pub(super) fn has_frontend(&self, flow: &FlowKey, entry: &CtEntry) -> bool {
        let Self::These(removed) = self else {
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
}
