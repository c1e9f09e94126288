//! One function for each kind of change.

use std::{collections::BTreeSet, net::IpAddr};

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, BackendKey, FrontendEntry, Location, MemberKey, Port,
    REFUSED, ServiceEntry, ServiceFlags, ServiceLabel, SlotRange, Traffic, names,
};
use headgate_datapath::maglev::{self, Member};
use headgate_model::{
    AddressKind, AddressSpec, Backend, BackendId, Frontend, FrontendSpec, ServiceId, ServiceKey,
    ServiceSpec,
};
use ipnet::IpNet;

use super::{
    MapWriter,
    convert::{backend_entry, frontend_flags, frontend_key},
};
use crate::{error::Error, sockets::Connected, sys::now_s};

/// The new state of a Service, decided before anything is written.
struct ServicePlan {
    id: u32,
    entry: ServiceEntry,
    label: ServiceLabel,
    /// Backend ids in the order of the slots.
    table: Vec<u32>,
    backends: BTreeSet<u32>,
    /// Backends that clients with affinity may stay with.
    members: BTreeSet<u32>,
    source_ranges: Vec<IpNet>,
    /// Slots and backends until now.
    old_slots: SlotRange,
    old_backends: BTreeSet<u32>,
}

impl MapWriter {
    pub(super) fn put_backend(&mut self, id: u32, backend: &Backend) -> Result<(), Error> {
        let entry = backend_entry(backend);
        let old = self.maps.backends.get(id).ok_or(Error::Full {
            name: names::BACKENDS,
            capacity: self.maps.backends.len(),
        })?;
        // Resets the counters of the id's previous owner.
        if old.is_empty() {
            self.maps.backend_traffic.set(id, Traffic::default())?;
        }
        self.maps.backends.set(id, entry)?;
        // Other nodes may send to the backends of this node, and to no others.
        if entry.location == Location::THIS_NODE {
            self.maps
                .local_backends
                .put(&BackendKey::from(&entry), id)?;
        }
        Ok(())
    }

    pub(super) fn delete_backend(&mut self, id: u32) -> Result<(), Error> {
        let Some(old) = self.maps.backends.get(id) else {
            return Ok(());
        };
        if old.location == Location::THIS_NODE {
            self.maps.local_backends.remove(&BackendKey::from(&old))?;
        }
        // The port alone: a program that reads the id, and then this entry, gets the old backend or none.
        let unused = BackendEntry {
            address: old.address,
            ..BackendEntry::default()
        };
        self.maps.backends.set(id, unused)
    }

    pub(super) fn put_service(
        &mut self,
        id: u32,
        key: &ServiceKey,
        spec: &ServiceSpec,
        backends: &[BackendId],
    ) -> Result<(), Error> {
        let plan = self.plan_service(id, key, spec, backends)?;
        self.publish(&plan)?;
        if plan.old_slots.count == 0 && !plan.table.is_empty() {
            self.note_newly_served(id)?;
        }
        self.retire(&plan)
    }

    fn plan_service(
        &mut self,
        id: u32,
        key: &ServiceKey,
        spec: &ServiceSpec,
        backends: &[BackendId],
    ) -> Result<ServicePlan, Error> {
        let text = key.to_string();
        let label = ServiceLabel::new(&text).ok_or(Error::Label(text))?;
        let (old, old_label) = self
            .maps
            .services
            .get(id)
            .zip(self.maps.labels.get(id))
            .ok_or(Error::Full {
                name: names::SERVICES,
                capacity: self.maps.services.len(),
            })?;
        // Connections and counters of the id's previous owner are not this Service's.
        if old_label.text().is_empty() {
            self.finish_sweep_for(id)?;
            self.maps.service_traffic.set(id, Traffic::default())?;
        }
        let mut flags = ServiceFlags::default();
        flags.set(ServiceFlags::CONSISTENT, spec.consistent);
        flags.set(ServiceFlags::WEIGHTED, spec.shares.is_some());
        let backend_ids: BTreeSet<u32> = backends.iter().map(|backend| backend.0).collect();
        let members = match spec.affinity_timeout_s {
            0 => BTreeSet::new(),
            _ => backend_ids.clone(),
        };
        Ok(ServicePlan {
            id,
            entry: ServiceEntry::new(SlotRange::default(), spec.affinity_timeout_s, flags),
            label,
            table: self.table(spec, backends),
            backends: backend_ids,
            members,
            source_ranges: spec.source_ranges.to_vec(),
            old_slots: old.slots(),
            old_backends: self.backends_in(old.slots()),
        })
    }

