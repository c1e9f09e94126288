//! The changes from the actual to the desired state.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Actual, Backend, BackendId, Change, Desired, ServiceId, ServiceKey, Touched};

/// Returns the changes from `actual` to `desired`, comparing only the keys in `touched`.
///
/// Additions come first, in the order backends, services, frontends, addresses; then removals in
/// the opposite order. So after every change of the list each frontend names existing services, and
/// each service existing backends. Existing ids are kept. An id in quarantine is given back to its
/// last owner; other new ids are the lowest that are available.
pub fn diff(actual: &Actual, desired: &Desired, touched: &Touched) -> Vec<Change> {
    let mut ids = NewIds::of(actual);
    let mut changes = Vec::new();
    put_backends(actual, desired, touched, &mut ids, &mut changes);
    put_services(actual, desired, touched, &mut ids, &mut changes);
    put_frontends(actual, desired, touched, &mut ids, &mut changes);
    put_addresses(actual, desired, touched, &mut changes);
    let addresses = removed(&touched.addresses, &actual.addresses, &desired.addresses);
    changes.extend(addresses.map(|(address, _)| Change::DeleteAddress { address: *address }));
    let frontends = removed(&touched.frontends, &actual.frontends, &desired.frontends);
    changes.extend(frontends.map(|(frontend, _)| Change::DeleteFrontend {
        frontend: *frontend,
    }));
    let services = removed(&touched.services, &actual.services, &desired.services);
    changes.extend(services.map(|(key, (id, _))| Change::DeleteService {
        id: *id,
        key: key.clone(),
    }));
    for backend in touched.backends.difference(&desired.backends) {
        let id = actual.backends.get(backend);
        changes.extend(id.map(|id| Change::DeleteBackend {
            id: *id,
            backend: *backend,
        }));
    }
    changes
}

fn put_backends(
    actual: &Actual,
    desired: &Desired,
    touched: &Touched,
    ids: &mut NewIds<'_>,
    changes: &mut Vec<Change>,
) {
    for backend in touched.backends.intersection(&desired.backends) {
        if !actual.backends.contains_key(backend) {
            changes.push(Change::PutBackend {
                id: ids.backend(backend),
                backend: *backend,
            });
        }
    }
}

fn put_services(
    actual: &Actual,
    desired: &Desired,
    touched: &Touched,
    ids: &mut NewIds<'_>,
    changes: &mut Vec<Change>,
) {
    for (key, spec) in wanted(&touched.services, &desired.services) {
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
}

fn put_frontends(
    actual: &Actual,
    desired: &Desired,
    touched: &Touched,
    ids: &mut NewIds<'_>,
    changes: &mut Vec<Change>,
) {
    for (frontend, spec) in wanted(&touched.frontends, &desired.frontends) {
        if actual.frontends.get(frontend) != Some(spec) {
            changes.push(Change::PutFrontend {
                frontend: *frontend,
                inside: ids.service(&spec.inside),
                outside: ids.service(&spec.outside),
                spec: spec.clone(),
            });
        }
    }
}

fn put_addresses(actual: &Actual, desired: &Desired, touched: &Touched, changes: &mut Vec<Change>) {
    for (address, spec) in wanted(&touched.addresses, &desired.addresses) {
        if actual.addresses.get(address) != Some(spec) {
            changes.push(Change::PutAddress {
                address: *address,
                spec: *spec,
            });
        }
    }
}

/// The touched keys that are desired, with what they should be.
fn wanted<'a, K: Ord, V>(
    touched: &'a BTreeSet<K>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let wanted = |key| Some((key, desired.get(key)?));
    touched.iter().filter_map(wanted)
}

/// The touched keys that exist and are not desired, with what they are.
fn removed<'a, K: Ord, A, D>(
    touched: &'a BTreeSet<K>,
    actual: &'a BTreeMap<K, A>,
    desired: &'a BTreeMap<K, D>,
) -> impl Iterator<Item = (&'a K, &'a A)> {
    let gone = |key: &&K| !desired.contains_key(*key);
    let known = |key| Some((key, actual.get(key)?));
    touched.iter().filter(gone).filter_map(known)
}

/// Existing ids, and the new ones of this diff.
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
        if let Some(id) = self.actual.backends.get(backend) {
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
