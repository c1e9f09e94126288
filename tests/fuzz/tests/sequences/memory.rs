//! Maps in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use headgate_model::{
    Actual, Backend, BackendId, Change, Dataplane, KeyParts, Restored, ServiceKey, ServiceSpec,
    Sweep,
};

use crate::{
    agent::{Broken, World},
    cluster::Stray,
    reference::assert_consistent,
};

/// Maps in memory that check every change.
pub(crate) struct CheckedMaps {
    actual: Actual,
    /// Whether the test wrote to them since they were last read.
    is_tampered: bool,
}

impl Dataplane for CheckedMaps {
    type Error = Broken;

    fn restore(&mut self) -> Result<Restored, Broken> {
        self.is_tampered = false;
        let before = self.actual.frontends.len();
        let services = &self.actual.services;
        self.actual.frontends.retain(|_, spec| {
            services.contains_key(&spec.inside) && services.contains_key(&spec.outside)
        });
        let strays = before - self.actual.frontends.len();
        // As for the maps of the kernel: an id belongs to one backend, and ids without a backend are
        // ignored.
        let mut ids = BTreeSet::new();
        self.actual.backends.retain(|_, id| ids.insert(*id));
        for (_, spec) in self.actual.services.values_mut() {
            keep_known(spec, &self.actual.backends);
        }
        let backends = self.actual.backends.values();
        self.actual.backend_ids = backends.map(|id| id.0).collect();
        Ok(Restored {
            actual: self.actual.clone(),
            repairs: strays,
        })
    }

    fn apply(&mut self, change: &Change) -> Result<(), Broken> {
        self.actual.record(change, Instant::now());
        if self.is_tampered {
            return Ok(());
        }
        // The ids belong to the backends and services that they stand for.
        match change {
            Change::PutService { spec, backends, .. } => {
                for (backend, id) in spec.backends.iter().zip(backends) {
                    assert_eq!(self.actual.backends[backend], *id, "id of {backend}");
                }
            }
            Change::PutFrontend {
                spec,
                inside,
                outside,
                ..
            } => {
                for (key, id) in [(&spec.inside, inside), (&spec.outside, outside)] {
                    assert_eq!(self.actual.services[key].0, *id, "id of {key}");
                }
            }
            _ => {}
        }
        assert_consistent(&self.actual);
        Ok(())
    }

    fn step_sweep(&mut self) -> Result<Sweep, Broken> {
        Ok(Sweep::Done)
    }
}

fn keep_known(spec: &mut ServiceSpec, known: &BTreeMap<Backend, BackendId>) {
    let backends = spec.backends.iter().copied();
    spec.backends = backends
        .filter(|backend| known.contains_key(backend))
        .collect();
}

impl World for CheckedMaps {
    const HAS_ROOM: bool = true;

    fn new() -> Option<Self> {
        Some(Self {
            actual: Actual::default(),
            is_tampered: false,
        })
    }

    fn holds(&mut self) -> Actual {
        self.actual.clone()
    }

    fn tamper(&mut self, stray: Stray) {
        self.is_tampered = true;
        let actual = &mut self.actual;
        match stray {
            Stray::LoseFrontend => drop(actual.frontends.pop_first()),
            Stray::AddFrontend => {
                if let Some((mut frontend, mut spec)) = actual.frontends.pop_first() {
                    actual.frontends.insert(frontend, spec.clone());
                    frontend.port = 9;
                    spec.inside = ServiceKey::from(KeyParts {
                        service: spec.inside.service.clone(),
                        port: "unknown".into(),
                        ..*spec.inside
                    });
                    actual.frontends.insert(frontend, spec);
                }
            }
            Stray::LoseAddress => drop(actual.addresses.pop_first()),
            Stray::AddAddress => {
                let address = [10, 96, 9, 9].into();
                actual
                    .addresses
                    .insert(address, headgate_model::AddressSpec::default());
            }
            Stray::ChangeBackend => {
                if let Some((mut backend, value)) = actual.backends.pop_first() {
                    backend.port = 9;
                    for (_, spec) in actual.services.values_mut() {
                        keep_known(spec, &actual.backends);
                    }
                    actual.backends.insert(backend, value);
                }
            }
        }
    }
}
