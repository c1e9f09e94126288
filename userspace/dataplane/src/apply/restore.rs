//! Reads what the maps hold, and repairs entries that contradict each other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use headgate_abi::{BackendKey, Location, MemberKey, ServiceEntry, ServiceFlags, SlotRange};
use headgate_model::{
    Actual, AddressKind, AddressSpec, Backend, BackendId, Frontend, FrontendSpec, Restored,
    ServiceId, ServiceKey, ServiceSpec,
};
use ipnet::IpNet;

use super::{
    MapWriter,
    convert::{backend, frontend, frontend_spec},
};
use crate::error::Error;

type Backends = BTreeMap<u32, Backend>;
type Services = BTreeMap<ServiceKey, (ServiceId, ServiceSpec)>;

impl MapWriter {
    pub(super) fn read_and_repair(&mut self) -> Result<Restored, Error> {
        let by_id = self.read_backends();
        self.ranges = self.read_source_ranges()?;
        let services = self.read_services(&by_id);
        let (frontends, orphans) = self.read_frontends(&services)?;
        let repairs = orphans + self.repair_members()? + self.repair_local_backends()?;
        let backends: BTreeMap<Backend, BackendId> = by_id
            .into_iter()
            .map(|(id, backend)| (backend, BackendId(id)))
            .collect();
        let actual = Actual {
            service_ids: services.values().map(|(id, _)| id.0).collect(),
            backend_ids: backends.values().map(|id| id.0).collect(),
            services,
            backends,
            frontends,
            addresses: self.read_addresses()?,
        };
        Ok(Restored { actual, repairs })
    }

    fn read_backends(&self) -> Backends {
        let entries = (1..self.maps.backends.len())
            .filter_map(|id| Some((id, self.maps.backends.get(id)?)))
            .filter(|(_, entry)| !entry.is_empty());
        entries.map(|(id, entry)| (id, backend(&entry))).collect()
    }

