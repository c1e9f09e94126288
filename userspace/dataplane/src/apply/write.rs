//! Changes, one function for each kind.

use std::{collections::BTreeSet, net::IpAddr};

use aya::maps::MapError;
use headgate_abi::{
    Addr, AddressEntry, BackendEntry, BackendKey, FrontendEntry, MemberKey, Port, ServiceEntry,
    ServiceFlags, ServiceLabel, SlotRange, names,
};
use headgate_datapath::maglev::{self, Member};
use headgate_model::{
    AddressKind, Backend, BackendId, BackendSpec, Frontend, FrontendSpec, Protocol, ServiceId,
    ServiceKey, ServiceSpec,
};
use ipnet::IpNet;

use super::{
    Writer,
    convert::{flags, frontend_key, protocol, range_key},
    sweep::Taken,
};
use crate::{error::Error, sys::now_s};

impl Writer {
    pub(super) fn put_backend(
        &mut self,
        id: u32,
        backend: &Backend,
        spec: &BackendSpec,
    ) -> Result<(), Error> {
        let entry = BackendEntry {
            address: Addr::from(backend.address),
            port: Port::new(backend.port),
            protocol: protocol(backend.protocol),
            local: u8::from(spec.local),
        };
        let capacity = self.maps.backends.len();
        let old = self.maps.backends.get(id);
        let old = old.ok_or(Error::Full {
            name: names::BACKENDS,
            capacity,
        })?;
        // Whoever had this id before is none of this backend's traffic.
        if old.port.number() == 0 {
            self.maps.reset_backend_traffic(id)?;
        }
        // Before its entry says that it is elsewhere: if this fails, it is tried again.
        if old.local != 0 && !spec.local {
            self.remove_local_backend(&old)?;
        }
        full_unless(self.maps.backends.set(id, entry), names::BACKENDS, capacity)?;
        if spec.local {
            self.add_local_backend(id, &entry)?;
        }
        Ok(())
    }

    /// Other nodes may send to backends that are here, and to no others.
    pub(super) fn add_local_backend(&mut self, id: u32, entry: &BackendEntry) -> Result<(), Error> {
        let backends = &mut self.maps.local_backends;
        let result = backends.insert(BackendKey::from(entry), id, 0);
        result.map_err(|source| full_or(names::LOCAL_BACKENDS, source))
    }

    pub(super) fn remove_local_backend(&mut self, entry: &BackendEntry) -> Result<(), Error> {
        let backends = &mut self.maps.local_backends;
        let result = backends.remove(&BackendKey::from(entry));
        removed(names::LOCAL_BACKENDS, result)
    }

    pub(super) fn delete_backend(&mut self, id: u32) -> Result<(), Error> {
        let old = self.maps.backends.get(id).unwrap_or_default();
        if old.local != 0 {
            self.remove_local_backend(&old)?;
        }
        // An id that was given out is within the maps.
        let _is_there = self.maps.backends.set(id, BackendEntry::default());
        Ok(())
    }

    pub(super) fn put_service(
        &mut self,
        id: u32,
        key: &ServiceKey,
        spec: &ServiceSpec,
        backends: &[BackendId],
    ) -> Result<(), Error> {
        let label =
            ServiceLabel::new(&key.to_string()).ok_or_else(|| Error::Label(key.to_string()))?;
        let capacity = self.maps.services.len();
        let old = self.maps.services.get(id);
        let old = old.ok_or(Error::Full {
            name: names::SERVICES,
            capacity,
        })?;
        // Whoever had this id before is none of this service's traffic.
        if self
            .maps
            .labels
            .get(id)
            .is_some_and(|old| old.text().is_empty())
        {
            self.end_sweep_for(id)?;
            self.maps.reset_service_traffic(id)?;
        }
        let table = self.table(spec, backends);
        let now: BTreeSet<u32> = backends.iter().map(|backend| backend.0).collect();
        let has_affinity = spec.affinity_timeout_s != 0;
        let members = if has_affinity {
            now.clone()
        } else {
            BTreeSet::new()
        };
        let range = self.slots.take(table.len() as u32)?;
        if let Err(error) = self.make_room(id, &spec.source_ranges, &members) {
            self.slots.release(range);
            return Err(error);
        }
        for (slot, backend) in (range.first..).zip(&table) {
            full_unless(
                self.maps.slots.set(slot, *backend),
                names::SLOTS,
                self.maps.slots.len(),
            )?;
        }
        full_unless(
            self.maps.labels.set(id, label),
            names::SERVICE_LABELS,
            capacity,
        )?;
        let before = self.backends_in(old.slots());
        let flags = if spec.consistent {
            ServiceFlags::CONSISTENT
        } else {
            ServiceFlags::default()
        };
        let entry = ServiceEntry::new(range, spec.affinity_timeout_s, flags);
        full_unless(self.maps.services.set(id, entry), names::SERVICES, capacity)?;
        self.slots.give_back(old.slots());
        for backend in before.difference(&now) {
            self.removed.pairs.insert(self.taken(id, *backend));
        }
        for backend in &now {
            // It may be back before a sweep came to its connections.
            let taken = self.taken(id, *backend);
            self.removed.pairs.remove(&taken);
            if let Some(sweep) = &mut self.sweep {
                sweep.removed.pairs.remove(&taken);
            }
        }
        self.remove_source_ranges(id, &spec.source_ranges)?;
        self.remove_members(id, before.difference(&members))?;
        if members.is_empty() {
            self.with_members.remove(&id);
        }
        Ok(())
    }

