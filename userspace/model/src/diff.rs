//! From actual to desired.

use std::collections::BTreeSet;

use crate::{Actual, Backend, BackendId, Change, Desired, ServiceId, ServiceKey};

/// The changes that lead from `actual` to `desired`.
///
/// Additions come first, from what is referred to up to what refers, removals last and the other
/// way round: after every change of the list, each frontend names existing services and each
/// service existing backends. Ids that exist are kept; new ones are the lowest that neither is
/// nor, in this list, was in use.
pub fn diff(actual: &Actual, desired: &Desired) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut ids = Ids::new(actual);
    for (backend, spec) in &desired.backends {
        let known = actual.backends.get(backend);
        if known.is_none_or(|(_, known)| known != spec) {
            let id = ids.backend(backend);
            changes.push(Change::PutBackend {
                id,
                backend: *backend,
                spec: *spec,
            });
        }
    }
    for (key, spec) in &desired.services {
        let known = actual.services.get(key);
        if known.is_none_or(|(_, known)| known != spec) {
            let backends = spec
                .backends
                .iter()
                .map(|backend| ids.backend(backend))
                .collect();
            changes.push(Change::PutService {
                id: ids.service(key),
                key: key.clone(),
                spec: spec.clone(),
                backends,
            });
        }
    }
    for (frontend, spec) in &desired.frontends {
        if actual.frontends.get(frontend) != Some(spec) {
            changes.push(Change::PutFrontend {
                frontend: *frontend,
                inside: ids.service(&spec.inside),
                outside: ids.service(&spec.outside),
                spec: spec.clone(),
            });
        }
    }
    let gone = actual
        .frontends
        .keys()
        .filter(|known| !desired.frontends.contains_key(known));
    changes.extend(gone.map(|frontend| Change::DeleteFrontend {
        frontend: *frontend,
    }));
    let gone = actual
        .services
        .iter()
        .filter(|(key, _)| !desired.services.contains_key(key));
    changes.extend(gone.map(|(key, (id, _))| Change::DeleteService {
        id: *id,
        key: key.clone(),
    }));
    let gone = actual
        .backends
        .iter()
        .filter(|(known, _)| !desired.backends.contains_key(known));
    changes.extend(gone.map(|(backend, (id, _))| Change::DeleteBackend {
        id: *id,
        backend: *backend,
    }));
    changes
}

/// Ids in use, and those given out by this diff.
struct Ids<'a> {
    actual: &'a Actual,
    services: Allocator<ServiceKey>,
    backends: Allocator<Backend>,
}

struct Allocator<K> {
    used: BTreeSet<u32>,
    next: u32,
    given: std::collections::BTreeMap<K, u32>,
}

impl<K: Ord + Clone> Allocator<K> {
    fn new(used: BTreeSet<u32>) -> Self {
        Self {
            used,
            next: 1,
            given: Default::default(),
        }
    }

    fn get(&mut self, key: &K) -> u32 {
        if let Some(id) = self.given.get(key) {
            return *id;
        }
        while self.used.contains(&self.next) {
            self.next += 1;
        }
        self.given.insert(key.clone(), self.next);
        self.next += 1;
        self.next - 1
    }
}

impl<'a> Ids<'a> {
    fn new(actual: &'a Actual) -> Self {
        Self {
            actual,
            services: Allocator::new(actual.services.values().map(|(id, _)| id.0).collect()),
            backends: Allocator::new(actual.backends.values().map(|(id, _)| id.0).collect()),
        }
    }

    fn service(&mut self, key: &ServiceKey) -> ServiceId {
        match self.actual.services.get(key) {
            Some((id, _)) => *id,
            None => ServiceId(self.services.get(key)),
        }
    }

    fn backend(&mut self, backend: &Backend) -> BackendId {
        match self.actual.backends.get(backend) {
            Some((id, _)) => *id,
            None => BackendId(self.backends.get(backend)),
        }
    }
}
