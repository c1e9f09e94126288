//! From actual to desired.

use std::collections::BTreeMap;

use crate::{Actual, Backend, BackendId, Change, Desired, ServiceId, ServiceKey, Touched};

/// The changes that lead from `actual` to `desired` where `touched` says that they may differ.
///
/// Additions come first, from what is referred to up to what refers, removals last and the other
/// way round: after every change of the list, each frontend names existing services and each
/// service existing backends. Ids that exist are kept, and an id in quarantine is given back to its
/// last owner; new ones are the lowest that are available.
pub fn diff(actual: &Actual, desired: &Desired, touched: &Touched) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut ids = NewIds::of(actual);
    for backend in &touched.backends {
        let Some(spec) = desired.backends.get(backend) else {
            continue;
        };
        let known = actual.backends.get(backend);
        if known.is_none_or(|(_, known)| known != spec) {
            changes.push(Change::PutBackend {
                id: ids.backend(backend),
                backend: *backend,
                spec: *spec,
            });
        }
    }
    for key in &touched.services {
        let Some(spec) = desired.services.get(key) else {
            continue;
        };
        let known = actual.services.get(key);
        if known.is_none_or(|(_, known)| known != spec) {
            let backends = spec.backends.iter();
            changes.push(Change::PutService {
                id: ids.service(key),
                key: key.clone(),
                spec: spec.clone(),
                backends: backends.map(|backend| ids.backend(backend)).collect(),
            });
        }
    }
    for frontend in &touched.frontends {
        let Some(spec) = desired.frontends.get(frontend) else {
            continue;
        };
        if actual.frontends.get(frontend) != Some(spec) {
            changes.push(Change::PutFrontend {
                frontend: *frontend,
                inside: ids.service(&spec.inside),
                outside: ids.service(&spec.outside),
                spec: spec.clone(),
            });
        }
    }
    for address in &touched.addresses {
        if let Some(kind) = desired.addresses.get(address)
            && actual.addresses.get(address) != Some(kind)
        {
            changes.push(Change::PutAddress {
                address: *address,
                kind: *kind,
            });
        }
    }
    for address in &touched.addresses {
        if actual.addresses.contains_key(address) && !desired.addresses.contains_key(address) {
            changes.push(Change::DeleteAddress { address: *address });
        }
    }
    for frontend in &touched.frontends {
        if actual.frontends.contains_key(frontend) && !desired.frontends.contains_key(frontend) {
            changes.push(Change::DeleteFrontend {
                frontend: *frontend,
            });
        }
    }
    for key in &touched.services {
        if let Some((id, _)) = actual.services.get(key)
            && !desired.services.contains_key(key)
        {
            changes.push(Change::DeleteService {
                id: *id,
                key: key.clone(),
            });
        }
    }
    for backend in &touched.backends {
        if let Some((id, _)) = actual.backends.get(backend)
            && !desired.backends.contains_key(backend)
        {
            changes.push(Change::DeleteBackend {
                id: *id,
                backend: *backend,
            });
        }
    }
    changes
}

/// Ids in use, and those given out by this diff.
struct NewIds<'a> {
    actual: &'a Actual,
    services: BTreeMap<ServiceKey, u32>,
    backends: BTreeMap<Backend, u32>,
    free_services: Box<dyn Iterator<Item = u32> + 'a>,
    free_backends: Box<dyn Iterator<Item = u32> + 'a>,
}

impl<'a> NewIds<'a> {
    fn of(actual: &'a Actual) -> Self {
        Self {
            actual,
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            free_services: Box::new(actual.service_ids.free()),
            free_backends: Box::new(actual.backend_ids.free()),
        }
    }

    fn service(&mut self, key: &ServiceKey) -> ServiceId {
        if let Some((id, _)) = self.actual.services.get(key) {
            return *id;
        }
        if let Some(id) = self.actual.service_ids.resting(key) {
            return ServiceId(id);
        }
        let free = &mut self.free_services;
        let id = self.services.entry(key.clone());
        ServiceId(*id.or_insert_with(|| free.next().unwrap_or(0)))
    }

    fn backend(&mut self, backend: &Backend) -> BackendId {
        if let Some((id, _)) = self.actual.backends.get(backend) {
            return *id;
        }
        if let Some(id) = self.actual.backend_ids.resting(backend) {
            return BackendId(id);
        }
        let free = &mut self.free_backends;
        let id = self.backends.entry(*backend);
        BackendId(*id.or_insert_with(|| free.next().unwrap_or(0)))
    }
}
