//! What the maps should hold, what they hold, and the steps between.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use crate::{Backend, Frontend, FrontendKind, NamespacedName, ServiceKey};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    pub service_ids: Ids,
    /// Ids of the backends.
    pub backend_ids: Ids,
}

/// Numbers in use, from 1 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The highest in use; 0 if none is.
    last: u32,
    /// Those below it that are not.
    gaps: BTreeSet<u32>,
}

impl Ids {
    /// Those not in use, the lowest first.
    pub fn free(&self) -> impl Iterator<Item = u32> {
        self.gaps.iter().copied().chain(self.last + 1..)
    }

    fn take(&mut self, id: u32) {
        if id > self.last {
            self.gaps.extend(self.last + 1..id);
            self.last = id;
        } else {
            self.gaps.remove(&id);
        }
    }

    fn give_back(&mut self, id: u32) {
        self.gaps.insert(id);
        while self.gaps.remove(&self.last) {
            self.last -= 1;
        }
    }
}

impl FromIterator<u32> for Ids {
    fn from_iter<I: IntoIterator<Item = u32>>(used: I) -> Self {
        let mut ids = Self::default();
        for id in used {
            ids.take(id);
        }
        ids
    }
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
    /// Notes that a change was made.
    pub fn record(&mut self, change: &Change) {
        match change.clone() {
            Change::PutBackend { id, backend, spec } => {
                self.backend_ids.take(id.0);
                self.backends.insert(backend, (id, spec));
            }
            Change::PutService { id, key, spec, .. } => {
                self.service_ids.take(id.0);
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
                self.service_ids.give_back(id.0);
                self.services.remove(&key);
            }
            Change::DeleteBackend { id, backend } => {
                self.backend_ids.give_back(id.0);
                self.backends.remove(&backend);
            }
        }
    }
}

/// Where changes are made.
pub trait Dataplane {
    /// What can go wrong.
    type Error: Error + Send + Sync + 'static;

    /// Reads what is there. Entries that make no sense are removed and counted.
    fn restore(&mut self) -> Result<(Actual, usize), Self::Error>;

    /// Makes one change.
    fn apply(&mut self, change: &Change) -> Result<(), Self::Error>;

    /// Ends a list of changes: what is done once for all of them. That may take long, so each call does
    /// some of it, and returns when to call again if something is left.
    fn finish(&mut self) -> Result<Option<Duration>, Self::Error>;
}
