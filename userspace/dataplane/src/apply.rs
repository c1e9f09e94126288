//! The one writer of the maps.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use headgate_abi::{
    Addr, BackendEntry, CtState, FrontendEntry, FrontendFlags, FrontendKey, Port, ServiceEntry,
    ServiceLabel, SlotRange, names,
};
use headgate_datapath::maglev::{self, Candidate};
use headgate_model::{
    Actual, Backend, BackendId, BackendSpec, Change, Dataplane, Frontend, FrontendKind,
    FrontendSpec, Protocol, Scope, ServiceId, ServiceKey, ServiceSpec,
};

use crate::{error::Error, maps::Maps};

/// How long slots that no service refers to are left alone. A program that read the old range
/// finishes within microseconds; nothing but a stopped virtual machine takes it longer.
const QUARANTINE: Duration = Duration::from_secs(2);

/// Writes the maps.
pub struct Writer {
    maps: Maps,
    seed: u32,
    table_size: u32,
    slots: Slots,
    removed: BTreeSet<u32>,
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
            removed: BTreeSet::new(),
        }
    }

    fn put_backend(&mut self, id: u32, backend: &Backend, spec: &BackendSpec) -> Result<(), Error> {
        let entry = BackendEntry {
            address: Addr::from(backend.address),
            port: Port::new(backend.port),
            protocol: protocol(backend.protocol),
            local: u8::from(spec.local),
        };
        // Whoever had this id before is none of this backend's traffic.
        if self
            .maps
            .backends
            .get(id)
            .is_some_and(|old| old.port.number() == 0)
        {
            self.maps.reset_backend_traffic(id)?;
        }
        self.removed.remove(&id);
        full_unless(
            self.maps.backends.set(id, entry),
            names::BACKENDS,
            self.maps.backends.len(),
        )
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
        let old = self.maps.services.get(id);
        let capacity = self.maps.services.len();
        full_unless(old.is_some(), names::SERVICES, capacity)?;
        let table = self.table(spec, backends);
        let range = self.slots.take(table.len() as u32)?;
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
        let entry = ServiceEntry::new(range, spec.affinity_timeout_s);
        full_unless(self.maps.services.set(id, entry), names::SERVICES, capacity)?;
        self.slots.give_back(old.unwrap_or_default().slots());
        Ok(())
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
        let mut candidates: Vec<Candidate> = spec
            .backends
            .iter()
            .zip(ids)
            .map(|(backend, id)| {
                let address = Addr::from(backend.address);
                Candidate::new(id.0, address, Port::new(backend.port), self.seed, size)
            })
            .collect();
        let mut table = vec![0; size as usize];
        maglev::fill(&mut table, &mut candidates);
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
        };
        let result = self.maps.frontends.insert(frontend_key(frontend), entry, 0);
        result.map_err(|source| match source {
            MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Error::Full {
                    name: names::FRONTENDS,
                    capacity: self.maps.frontend_capacity(),
                }
            }
            source => Error::map(names::FRONTENDS, source),
        })
    }

    fn delete_service(&mut self, id: u32) {
        if let Some(old) = self.maps.services.get(id) {
            self.slots.give_back(old.slots());
        }
        // An id that was given out is within the maps.
        let _is_there = self.maps.services.set(id, ServiceEntry::default());
        if let Some(label) = ServiceLabel::new("") {
            let _is_there = self.maps.labels.set(id, label);
        }
    }

    fn restore_services(
        &mut self,
        backends: &BTreeMap<u32, Backend>,
    ) -> BTreeMap<ServiceKey, (ServiceId, ServiceSpec)> {
        let mut services = BTreeMap::new();
        for id in 1..self.maps.services.len() {
            let (Some(entry), Some(label)) = (self.maps.services.get(id), self.maps.labels.get(id))
            else {
                continue;
            };
            let Ok(key) = label.text().parse::<ServiceKey>() else {
                continue;
            };
            let range = entry.slots();
            self.slots.keep(range);
            let slots = range.first..range.first.saturating_add(range.count);
            let ids: BTreeSet<u32> = slots.filter_map(|slot| self.maps.slots.get(slot)).collect();
            let mut backends: Vec<Backend> = ids
                .iter()
                .filter_map(|id| backends.get(id))
                .copied()
                .collect();
            backends.sort();
            let spec = ServiceSpec {
                consistent: range.count as usize > ids.len(),
                backends,
                affinity_timeout_s: entry.affinity_timeout_s,
            };
            services.insert(key, (ServiceId(id), spec));
        }
        services
    }

    fn restore_frontends(
        &self,
        services: &BTreeMap<ServiceKey, (ServiceId, ServiceSpec)>,
    ) -> Result<BTreeMap<Frontend, FrontendSpec>, Error> {
        let keys: BTreeMap<u32, &ServiceKey> =
            services.iter().map(|(key, (id, _))| (id.0, key)).collect();
        let mut frontends = BTreeMap::new();
        for item in self.maps.frontends.iter() {
            let (key, entry) = item.map_err(|source| Error::map(names::FRONTENDS, source))?;
            let (Some(inside), Some(outside)) = (keys.get(&entry.inside), keys.get(&entry.outside))
            else {
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
            };
            frontends.insert(frontend, spec);
        }
        Ok(frontends)
    }
}