    /// What connections say that a service sends to a backend. An id may be another's later.
    pub(super) fn taken(&self, service: u32, backend: u32) -> Taken {
        let entry = self.maps.backends.get(backend).unwrap_or_default();
        Taken {
            pair: MemberKey { service, backend },
            address: IpAddr::from(entry.address),
            port: entry.port.number(),
        }
    }

    pub(super) fn backends_in(&self, range: SlotRange) -> BTreeSet<u32> {
        let slots = range.first..range.first.saturating_add(range.count);
        slots.filter_map(|slot| self.maps.slots.get(slot)).collect()
    }

    pub(super) fn add_member(&mut self, service: u32, backend: u32) -> Result<(), Error> {
        let result = self
            .maps
            .members
            .insert(MemberKey { service, backend }, 0, 0);
        result.map_err(|source| full_or(names::AFFINITY_MEMBERS, source))
    }

    pub(super) fn remove_member(&mut self, service: u32, backend: u32) -> Result<(), Error> {
        let result = self.maps.members.remove(&MemberKey { service, backend });
        removed(names::AFFINITY_MEMBERS, result)
    }

    pub(super) fn remove_members<'a>(
        &mut self,
        service: u32,
        backends: impl Iterator<Item = &'a u32>,
    ) -> Result<(), Error> {
        if self.with_members.contains(&service) {
            for backend in backends {
                self.remove_member(service, *backend)?;
            }
        }
        Ok(())
    }

    /// Adds source ranges and members that are not there yet: all of them, or nothing if a map has no
    /// room.
    pub(super) fn make_room(
        &mut self,
        service: u32,
        ranges: &[IpNet],
        members: &BTreeSet<u32>,
    ) -> Result<(), Error> {
        let old: Vec<IpNet> = self.ranges_of(service).collect();
        let is_new = |backend: &&u32| {
            let key = MemberKey {
                service,
                backend: **backend,
            };
            self.maps.members.get(&key, 0).is_err()
        };
        let members: Vec<u32> = members.iter().filter(is_new).copied().collect();
        let result = self.add_all(service, ranges, &members);
        if result.is_err() {
            self.remove_source_ranges(service, &old)?;
            for backend in members {
                self.remove_member(service, backend)?;
            }
        }
        result
    }

    pub(super) fn add_all(
        &mut self,
        service: u32,
        ranges: &[IpNet],
        members: &[u32],
    ) -> Result<(), Error> {
        for range in ranges {
            self.ranges.entry(service).or_default().insert(*range);
            let result = self
                .maps
                .source_ranges
                .insert(&range_key(service, range), 0, 0);
            result.map_err(|source| full_or(names::SOURCE_RANGES, source))?;
        }
        if !members.is_empty() {
            self.with_members.insert(service);
        }
        for backend in members {
            self.add_member(service, *backend)?;
        }
        Ok(())
    }

    /// Removes all source ranges of a service but these.
    pub(super) fn remove_source_ranges(
        &mut self,
        service: u32,
        but: &[IpNet],
    ) -> Result<(), Error> {
        let gone: Vec<IpNet> = self
            .ranges_of(service)
            .filter(|range| !but.contains(range))
            .collect();
        for range in gone {
            let result = self.maps.source_ranges.remove(&range_key(service, &range));
            removed(names::SOURCE_RANGES, result)?;
            if let Some(ranges) = self.ranges.get_mut(&service) {
                ranges.remove(&range);
            }
        }
        if self.ranges.get(&service).is_some_and(BTreeSet::is_empty) {
            self.ranges.remove(&service);
        }
        Ok(())
    }

    pub(super) fn ranges_of(&self, service: u32) -> impl Iterator<Item = IpNet> {
        self.ranges.get(&service).into_iter().flatten().copied()
    }

    /// Backend ids in the order of the slots. Where nodes need not agree, a plain list is shorter,
    /// and shares are exactly even.
    pub(super) fn table(&self, spec: &ServiceSpec, ids: &[BackendId]) -> Vec<u32> {
        if !spec.consistent || ids.len() < 2 {
            return ids.iter().map(|id| id.0).collect();
        }
        // A table should have many slots for each backend, or shares are uneven.
        const SLOTS_PER_BACKEND: u32 = 100;
        let wanted = (ids.len() as u32).saturating_mul(SLOTS_PER_BACKEND);
        let larger = maglev::SIZES.into_iter().find(|size| *size >= wanted);
        let size = self.table_size.max(larger.unwrap_or(131_071));
        let mut members: Vec<Member> = spec
            .backends
            .iter()
            .zip(ids)
            .map(|(backend, id)| {
                let address = Addr::from(backend.address);
                Member::new(id.0, address, Port::new(backend.port), self.seed, size)
            })
            .collect();
        let mut table = vec![0; size as usize];
        maglev::fill(&mut table, &mut members);
        table
    }

    pub(super) fn put_frontend(
        &mut self,
        frontend: &Frontend,
        spec: &FrontendSpec,
        inside: ServiceId,
        outside: ServiceId,
    ) -> Result<(), Error> {
        let entry = FrontendEntry {
            inside: inside.0,
            outside: outside.0,
            flags: flags(spec),
            programmed_s: now_s(),
        };
        self.note_frontend(frontend, [inside.0, outside.0]);
        let result = self.maps.frontends.insert(frontend_key(frontend), entry, 0);
        result.map_err(|source| full_or(names::FRONTENDS, source))
    }

    pub(super) fn delete_frontend(&mut self, frontend: &Frontend) -> Result<(), Error> {
        self.note_frontend(frontend, [0; 2]);
        let result = self.maps.frontends.remove(&frontend_key(frontend));
        removed(names::FRONTENDS, result)
    }

    /// Datagrams of a frontend that other services get from now on find their way by no connection of
    /// the former ones.
    pub(super) fn note_frontend(&mut self, frontend: &Frontend, services: [u32; 2]) {
        if frontend.protocol != Protocol::Udp {
            return;
        }
        let key = frontend_key(frontend);
        // It may change again before a sweep came to its connections.
        let under_way = self.sweep.as_mut().map(|sweep| &mut sweep.removed);
        for removed in under_way.into_iter().chain([&mut self.removed]) {
            if let Some(noted) = removed.frontends.get_mut(&key) {
                *noted = services;
            }
        }
        if let Ok(old) = self.maps.frontends.get(&key, 0)
            && [old.inside, old.outside] != services
        {
            self.removed.frontends.insert(key, services);
        }
    }

    pub(super) fn put_address(&mut self, address: IpAddr, kind: AddressKind) -> Result<(), Error> {
        let entry = match kind {
            AddressKind::Shared => AddressEntry::SHARED,
            AddressKind::Service => AddressEntry::SERVICE,
        };
        let result = self.maps.addresses.insert(Addr::from(address), entry, 0);
        result.map_err(|source| full_or(names::ADDRESSES, source))
    }

    pub(super) fn delete_service(&mut self, id: u32) -> Result<(), Error> {
        let old = self.maps.services.get(id).unwrap_or_default();
        let backends = self.backends_in(old.slots());
        self.remove_members(id, backends.iter())?;
        self.with_members.remove(&id);
        for backend in backends {
            self.removed.pairs.insert(self.taken(id, backend));
        }
        self.remove_source_ranges(id, &[])?;
        self.slots.give_back(old.slots());
        // An id that was given out is within the maps.
        let _is_there = self.maps.services.set(id, ServiceEntry::default());
        if let Some(label) = ServiceLabel::new("") {
            let _is_there = self.maps.labels.set(id, label);
        }
        Ok(())
    }
}

pub(super) fn full_unless(fits: bool, name: &'static str, capacity: u32) -> Result<(), Error> {
    if fits {
        Ok(())
    } else {
        Err(Error::Full { name, capacity })
    }
}

/// An error of an insertion, which for a map without room names the map.
pub(super) fn full_or(name: &'static str, source: MapError) -> Error {
    match &source {
        MapError::SyscallError(error)
            if matches!(
                error.io_error.raw_os_error(),
                Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM)
            ) =>
        {
            Error::NoRoom { name }
        }
        _ => Error::map(name, source),
    }
}

/// The result of a removal. What is gone already, evicted or removed by hand, is as wanted.
pub(super) fn removed(name: &str, result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(source) => Err(Error::map(name, source)),
    }
}
