//! Reading what the maps hold, and repairing what makes no sense.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use headgate_abi::{
    AddressEntry, BackendEntry, BackendKey, FrontendFlags, MemberKey, RangeKey, ServiceFlags, names,
};
use headgate_model::{
    AddressKind, Backend, BackendId, BackendSpec, Frontend, FrontendKind, FrontendSpec, ServiceId,
    ServiceKey, ServiceSpec,
};
use ipnet::IpNet;

use super::{Writer, convert::model_protocol, write::removed};
use crate::error::Error;

type Services = BTreeMap<ServiceKey, (ServiceId, ServiceSpec)>;

impl Writer {
    /// Source ranges by service id, as the map has them.
    pub(super) fn read_source_ranges(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Error> {
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

    pub(super) fn restore_backends(&self) -> BTreeMap<u32, (Backend, BackendSpec)> {
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
    pub(super) fn restore_services(
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
    pub(super) fn restore_members(&mut self, wanted: &BTreeSet<MemberKey>) -> Result<usize, Error> {
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
    pub(super) fn restore_local_backends(&mut self) -> Result<usize, Error> {
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
    pub(super) fn restore_frontends(
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

    pub(super) fn restore_addresses(&self) -> Result<BTreeMap<IpAddr, AddressKind>, Error> {
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
}
