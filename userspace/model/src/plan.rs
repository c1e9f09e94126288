//! What the maps should hold, what they hold, and the steps between.

use std::{collections::BTreeMap, error::Error};

use crate::{Backend, Frontend, FrontendKind, ServiceKey};

/// Number of a service; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// Number of a backend; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// Facts about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Runs on this node.
    pub local: bool,
}

/// What a service should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Eligible backends, sorted.
    pub backends: Vec<Backend>,
    /// Whether nodes must agree on the backend of a flow: it has a frontend that is reached from
    /// outside.
    pub consistent: bool,
    /// Affinity timeout in seconds; 0 is off.
    pub affinity_timeout_s: u32,
}

/// What a frontend should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendSpec {
    /// Kind.
    pub kind: FrontendKind,
    /// Serves this node's processes and pods.
    pub inside: ServiceKey,
    /// Serves what arrives from other machines.
    pub outside: ServiceKey,
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Services.
    pub services: BTreeMap<ServiceKey, ServiceSpec>,
    /// Backends.
    pub backends: BTreeMap<Backend, BackendSpec>,
    /// Frontends.
    pub frontends: BTreeMap<Frontend, FrontendSpec>,
}

/// What the maps hold: what was written or restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Services.
    pub services: BTreeMap<ServiceKey, (ServiceId, ServiceSpec)>,
    /// Backends.
    pub backends: BTreeMap<Backend, (BackendId, BackendSpec)>,
    /// Frontends.
    pub frontends: BTreeMap<Frontend, FrontendSpec>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a backend or updates its facts.
    PutBackend {
        /// Its id.
        id: BackendId,
        /// Its address.
        backend: Backend,
        /// Its facts.
        spec: BackendSpec,
    },
    /// Adds a service, or puts a new table in its place.
    PutService {
        /// Its id.
        id: ServiceId,
        /// Its name.
        key: ServiceKey,
        /// What it shall be.
        spec: ServiceSpec,
        /// Ids of its backends, in the order of the spec.
        backends: Vec<BackendId>,
    },
    /// Adds or replaces a frontend.
    PutFrontend {
        /// Its address.
        frontend: Frontend,
        /// What it shall be.
        spec: FrontendSpec,
        /// Id of the inside service.
        inside: ServiceId,
        /// Id of the outside service.
        outside: ServiceId,
    },
    /// Removes a frontend.
    DeleteFrontend {
        /// Its address.
        frontend: Frontend,
    },
    /// Removes a service.
    DeleteService {
        /// Its id.
        id: ServiceId,
        /// Its name.
        key: ServiceKey,
    },
    /// Removes a backend. Connections that it never answered, and all over UDP, are forgotten.
    DeleteBackend {
        /// Its id.
        id: BackendId,
        /// Its address.
        backend: Backend,
    },
}

impl Actual {
    /// Notes that a change was made.
    pub fn record(&mut self, change: &Change) {
        match change.clone() {
            Change::PutBackend { id, backend, spec } => {
                self.backends.insert(backend, (id, spec));
            }
            Change::PutService { id, key, spec, .. } => {
                self.services.insert(key, (id, spec));
            }
            Change::PutFrontend { frontend, spec, .. } => {
                self.frontends.insert(frontend, spec);
            }
            Change::DeleteFrontend { frontend } => {
                self.frontends.remove(&frontend);
            }
            Change::DeleteService { key, .. } => {
                self.services.remove(&key);
            }
            Change::DeleteBackend { backend, .. } => {
                self.backends.remove(&backend);
            }
        }
    }
}

/// Where changes are made.
pub trait Dataplane {
    /// What can go wrong.
    type Error: Error + Send + Sync + 'static;

    /// Reads what is there.
    fn restore(&mut self) -> Result<Actual, Self::Error>;

    /// Makes one change.
    fn apply(&mut self, change: &Change) -> Result<(), Self::Error>;

    /// Ends a list of changes: what is done once for all of them.
    fn finish(&mut self) -> Result<(), Self::Error>;
}
