//! What the maps should hold, what they hold, and the steps between.

use std::{
    collections::BTreeMap,
    error::Error,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{Backend, Frontend, FrontendKind, Ids, NamespacedName, ServiceKey};

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

/// What a service should be. Clones share the lists: what is desired is soon what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Eligible backends, sorted.
    pub backends: Arc<[Backend]>,
    /// Whether nodes must agree on the backend of a flow: it has a frontend that is reached from
    /// outside.
    pub consistent: bool,
    /// Affinity timeout in seconds; 0 is off.
    pub affinity_timeout_s: u32,
    /// Clients that restricted frontends admit, of the key's family, sorted.
    pub source_ranges: Arc<[IpNet]>,
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
    /// Admits the source ranges of `outside` alone.
    pub is_restricted: bool,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressKind {
    /// The node's, or perhaps another machine's, as well.
    #[default]
    Shared,
    /// Of services alone: a port that none uses is refused.
    Service,
}

/// What a load balancer is told about the endpoints of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
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
    /// Addresses of the frontends.
    pub addresses: BTreeMap<IpAddr, AddressKind>,
    /// Health-check node ports.
    pub health_checks: BTreeMap<NamespacedName, HealthCheck>,
}

/// What the maps hold: what was written or restored.
#[derive(Clone, Debug, Default)]
pub struct Actual {
    /// Services.
    pub services: BTreeMap<ServiceKey, (ServiceId, ServiceSpec)>,
    /// Backends.
    pub backends: BTreeMap<Backend, (BackendId, BackendSpec)>,
    /// Frontends.
    pub frontends: BTreeMap<Frontend, FrontendSpec>,
    /// Addresses.
    pub addresses: BTreeMap<IpAddr, AddressKind>,
    /// Ids of the services.
    pub service_ids: Ids<ServiceKey>,
    /// Ids of the backends.
    pub backend_ids: Ids<Backend>,
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
    /// Adds a service, or puts a new table in its place. Connections to backends that it has no more
    /// are forgotten if they are over UDP, or were never answered.
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
    /// Adds an address, or says whose it is now.
    PutAddress {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        kind: AddressKind,
    },
    /// Removes an address.
    DeleteAddress {
        /// The address.
        address: IpAddr,
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
    /// Removes a backend.
    DeleteBackend {
        /// Its id.
        id: BackendId,
        /// Its address.
        backend: Backend,
    },
}

impl Actual {
    /// Makes the ids available whose quarantine is over.
    pub fn end_quarantine(&mut self, now: Instant) {
        self.service_ids.end_quarantine(now);
        self.backend_ids.end_quarantine(now);
    }

    /// Replaces the state by one that was read from the maps. Ids in quarantine stay there.
    pub fn replace(&mut self, found: Self) {
        let before = std::mem::replace(self, found);
        self.service_ids.keep_quarantine(before.service_ids);
        self.backend_ids.keep_quarantine(before.backend_ids);
    }

    /// Records a change that was made at this time.
    pub fn record(&mut self, change: &Change, now: Instant) {
        match change.clone() {
            Change::PutBackend { id, backend, spec } => {
                self.backend_ids.take(&backend, id.0);
                self.backends.insert(backend, (id, spec));
            }
            Change::PutService { id, key, spec, .. } => {
                self.service_ids.take(&key, id.0);
                self.services.insert(key, (id, spec));
            }
            Change::PutFrontend { frontend, spec, .. } => {
                self.frontends.insert(frontend, spec);
            }
            Change::PutAddress { address, kind } => {
                self.addresses.insert(address, kind);
            }
            Change::DeleteAddress { address } => {
                self.addresses.remove(&address);
            }
            Change::DeleteFrontend { frontend } => {
                self.frontends.remove(&frontend);
            }
            Change::DeleteService { id, key } => {
                self.service_ids.give_back(&key, id.0, now);
                self.services.remove(&key);
            }
            Change::DeleteBackend { id, backend } => {
                self.backend_ids.give_back(&backend, id.0, now);
                self.backends.remove(&backend);
            }
        }
    }
}

/// Two states are the same if they hold the same, whatever ids are in quarantine.
impl PartialEq for Actual {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            services,
            backends,
            frontends,
            addresses,
            ..
        } = self;
        (services, backends, frontends, addresses)
            == (
                &other.services,
                &other.backends,
                &other.frontends,
                &other.addresses,
            )
    }
}

impl Eq for Actual {}

/// What the maps held when they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// What they hold now.
    pub actual: Actual,
    /// Entries that contradicted others, and were removed or corrected.
    pub repairs: usize,
}

/// How far the work is that follows changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// All is done.
    Done,
    /// Some is left: to be continued after this time.
    Again(Duration),
}

/// Where changes are made.
pub trait Dataplane {
    /// What can go wrong.
    type Error: Error + Send + Sync + 'static;

    /// Reads the maps, and repairs entries that contradict others.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    fn restore(&mut self) -> Result<Restored, Self::Error>;

    /// Makes one change.
    ///
    /// # Errors
    ///
    /// If a map is full, or cannot be written. The change is then not made, and can be tried again.
    fn apply(&mut self, change: &Change) -> Result<(), Self::Error>;

    /// Does some of the work that follows changes, and is done once for all of them: forgets what leads to
    /// removed backends. Each call takes about a millisecond.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written, or sockets cannot be ended.
    fn step_sweep(&mut self) -> Result<Sweep, Self::Error>;
}
