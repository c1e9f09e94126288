//! The writer of the maps: the only one.

mod convert;
mod restore;
mod sweep;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use headgate_abi::{Addr, AddressEntry, BackendKey, FrontendEntry, FrontendKey, MemberKey};
use headgate_datapath::maglev;
use headgate_model::{Change, Dataplane, Limits, Restored, Sweep};
use ipnet::IpNet;

use self::sweep::{Removed, RunningSweep};
use crate::{
    array::ReadWrite, error::Error, load::MapSizes, maps::Maps, slots::Slots, sockets::Connected,
    store::AgentMaps,
};

/// Replaces the maps by larger ones and returns them; `None` while these are prepared.
type Grow = Box<dyn FnMut(&MapSizes) -> Result<Option<Maps<ReadWrite>>, Error>>;

/// Writes the maps, each change in an order that a packet may come between any two writes of.
#[allow(missing_debug_implementations, reason = "the maps have none")]
pub struct MapWriter {
    maps: AgentMaps,
    grow: Option<Grow>,
    seed: u32,
    table_size: u32,
    slots: Slots,
    /// All source ranges that the map may hold, by service id. Reading them back for each change would be work
    /// that grows with the number of Services.
    ranges: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Services that may have members. Few have, and each removal is a system call, even that of nothing.
    with_members: BTreeSet<u32>,
    /// What the next sweep is for.
    removed: Removed,
    sweep: Option<RunningSweep>,
    /// UDP frontends that have endpoints since the last sweep, and had none before.
    newly_served: BTreeSet<Connected>,
    /// The earliest begin of the next sweep.
    next_sweep: Instant,
    /// Whether no sweep was done yet: a former agent may have left changes half done.
    is_new: bool,
}

impl MapWriter {
    /// Returns a writer of these maps. The tables of Services that are reached from outside have at least
    /// `table_size` slots, a prime number. Their order depends on `seed`: nodes of the same seed and size agree
    /// on the backend of a client.
    pub fn new(maps: impl Into<AgentMaps>, seed: u32, table_size: u32) -> Self {
        let maps = maps.into();
        Self {
            slots: Slots::new(maps.slots.len()),
            maps,
            grow: None,
            seed,
            table_size,
            ranges: BTreeMap::new(),
            with_members: BTreeSet::new(),
            removed: Removed::default(),
            sweep: None,
            newly_served: BTreeSet::new(),
            next_sweep: Instant::now(),
            is_new: true,
        }
    }
}

impl MapWriter {
    /// Lets the maps become larger by `grow`: it replaces them by maps of at least the sizes that it gets, with the
    /// same contents, and returns these, or `None` while it prepares them.
    #[must_use]
    pub fn growing(
        mut self,
        grow: impl FnMut(&MapSizes) -> Result<Option<Maps<ReadWrite>>, Error> + 'static,
    ) -> Self {
        self.grow = Some(Box::new(grow));
        self
    }
}

impl Dataplane for MapWriter {
    type Error = Error;

    fn limits(&self) -> Limits {
        let maps = &self.maps;
        let sizes = maglev::SIZES.into_iter();
        Limits {
            frontends: maps.capacities.frontends,
            addresses: maps.capacities.addresses,
            // Id 0 is not used.
            services: maps.services.len().saturating_sub(1),
            backends: maps.backends.len().saturating_sub(1),
            slots: maps.slots.len(),
            source_ranges: maps.capacities.source_ranges,
            members: maps.capacities.members,
            tables: sizes.filter(|size| *size >= self.table_size).collect(),
        }
    }

    fn grow(&mut self, wanted: &Limits) -> Result<Option<Limits>, Error> {
        if let Some(grow) = &mut self.grow {
            let sizes = MapSizes {
                frontends: wanted.frontends.max(wanted.addresses),
                services: wanted.services.saturating_add(1),
                backends: wanted.backends.saturating_add(1),
                slots: wanted.slots,
                source_ranges: wanted.source_ranges,
                members: wanted.members,
                ..MapSizes::default()
            };
            let Some(maps) = grow(&sizes)? else {
                return Ok(None);
            };
            self.maps = maps.into();
            self.slots.grow(self.maps.slots.len());
        }
        Ok(Some(self.limits()))
    }

    fn check(&mut self) -> Result<(), Error> {
        // Keys that no packet asks for.
        let range = IpNet::from(IpAddr::from([0; 4]));
        let maps = &mut self.maps;
        let written = [
            maps.addresses.put(&Addr::default(), AddressEntry::SHARED),
            maps.frontends
                .put(&FrontendKey::default(), FrontendEntry::default()),
            maps.local_backends.put(&BackendKey::default(), 0),
            maps.members.put(&MemberKey::default(), 0),
            maps.source_ranges.put(0, &range),
            maps.addresses.remove(&Addr::default()),
            maps.frontends.remove(&FrontendKey::default()),
            maps.local_backends.remove(&BackendKey::default()),
            maps.members.remove(&MemberKey::default()),
            maps.source_ranges.remove(0, &range),
        ];
        let mut failed = written.into_iter().filter_map(Result::err);
        match failed.find(|error| !matches!(error, Error::NoRoom { .. })) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn restore(&mut self) -> Result<Restored, Error> {
        self.read_and_repair()
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::PutBackend { id, backend } => self.put_backend(id.0, backend),
            Change::PutService {
                id,
                key,
                spec,
                backends,
            } => self.put_service(id.0, key, spec, backends),
            Change::PutFrontend {
                frontend,
                spec,
                inside,
                outside,
            } => self.put_frontend(frontend, spec, *inside, *outside),
            Change::PutAddress { address, spec } => self.put_address(*address, *spec),
            Change::DeleteAddress { address } => self.maps.addresses.remove(&Addr::from(*address)),
            Change::DeleteFrontend { frontend } => self.delete_frontend(frontend),
            Change::DeleteService { id, .. } => self.delete_service(id.0),
            Change::DeleteBackend { id, .. } => self.delete_backend(id.0),
        }
    }

    fn step_sweep(&mut self) -> Result<Sweep, Error> {
        self.sweep_some()
    }
}