    /// Writes everything that the new state needs, and then switches to it by one store.
    fn publish(&mut self, plan: &ServicePlan) -> Result<(), Error> {
        let slots = self.slots.take(plan.table.len() as u32)?;
        if let Err(error) = self.prepare(plan, slots) {
            self.slots.release(slots);
            return Err(error);
        }
        let ServiceEntry {
            affinity_timeout_s,
            flags,
            ..
        } = plan.entry;
        let entry = ServiceEntry::new(slots, affinity_timeout_s, flags);
        self.maps.services.set(plan.id, entry)
    }

    fn prepare(&mut self, plan: &ServicePlan, slots: SlotRange) -> Result<(), Error> {
        self.add_ranges_and_members(plan.id, &plan.source_ranges, &plan.members)?;
        for (slot, backend) in (slots.first..).zip(&plan.table) {
            self.maps.slots.set(slot, *backend)?;
        }
        self.maps.labels.set(plan.id, plan.label)
    }

    /// Removes what only the old state needed.
    fn retire(&mut self, plan: &ServicePlan) -> Result<(), Error> {
        self.slots.give_back(plan.old_slots);
        for backend in plan.old_backends.difference(&plan.backends) {
            self.note_removed(plan.id, *backend);
        }
        for backend in &plan.backends {
            self.note_in_use(plan.id, *backend);
        }
        self.remove_ranges_except(plan.id, &plan.source_ranges)?;
        self.remove_members(plan.id, plan.old_backends.difference(&plan.members))?;
        if plan.members.is_empty() {
            self.with_members.remove(&plan.id);
        }
        Ok(())
    }

    pub(super) fn delete_service(&mut self, id: u32) -> Result<(), Error> {
        let Some(old) = self.maps.services.get(id) else {
            return Ok(());
        };
        let backends = self.backends_in(old.slots());
        self.remove_members(id, backends.iter())?;
        self.with_members.remove(&id);
        for backend in backends {
            self.note_removed(id, backend);
        }
        self.remove_ranges_except(id, &[])?;
        self.slots.give_back(old.slots());
        self.maps.services.set(id, ServiceEntry::default())?;
        self.maps.labels.set(id, ServiceLabel::EMPTY)
    }

    pub(super) fn backends_in(&self, range: SlotRange) -> BTreeSet<u32> {
        let slots = range.first..range.first.saturating_add(range.count);
        let ids = slots.filter_map(|slot| self.maps.slots.get(slot));
        ids.filter(|id| *id != REFUSED).collect()
    }