impl Dataplane for Writer {
    type Error = Error;

    fn restore(&mut self) -> Result<Actual, Error> {
        let mut backends = BTreeMap::new();
        let mut by_id = BTreeMap::new();
        for id in 1..self.maps.backends.len() {
            let Some(entry) = self
                .maps
                .backends
                .get(id)
                .filter(|entry| entry.port.number() != 0)
            else {
                continue;
            };
            let backend = Backend {
                address: IpAddr::from(entry.address),
                port: entry.port.number(),
                protocol: model_protocol(entry.protocol),
            };
            let spec = BackendSpec {
                local: entry.local != 0,
            };
            backends.insert(backend, (BackendId(id), spec));
            by_id.insert(id, backend);
        }
        let services = self.restore_services(&by_id);
        let frontends = self.restore_frontends(&services)?;
        Ok(Actual {
            services,
            backends,
            frontends,
        })
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
            Change::DeleteFrontend { frontend } => self
                .maps
                .frontends
                .remove(&frontend_key(frontend))
                .map_err(|source| Error::map(names::FRONTENDS, source)),
            Change::DeleteService { id, .. } => {
                self.delete_service(id.0);
                Ok(())
            }
            Change::DeleteBackend { id, .. } => {
                let _is_there = self.maps.backends.set(id.0, BackendEntry::default());
                self.removed.insert(id.0);
                Ok(())
            }
        }
    }

    /// Forgets the connections to removed backends that nobody would miss: UDP, which has no end of
    /// its own, and TCP that was never answered. Established TCP ends as its ends see fit.
    fn finish(&mut self) -> Result<(), Error> {
        if self.removed.is_empty() {
            return Ok(());
        }
        let mut stale = Vec::new();
        for item in self.maps.connections.iter() {
            let (flow, entry) = item.map_err(|source| Error::map(names::CONNTRACK, source))?;
            let is_dispensable =
                flow.protocol == headgate_abi::Protocol::UDP || entry.state == CtState::NEW;
            if is_dispensable && self.removed.contains(&entry.backend) {
                stale.push(flow);
            }
        }
        for flow in stale {
            match self.maps.connections.remove(&flow) {
                // The table may have dropped it meanwhile.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(Error::map(names::CONNTRACK, source)),
            }
        }
        self.removed.clear();
        Ok(())
    }
}

fn full_unless(fits: bool, name: &'static str, capacity: u32) -> Result<(), Error> {
    if fits {
        Ok(())
    } else {
        Err(Error::Full { name, capacity })
    }
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
    FrontendKey {
        address: Addr::from(frontend.address),
        port: Port::new(frontend.port),
        protocol: protocol(frontend.protocol),
        zero: 0,
    }
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
    FrontendFlags(flags)
}

/// Which slots are free.
struct Slots {
    capacity: u32,
    /// First slot and number of slots of each range in use or in quarantine.
    used: BTreeMap<u32, u32>,
    quarantine: VecDeque<(Instant, u32)>,
}

impl Slots {
    fn new(capacity: u32) -> Self {
        Self {
            capacity,
            used: BTreeMap::new(),
            quarantine: VecDeque::new(),
        }
    }

    fn keep(&mut self, range: SlotRange) {
        if range.count > 0 {
            self.used.insert(range.first, range.count);
        }
    }

    /// The first gap that is large enough.
    fn take(&mut self, count: u32) -> Result<SlotRange, Error> {
        while let Some((since, first)) = self.quarantine.front() {
            if since.elapsed() < QUARANTINE {
                break;
            }
            self.used.remove(first);
            self.quarantine.pop_front();
        }
        let mut first = 0;
        for (start, len) in &self.used {
            if start - first >= count {
                break;
            }
            first = start + len;
        }
        if self.capacity - first < count {
            return Err(Error::Full {
                name: names::SLOTS,
                capacity: self.capacity,
            });
        }
        let range = SlotRange { first, count };
        self.keep(range);
        Ok(range)
    }

    fn give_back(&mut self, range: SlotRange) {
        if range.count > 0 {
            self.quarantine.push_back((Instant::now(), range.first));
        }
    }
}
