//! The one writer of the maps.

mod convert;
mod restore;
mod sweep;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use headgate_abi::{Addr, names};
use headgate_model::{Actual, Backend, BackendId, BackendSpec, Change, Dataplane};
use ipnet::IpNet;

use self::{
    sweep::{Removed, Stale, Sweep},
    write::removed,
};
use crate::{error::Error, maps::Maps, slots::Slots};

/// So many times as long as a sweep took, the next one waits.
const REST: u32 = 9;

/// Writes the maps.
pub struct Writer {
    maps: Maps,
    seed: u32,
    table_size: u32,
    slots: Slots,
    /// Source ranges by service id: all that the map may hold of it. Reading them back for each change
    /// would be work that grows with all services.
    ranges: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Services that may have members. Few have, and removing what is not there is a call each.
    with_members: BTreeSet<u32>,
    /// What is to be swept for.
    removed: Removed,
    /// What is being swept for.
    sweep: Option<Sweep>,
    /// When the next sweep may begin.
    rested: Instant,
    /// Whether another agent may have left something half done: nothing was finished yet.
    is_new: bool,
}

impl Writer {
    /// A writer of these maps. Tables of services that are reached from outside have `table_size`
    /// slots, a prime; their order depends on `seed`, which a cluster shares.
    pub fn new(maps: Maps, seed: u32, table_size: u32) -> Self {
        let slots = Slots::new(maps.slots.len());
        Self {
            maps,
            seed,
            table_size,
            slots,
            ranges: BTreeMap::new(),
            with_members: BTreeSet::new(),
            removed: Removed::default(),
            sweep: None,
            rested: Instant::now(),
            is_new: true,
        }
    }
}

impl Dataplane for Writer {
    type Error = Error;

    fn restore(&mut self) -> Result<(Actual, usize), Error> {
        let by_id = self.restore_backends();
        let (services, members) = self.restore_services(&by_id)?;
        let (frontends, strays) = self.restore_frontends(&services)?;
        let strays = strays + self.restore_members(&members)? + self.restore_local_backends()?;
        let backends: BTreeMap<Backend, (BackendId, BackendSpec)> = by_id
            .into_iter()
            .map(|(id, (backend, spec))| (backend, (BackendId(id), spec)))
            .collect();
        let actual = Actual {
            service_ids: services.values().map(|(id, _)| id.0).collect(),
            backend_ids: backends.values().map(|(id, _)| id.0).collect(),
            services,
            backends,
            frontends,
            addresses: self.restore_addresses()?,
        };
        Ok((actual, strays))
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::PutBackend { id, backend, spec } => self.put_backend(id.0, backend, spec),
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
            Change::PutAddress { address, kind } => self.put_address(*address, *kind),
            Change::DeleteAddress { address } => {
                let result = self.maps.addresses.remove(&Addr::from(*address));
                removed(names::ADDRESSES, result)
            }
            Change::DeleteFrontend { frontend } => self.delete_frontend(frontend),
            Change::DeleteService { id, .. } => self.delete_service(id.0),
            Change::DeleteBackend { id, .. } => self.delete_backend(id.0),
        }
    }

    fn finish(&mut self) -> Result<Option<Duration>, Error> {
        // An agent that was killed between changing tables and getting here left traffic behind
        // that nobody would ever take from backends that are gone.
        if self.is_new {
            let there = self.all_taken();
            let stale = Stale::AllBut(&there);
            self.forget_connections(&stale, self.maps.all_connections()?)?;
            self.is_new = false;
            self.removed.pairs.clear();
            self.end_sockets(&stale)?;
            return Ok((!self.removed.is_empty()).then_some(Duration::ZERO));
        }
        let mut sweep = match self.sweep.take() {
            Some(sweep) => sweep,
            None if self.removed.is_empty() => return Ok(None),
            None => {
                let rest = self.rested.saturating_duration_since(Instant::now());
                if !rest.is_zero() {
                    return Ok(Some(rest));
                }
                Sweep {
                    connections: self.maps.all_connections()?,
                    removed: std::mem::take(&mut self.removed),
                    took: Duration::ZERO,
                }
            }
        };
        match self.go_on(&mut sweep) {
            Ok(true) => {
                let rest = sweep.took * REST;
                self.rested = Instant::now() + rest;
                self.end_sockets(&Stale::These(&sweep.removed))?;
                // More may have gone meanwhile.
                Ok((!self.removed.is_empty()).then_some(rest))
            }
            Ok(false) => {
                self.sweep = Some(sweep);
                Ok(Some(Duration::ZERO))
            }
            Err(error) => {
                self.removed.put_back(sweep.removed);
                Err(error)
            }
        }
    }
}