    /// Reads the source ranges by Service id.
    fn read_source_ranges(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Error> {
        let mut ranges: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for (service, range) in self.maps.source_ranges.read()? {
            ranges.entry(service).or_default().insert(range);
        }
        Ok(ranges)
    }

    /// Returns the entries of the services that have a name.
    fn service_entries(&self) -> impl Iterator<Item = (u32, ServiceKey, ServiceEntry)> {
        (1..self.maps.services.len()).filter_map(|id| {
            let key = self.maps.labels.get(id)?.text().parse().ok()?;
            Some((id, key, self.maps.services.get(id)?))
        })
    }

    fn read_services(&mut self, backends: &Backends) -> Services {
        let mut services = BTreeMap::new();
        let mut used = Vec::new();
        for (id, key, entry) in self.service_entries() {
            used.push(entry.slots());
            let spec = self.read_service(id, &entry, backends);
            services.insert(key, (ServiceId(id), spec));
        }
        self.slots.restore(used);
        services
    }

    fn read_service(&self, id: u32, entry: &ServiceEntry, backends: &Backends) -> ServiceSpec {
        let ids = self.backends_in(entry.slots());
        let known = ids.iter().filter_map(|id| Some((*backends.get(id)?, *id)));
        let mut known: Vec<(Backend, u32)> = known.collect();
        known.sort();
        let mut spec = ServiceSpec {
            backends: known.iter().map(|(backend, _)| *backend).collect(),
            shares: self.shares_of(entry, &known),
            consistent: entry.flags.contains(ServiceFlags::CONSISTENT),
            slots: entry.slots().count,
            affinity_timeout_s: entry.affinity_timeout_s,
            source_ranges: self.ranges_of(id).collect(),
        };
        if self.is_new {
            let ids: Vec<BackendId> = known.iter().map(|(_, id)| BackendId(*id)).collect();
            let range = entry.slots();
            let slots = range.first..range.first.saturating_add(range.count);
            let found = slots.map(|slot| self.maps.slots.get(slot));
            // A table of another seed or size disagrees with the other nodes: a spec that differs from what is
            // wanted makes the agent write it again.
            if !found.eq(self.table(&spec, &ids).into_iter().map(Some)) {
                spec.consistent = !spec.consistent;
            }
        }
        spec
    }

    /// The number of slots of each backend, if the service has weights.
    fn shares_of(&self, entry: &ServiceEntry, backends: &[(Backend, u32)]) -> Option<Arc<[u32]>> {
        if !entry.flags.contains(ServiceFlags::WEIGHTED) {
            return None;
        }
        let SlotRange { first, count } = entry.slots();
        let mut slots: BTreeMap<u32, u32> = BTreeMap::new();
        for id in (first..first.saturating_add(count)).filter_map(|slot| self.maps.slots.get(slot))
        {
            *slots.entry(id).or_default() += 1;
        }
        let shares = backends.iter().map(|(_, id)| slots.get(id).copied());
        Some(shares.map(Option::unwrap_or_default).collect())
    }

    /// Makes the members those of the services with affinity; returns how many were missing or too much.
    fn repair_members(&mut self) -> Result<usize, Error> {
        let mut wanted = BTreeSet::new();
        for (service, _, entry) in self.service_entries() {
            if entry.affinity_timeout_s != 0 {
                let backends = self.backends_in(entry.slots()).into_iter();
                wanted.extend(backends.map(|backend| MemberKey { service, backend }));
            }
        }
        self.with_members
            .extend(wanted.iter().map(|key| key.service));
        let found = self.maps.members.scan()?;
        let found = found.map(|entry| entry.map(|(key, _)| key));
        let found = found.collect::<Result<BTreeSet<_>, _>>()?;
        for key in found.difference(&wanted) {
            self.maps.members.remove(key)?;
        }
        for key in wanted.difference(&found) {
            self.maps.members.put(key, 0)?;
        }
        Ok(found.symmetric_difference(&wanted).count())
    }

    /// Makes the table of this node's backends that of the backends; returns how many entries were missing,
    /// wrong or too much.
    fn repair_local_backends(&mut self) -> Result<usize, Error> {
        let backends = (1..self.maps.backends.len())
            .filter_map(|id| Some((id, self.maps.backends.get(id)?)))
            .filter(|(_, entry)| entry.location == Location::THIS_NODE);
        let wanted: HashMap<BackendKey, u32> = backends
            .map(|(id, entry)| (BackendKey::from(&entry), id))
            .collect();
        let found = self.maps.local_backends.scan()?;
        let found = found.collect::<Result<HashMap<_, _>, _>>()?;
        let mut repairs = 0;
        for key in found.keys().filter(|key| !wanted.contains_key(key)) {
            repairs += 1;
            self.maps.local_backends.remove(key)?;
        }
        for (key, id) in &wanted {
            if found.get(key) != Some(id) {
                repairs += 1;
                self.maps.local_backends.put(key, *id)?;
            }
        }
        Ok(repairs)
    }

    /// Reads the frontends. Removes and counts those that name no service.
    fn read_frontends(
        &mut self,
        services: &Services,
    ) -> Result<(BTreeMap<Frontend, FrontendSpec>, usize), Error> {
        let keys: BTreeMap<u32, &ServiceKey> =
            services.iter().map(|(key, (id, _))| (id.0, key)).collect();
        let mut frontends = BTreeMap::new();
        let mut orphans = Vec::new();
        for item in self.maps.frontends.scan()? {
            let (key, entry) = item?;
            match (keys.get(&entry.inside), keys.get(&entry.outside)) {
                (Some(inside), Some(outside)) => {
                    let spec = frontend_spec(&entry, inside, outside);
                    frontends.insert(frontend(&key), spec);
                }
                _ => orphans.push(key),
            }
        }
        for key in &orphans {
            self.maps.frontends.remove(key)?;
        }
        Ok((frontends, orphans.len()))
    }

    fn read_addresses(&self) -> Result<BTreeMap<IpAddr, AddressSpec>, Error> {
        let entries = self.maps.addresses.scan()?.map(|item| {
            let (address, entry) = item?;
            let kind = match (entry.is_service(), entry.is_of_node()) {
                (true, _) => AddressKind::Service,
                (false, true) => AddressKind::Node,
                (false, false) => AddressKind::Shared,
            };
            let spec = AddressSpec {
                kind,
                answers_echo: entry.answers_echo(),
            };
            Ok((IpAddr::from(address), spec))
        });
        entries.collect()
    }
}
