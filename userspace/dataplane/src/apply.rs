//! The one writer of the maps.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::maps::{MapError, lpm_trie};
use headgate_abi::{
    Addr, AddressEntry, BackendEntry, BackendKey, CtEntry, CtState, FlowKey, FrontendEntry,
    FrontendFlags, FrontendKey, MemberKey, Port, RangeKey, ServiceEntry, ServiceFlags,
    ServiceLabel, SlotRange, names,
};
use headgate_datapath::{
    Direction,
    maglev::{self, Member},
    mirror,
};
use headgate_model::{
    Actual, AddressKind, Backend, BackendId, BackendSpec, Change, Dataplane, Frontend,
    FrontendKind, FrontendSpec, Protocol, Scope, ServiceId, ServiceKey, ServiceSpec,
};
use ipnet::IpNet;

use crate::{entries::Entries, error::Error, maps::Maps, slots::Slots, sockets, sys::now_s};

type Services = BTreeMap<ServiceKey, (ServiceId, ServiceSpec)>;

/// Connections that a sweep goes through before changes have their turn: about a millisecond.
const AT_ONCE: usize = 4096;
/// So many times as long as a sweep took, the next one waits.
const REST: u32 = 9;

/// `BPF_NOEXIST` of bpf(2).
const NOEXIST: u64 = 1;

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

    fn put_backend(&mut self, id: u32, backend: &Backend, spec: &BackendSpec) -> Result<(), Error> {
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
    fn add_local_backend(&mut self, id: u32, entry: &BackendEntry) -> Result<(), Error> {
        let backends = &mut self.maps.local_backends;
        let result = backends.insert(BackendKey::from(entry), id, 0);
        result.map_err(|source| full_or(names::LOCAL_BACKENDS, source))
    }

    fn remove_local_backend(&mut self, entry: &BackendEntry) -> Result<(), Error> {
        let backends = &mut self.maps.local_backends;
        let result = backends.remove(&BackendKey::from(entry));
        removed(names::LOCAL_BACKENDS, result)
    }

    fn delete_backend(&mut self, id: u32) -> Result<(), Error> {
        let old = self.maps.backends.get(id).unwrap_or_default();
        if old.local != 0 {
            self.remove_local_backend(&old)?;
        }
        // An id that was given out is within the maps.
        let _is_there = self.maps.backends.set(id, BackendEntry::default());
        Ok(())
    }

    fn put_service(
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
    fn taken(&self, service: u32, backend: u32) -> Taken {
        let entry = self.maps.backends.get(backend).unwrap_or_default();
        Taken {
            pair: MemberKey { service, backend },
            address: IpAddr::from(entry.address),
            port: entry.port.number(),
        }
    }

    fn backends_in(&self, range: SlotRange) -> BTreeSet<u32> {
        let slots = range.first..range.first.saturating_add(range.count);
        slots.filter_map(|slot| self.maps.slots.get(slot)).collect()
    }

    fn add_member(&mut self, service: u32, backend: u32) -> Result<(), Error> {
        let result = self
            .maps
            .members
            .insert(MemberKey { service, backend }, 0, 0);
        result.map_err(|source| full_or(names::AFFINITY_MEMBERS, source))
    }

    fn remove_member(&mut self, service: u32, backend: u32) -> Result<(), Error> {
        let result = self.maps.members.remove(&MemberKey { service, backend });
        removed(names::AFFINITY_MEMBERS, result)
    }

    fn remove_members<'a>(
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
    fn make_room(
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

    fn add_all(&mut self, service: u32, ranges: &[IpNet], members: &[u32]) -> Result<(), Error> {
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
    fn remove_source_ranges(&mut self, service: u32, but: &[IpNet]) -> Result<(), Error> {
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

    fn ranges_of(&self, service: u32) -> impl Iterator<Item = IpNet> {
        self.ranges.get(&service).into_iter().flatten().copied()
    }

    /// Source ranges by service id, as the map has them.
    fn read_source_ranges(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Error> {
        let mut ranges: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for key in self.maps.source_ranges.keys() {
            let key = key.map_err(|source| Error::map(names::SOURCE_RANGES, source))?;
            let RangeKey { service, address } = key.data();
            let address = IpAddr::from(address);
            let before = match address {
                IpAddr::V4(_) => RangeKey::BITS_BEFORE_V4,
                IpAddr::V6(_) => RangeKey::BITS_BEFORE_V6,
            };
            if let Ok(range) = IpNet::new(address, key.prefix_len().saturating_sub(before) as u8) {
                ranges.entry(service).or_default().insert(range);
            }
        }
        Ok(ranges)
    }

    /// Backend ids in the order of the slots. Where nodes need not agree, a plain list is shorter,
    /// and shares are exactly even.
    fn table(&self, spec: &ServiceSpec, ids: &[BackendId]) -> Vec<u32> {
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

    fn put_frontend(
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

    fn delete_frontend(&mut self, frontend: &Frontend) -> Result<(), Error> {
        self.note_frontend(frontend, [0; 2]);
        let result = self.maps.frontends.remove(&frontend_key(frontend));
        removed(names::FRONTENDS, result)
    }

    /// Datagrams of a frontend that other services get from now on find their way by no connection of
    /// the former ones.
    fn note_frontend(&mut self, frontend: &Frontend, services: [u32; 2]) {
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

    fn put_address(&mut self, address: IpAddr, kind: AddressKind) -> Result<(), Error> {
        let entry = match kind {
            AddressKind::Shared => AddressEntry::SHARED,
            AddressKind::Service => AddressEntry::SERVICE,
        };
        let result = self.maps.addresses.insert(Addr::from(address), entry, 0);
        result.map_err(|source| full_or(names::ADDRESSES, source))
    }

    fn delete_service(&mut self, id: u32) -> Result<(), Error> {
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

    fn restore_backends(&self) -> BTreeMap<u32, (Backend, BackendSpec)> {
        let entries = (1..self.maps.backends.len()).filter_map(|id| {
            let entry = self.maps.backends.get(id)?;
            (entry.port.number() != 0).then_some((id, entry))
        });
        let known = entries.map(|(id, entry)| {
            let backend = Backend {
                address: IpAddr::from(entry.address),
                port: entry.port.number(),
                protocol: model_protocol(entry.protocol),
            };
            let local = entry.local != 0;
            (id, (backend, BackendSpec { local }))
        });
        known.collect()
    }

    /// Services, and the members that those with affinity should have.
    fn restore_services(
        &mut self,
        backends: &BTreeMap<u32, (Backend, BackendSpec)>,
    ) -> Result<(Services, BTreeSet<MemberKey>), Error> {
        let mut services = BTreeMap::new();
        let mut members = BTreeSet::new();
        let mut used = Vec::new();
        self.ranges = self.read_source_ranges()?;
        for id in 1..self.maps.services.len() {
            let (Some(entry), Some(label)) = (self.maps.services.get(id), self.maps.labels.get(id))
            else {
                continue;
            };
            let Ok(key) = label.text().parse::<ServiceKey>() else {
                continue;
            };
            used.push(entry.slots());
            let ids = self.backends_in(entry.slots());
            if entry.affinity_timeout_s != 0 {
                members.extend(ids.iter().map(|backend| MemberKey {
                    service: id,
                    backend: *backend,
                }));
            }
            let known = ids.iter().filter_map(|id| Some((backends.get(id)?.0, *id)));
            let mut known: Vec<(Backend, u32)> = known.collect();
            known.sort();
            let mut spec = ServiceSpec {
                backends: known.iter().map(|(backend, _)| *backend).collect(),
                consistent: entry.flags == ServiceFlags::CONSISTENT,
                affinity_timeout_s: entry.affinity_timeout_s,
                source_ranges: self.ranges_of(id).collect(),
            };
            if self.is_new {
                let ids: Vec<BackendId> = known.iter().map(|(_, id)| BackendId(*id)).collect();
                let range = entry.slots();
                let slots = range.first..range.first.saturating_add(range.count);
                // A table of another seed or size would pick otherwise than other nodes do: one that
                // is consistent with nobody.
                if !slots
                    .map(|slot| self.maps.slots.get(slot))
                    .eq(self.table(&spec, &ids).into_iter().map(Some))
                {
                    spec.consistent = !spec.consistent;
                }
            }
            services.insert(key, (ServiceId(id), spec));
        }
        self.slots.restore(used);
        Ok((services, members))
    }

    /// Makes the members of services with affinity what they should be; returns how many were not.
    fn restore_members(&mut self, wanted: &BTreeSet<MemberKey>) -> Result<usize, Error> {
        self.with_members
            .extend(wanted.iter().map(|key| key.service));
        let failed = |source| Error::map(names::AFFINITY_MEMBERS, source);
        let found = self.maps.members.keys().collect::<Result<BTreeSet<_>, _>>();
        let found = found.map_err(failed)?;
        for key in found.difference(wanted) {
            self.remove_member(key.service, key.backend)?;
        }
        for key in wanted.difference(&found) {
            self.add_member(key.service, key.backend)?;
        }
        Ok(found.symmetric_difference(wanted).count())
    }

    /// Makes the table of this node's backends what it should be; returns how many were not.
    fn restore_local_backends(&mut self) -> Result<usize, Error> {
        let failed = |source| Error::map(names::LOCAL_BACKENDS, source);
        let backends = (1..self.maps.backends.len()).filter_map(|id| {
            let entry = self.maps.backends.get(id)?;
            (entry.local != 0).then_some((BackendKey::from(&entry), (id, entry)))
        });
        let wanted: HashMap<BackendKey, (u32, BackendEntry)> = backends.collect();
        let found = self.maps.local_backends.iter();
        let found = found
            .collect::<Result<HashMap<_, _>, _>>()
            .map_err(failed)?;
        let mut strays = 0;
        for key in found.keys().filter(|key| !wanted.contains_key(key)) {
            strays += 1;
            removed(names::LOCAL_BACKENDS, self.maps.local_backends.remove(key))?;
        }
        for (key, (id, entry)) in &wanted {
            if found.get(key) != Some(id) {
                strays += 1;
                self.add_local_backend(*id, entry)?;
            }
        }
        Ok(strays)
    }

    /// Frontends; those that name no service are removed and counted.
    fn restore_frontends(
        &mut self,
        services: &Services,
    ) -> Result<(BTreeMap<Frontend, FrontendSpec>, usize), Error> {
        let keys: BTreeMap<u32, &ServiceKey> =
            services.iter().map(|(key, (id, _))| (id.0, key)).collect();
        let mut frontends = BTreeMap::new();
        let mut strays = Vec::new();
        for item in self.maps.frontends.iter() {
            let (key, entry) = item.map_err(|source| Error::map(names::FRONTENDS, source))?;
            let services = (keys.get(&entry.inside), keys.get(&entry.outside));
            let (Some(inside), Some(outside)) = services else {
                strays.push(key);
                continue;
            };
            let frontend = Frontend {
                address: IpAddr::from(key.address),
                port: key.port.number(),
                protocol: model_protocol(key.protocol),
            };
            let kind = match entry.flags.kind() {
                0 => FrontendKind::ClusterIp,
                1 => FrontendKind::NodePort,
                2 => FrontendKind::LoadBalancer,
                _ => FrontendKind::ExternalIp,
            };
            let spec = FrontendSpec {
                kind,
                inside: (*inside).clone(),
                outside: (*outside).clone(),
                is_restricted: entry.flags.has(FrontendFlags::SOURCE_RANGES),
            };
            frontends.insert(frontend, spec);
        }
        for key in &strays {
            removed(names::FRONTENDS, self.maps.frontends.remove(key))?;
        }
        Ok((frontends, strays.len()))
    }

    fn restore_addresses(&self) -> Result<BTreeMap<IpAddr, AddressKind>, Error> {
        let entries = self.maps.addresses.iter().map(|item| {
            let (address, entry) = item.map_err(|source| Error::map(names::ADDRESSES, source))?;
            let kind = match entry {
                AddressEntry::SERVICE => AddressKind::Service,
                _ => AddressKind::Shared,
            };
            Ok((IpAddr::from(address), kind))
        });
        entries.collect()
    }

    /// Everything that connections may rightly say.
    fn all_taken(&self) -> BTreeSet<Taken> {
        let services = (1..self.maps.services.len())
            .filter_map(|service| Some((service, self.maps.services.get(service)?)));
        let pairs = services.flat_map(|(service, entry)| {
            let backends = self.backends_in(entry.slots()).into_iter();
            backends.map(move |backend| self.taken(service, backend))
        });
        pairs.collect()
    }

    /// Forgets those of these connections that are dispensable.
    fn forget_connections(
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
    fn forget_connection(&mut self, stale: &Stale<'_>, flow: &FlowKey) -> Result<(), Error> {
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
    fn go_on(&mut self, sweep: &mut Sweep) -> Result<bool, Error> {
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
    fn end_sweep_for(&mut self, service: u32) -> Result<(), Error> {
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
    fn end_sockets(&mut self, stale: &Stale<'_>) -> Result<(), Error> {
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
struct Taken {
    pair: MemberKey,
    address: IpAddr,
    port: u16,
}

/// What connections are forgotten for.
#[derive(Default)]
struct Removed {
    /// Ways that services no longer take.
    pairs: BTreeSet<Taken>,
    /// Frontends over UDP that have other services now, and which, from inside and outside; 0: none.
    frontends: HashMap<FrontendKey, [u32; 2]>,
}

impl Removed {
    fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.frontends.is_empty()
    }

    /// Adds what was taken out before, and not done.
    fn put_back(&mut self, older: Self) {
        self.pairs.extend(older.pairs);
        for (frontend, services) in older.frontends {
            self.frontends.entry(frontend).or_insert(services);
        }
    }
}

/// Going through all connections for those that are no more.
struct Sweep {
    removed: Removed,
    connections: Entries<FlowKey, CtEntry>,
    /// How long it took so far.
    took: Duration,
}

/// What is no more.
enum Stale<'a> {
    These(&'a Removed),
    AllBut(&'a BTreeSet<Taken>),
}

impl Stale<'_> {
    fn has(&self, taken: &Taken) -> bool {
        match self {
            Self::These(removed) => removed.pairs.contains(taken),
            Self::AllBut(there) => taken.pair.service != 0 && !there.contains(taken),
        }
    }

    /// Whether nobody would miss a connection: UDP, which has no end of its own, and TCP that was never
    /// answered. Established TCP ends as its ends see fit.
    fn is_dispensable(&self, flow: &FlowKey, entry: &CtEntry) -> bool {
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

    fn has_frontend(&self, flow: &FlowKey, entry: &CtEntry) -> bool {
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

fn full_unless(fits: bool, name: &'static str, capacity: u32) -> Result<(), Error> {
    if fits {
        Ok(())
    } else {
        Err(Error::Full { name, capacity })
    }
}

/// An error of an insertion, which for a map without room names the map.
fn full_or(name: &'static str, source: MapError) -> Error {
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
fn removed(name: &str, result: Result<(), MapError>) -> Result<(), Error> {
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

fn range_key(service: u32, range: &IpNet) -> lpm_trie::Key<RangeKey> {
    let before = match range {
        IpNet::V4(_) => RangeKey::BITS_BEFORE_V4,
        IpNet::V6(_) => RangeKey::BITS_BEFORE_V6,
    };
    let address = Addr::from(range.network());
    lpm_trie::Key::new(
        before + u32::from(range.prefix_len()),
        RangeKey { service, address },
    )
}

fn protocol(protocol: Protocol) -> headgate_abi::Protocol {
    match protocol {
        Protocol::Tcp => headgate_abi::Protocol::TCP,
        Protocol::Udp => headgate_abi::Protocol::UDP,
    }
}

fn model_protocol(protocol: headgate_abi::Protocol) -> Protocol {
    if protocol == headgate_abi::Protocol::UDP {
        Protocol::Udp
    } else {
        Protocol::Tcp
    }
}

fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(
        Addr::from(frontend.address),
        Port::new(frontend.port),
        protocol(frontend.protocol),
    )
}

fn flags(spec: &FrontendSpec) -> FrontendFlags {
    let kind = match spec.kind {
        FrontendKind::ClusterIp => 0,
        FrontendKind::NodePort => 1,
        FrontendKind::LoadBalancer => 2,
        FrontendKind::ExternalIp => 3,
    };
    let mut flags = kind << FrontendFlags::KIND_SHIFT;
    if spec.inside.scope == Scope::Local {
        flags |= FrontendFlags::DROP_INSIDE.0;
    }
    if spec.outside.scope == Scope::Local {
        flags |= FrontendFlags::DROP_OUTSIDE.0;
    }
    if spec.is_restricted {
        flags |= FrontendFlags::SOURCE_RANGES.0;
    }
    FrontendFlags(flags)
}