    fn remove_members<'a>(
        &mut self,
        service: u32,
        backends: impl Iterator<Item = &'a u32>,
    ) -> Result<(), Error> {
        if self.with_members.contains(&service) {
            for backend in backends {
                let backend = *backend;
                self.maps.members.remove(&MemberKey { service, backend })?;
            }
        }
        Ok(())
    }

    /// Adds the missing source ranges and members: all of them, or nothing if a map is full.
    fn add_ranges_and_members(
        &mut self,
        service: u32,
        ranges: &[IpNet],
        members: &BTreeSet<u32>,
    ) -> Result<(), Error> {
        let old: Vec<IpNet> = self.ranges_of(service).collect();
        let mut added = Vec::new();
        for backend in members {
            let key = MemberKey {
                service,
                backend: *backend,
            };
            if self.maps.members.get(&key)?.is_none() {
                added.push(key);
            }
        }
        let result = self.add_all(service, ranges, &added);
        if result.is_err() {
            self.remove_ranges_except(service, &old)?;
            for key in added {
                self.maps.members.remove(&key)?;
            }
        }
        result
    }

    fn add_all(
        &mut self,
        service: u32,
        ranges: &[IpNet],
        members: &[MemberKey],
    ) -> Result<(), Error> {
        for range in ranges {
            self.ranges.entry(service).or_default().insert(*range);
            self.maps.source_ranges.put(service, range)?;
        }
        if !members.is_empty() {
            self.with_members.insert(service);
        }
        for key in members {
            self.maps.members.put(key, 0)?;
        }
        Ok(())
    }

    fn remove_ranges_except(&mut self, service: u32, kept: &[IpNet]) -> Result<(), Error> {
        let removed: Vec<IpNet> = self
            .ranges_of(service)
            .filter(|range| !kept.contains(range))
            .collect();
        for range in removed {
            self.maps.source_ranges.remove(service, &range)?;
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

    /// Returns the backend ids in the order of the slots. Where nodes need not agree, that is a plain list:
    /// it is shorter, and every backend gets the same share.
    pub(super) fn table(&self, spec: &ServiceSpec, ids: &[BackendId]) -> Vec<u32> {
        let size = spec.slots;
        let is_single = ids.len() < 2 && spec.shares.is_none();
        if !spec.consistent || is_single || !maglev::SIZES.contains(&size) {
            return ids.iter().map(|id| id.0).collect();
        }
        let member = |id: u32, address: Addr, port: u16| {
            Member::new(id, address, Port::new(port), self.seed, size)
        };
        let backends = spec.backends.iter().zip(ids);
        let mut members: Vec<Member> = backends
            .map(|(backend, id)| member(id.0, Addr::from(backend.address), backend.port))
            .collect();
        if let Some(shares) = &spec.shares {
            let weighed = members.iter_mut().zip(shares.iter());
            weighed.for_each(|(member, share)| *member = member.weighing(*share));
            // What refuses has the place in the order of preference of no backend.
            let rest = size.saturating_sub(shares.iter().sum());
            members.push(member(REFUSED, Addr::default(), 0).weighing(rest));
        }
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
            flags: frontend_flags(spec),
            programmed_s: now_s(),
        };
        self.note_frontend(frontend, [inside.0, outside.0])?;
        let key = frontend_key(frontend);
        let service = self.maps.services.get(inside.0).unwrap_or_default();
        let is_new = self.maps.frontends.get(&key)?.is_none();
        self.maps.frontends.put(&key, entry)?;
        if is_new && service.slots().count > 0 {
            self.newly_served.extend(Connected::to(&key));
        }
        Ok(())
    }

    pub(super) fn delete_frontend(&mut self, frontend: &Frontend) -> Result<(), Error> {
        self.note_frontend(frontend, [0; 2])?;
        self.maps.frontends.remove(&frontend_key(frontend))
    }

    /// Notes the frontends of a service that has endpoints now, and had none.
    fn note_newly_served(&mut self, service: u32) -> Result<(), Error> {
        for item in self.maps.frontends.scan()? {
            let (key, entry) = item?;
            if entry.inside == service {
                self.newly_served.extend(Connected::to(&key));
            }
        }
        Ok(())
    }

    /// Notes that other Services now serve a frontend: the connections of its former Services are stale.
    fn note_frontend(&mut self, frontend: &Frontend, services: [u32; 2]) -> Result<(), Error> {
        let key = frontend_key(frontend);
        // It may change again before a sweep reads its connections.
        let running = self.sweep.as_mut().map(|sweep| &mut sweep.removed);
        for removed in running.into_iter().chain([&mut self.removed]) {
            if let Some(noted) = removed.frontends.get_mut(&key) {
                *noted = services;
            }
        }
        if let Some(old) = self.maps.frontends.get(&key)?
            && [old.inside, old.outside] != services
        {
            self.removed.frontends.insert(key, services);
        }
        Ok(())
    }

    pub(super) fn put_address(&mut self, address: IpAddr, spec: AddressSpec) -> Result<(), Error> {
        let entry = match spec.kind {
            AddressKind::Shared => AddressEntry::SHARED,
            AddressKind::Node => AddressEntry::NODE,
            AddressKind::Service => AddressEntry::SERVICE,
        };
        let entry = entry.with_echo(spec.answers_echo);
        self.maps.addresses.put(&Addr::from(address), entry)
    }
}
