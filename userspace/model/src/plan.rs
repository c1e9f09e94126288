//! What the maps should hold, what they hold, and the changes between both.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{Backend, Frontend, FrontendKind, Ids, Limits, NamespacedName, ServiceKey};

/// Id of a service in the maps, from 1; 0 means no service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// Id of a backend in the maps, from 1; 0 means no backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// What a service should be. Clones share the lists, because desired specs soon become actual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Eligible backends, sorted.
    pub backends: Arc<[Backend]>,
    /// The number of slots of each backend, in the same order, none of them 0. The rest of the slots refuse. `None` if
    /// all have the same share, and no slot refuses.
    pub shares: Option<Arc<[u32]>>,
    /// Whether all nodes must choose the same backend for a flow: a frontend can be reached from
    /// outside the cluster.
    pub consistent: bool,
    /// Slots of its table; in a plain list, one for each backend.
    pub slots: u32,
    /// Affinity timeout in seconds; 0 means no affinity.
    pub affinity_timeout_s: u32,
    /// Networks of clients that restricted frontends admit, of the key's family, sorted.
    pub source_ranges: Arc<[IpNet]>,
}

impl ServiceSpec {
    /// Sets the number of slots. Shares stay the same part of all, as near as whole slots allow; a backend without a
    /// slot goes. A plain list has no shares.
    pub(crate) fn resize(&mut self, slots: u32) {
        let before = std::mem::replace(&mut self.slots, slots);
        let Some(shares) = self.shares.take() else {
            return;
        };
        if slots as usize <= self.backends.len() {
            self.consistent = false;
            return;
        }
        let shares = scaled(&shares, before, slots);
        let all = self.backends.iter().copied().zip(shares);
        let (backends, shares): (Vec<Backend>, Vec<u32>) =
            all.filter(|(_, share)| *share > 0).unzip();
        self.backends = backends.into();
        self.shares = Some(shares.into());
    }
}

/// Shares of `before` slots as shares of `slots`: rounded down, and the slots that are left to those that lost most,
/// the first ones if they lost the same. What refuses counts as the last one.
fn scaled(shares: &[u32], before: u32, slots: u32) -> Vec<u32> {
    let rest = before.saturating_sub(shares.iter().sum());
    let exact = shares.iter().chain([&rest]);
    let exact: Vec<u64> = exact
        .map(|share| u64::from(*share) * u64::from(slots))
        .collect();
    let whole = u64::from(before.max(1));
    let mut scaled: Vec<u32> = exact.iter().map(|share| (share / whole) as u32).collect();
    let left = slots.saturating_sub(scaled.iter().sum()) as usize;
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(exact[*at] % whole));
    for at in order.into_iter().take(left) {
        scaled[at] += 1;
    }
    scaled.truncate(shares.len());
    scaled
}

/// What a frontend should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendSpec {
    /// Where its address comes from.
    pub kind: FrontendKind,
    /// Service for traffic of this node's processes and pods.
    pub inside: ServiceKey,
    /// Service for traffic that arrives from other machines.
    pub outside: ServiceKey,
    /// Whether it admits only the source ranges of `outside`.
    pub is_restricted: bool,
}

/// Owner of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressKind {
    /// Services, and perhaps another machine.
    #[default]
    Shared,
    /// Services and this node.
    Node,
    /// Services only: connections to unused ports are refused.
    Service,
}

/// What an address of frontends should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressSpec {
    /// Its owner.
    pub kind: AddressKind,
    /// Whether echo requests are answered: a Service of the address has an eligible endpoint, and the
    /// node does not have the address.
    pub answers_echo: bool,
}

impl AddressSpec {
    /// What the address of two frontends should be.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            kind: self.kind.max(other.kind),
            answers_echo: self.answers_echo || other.answers_echo,
        }
    }
}

/// Answer to a load balancer about the endpoints of this node.
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
    pub backends: BTreeSet<Backend>,
    /// Frontends.
    pub frontends: BTreeMap<Frontend, FrontendSpec>,
    /// Addresses of the frontends.
    pub addresses: BTreeMap<IpAddr, AddressSpec>,
    /// Health-check node ports.
    pub health_checks: BTreeMap<NamespacedName, HealthCheck>,
}

/// What the maps hold: what was written or restored.
#[derive(Clone, Debug, Default)]
pub struct Actual {
    /// Services.
    pub services: BTreeMap<ServiceKey, (ServiceId, ServiceSpec)>,
    /// Backends.
    pub backends: BTreeMap<Backend, BackendId>,
    /// Frontends.
    pub frontends: BTreeMap<Frontend, FrontendSpec>,
    /// Addresses.
    pub addresses: BTreeMap<IpAddr, AddressSpec>,
    /// Ids of the services.
    pub service_ids: Ids<ServiceKey>,
    /// Ids of the backends.
    pub backend_ids: Ids<Backend>,
}

/// One change of the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a backend.
    PutBackend {
        /// Its id.
        id: BackendId,
        /// What it should be.
        backend: Backend,
    },
    /// Adds a service or replaces its table. Connections to backends that it no longer has are
    /// deleted if they use UDP or never got an answer.
    PutService {
        /// Its id.
        id: ServiceId,
        /// Its name.
        key: ServiceKey,
        /// What it should be.
        spec: ServiceSpec,
        /// Ids of its backends, in the order of the spec.
        backends: Vec<BackendId>,
    },
    /// Adds or replaces a frontend.
    PutFrontend {
        /// Its address.
        frontend: Frontend,
        /// What it should be.
        spec: FrontendSpec,
        /// Id of the inside service.
        inside: ServiceId,
        /// Id of the outside service.
        outside: ServiceId,
    },
    /// Adds an address or replaces its spec.
    PutAddress {
        /// The address.
        address: IpAddr,
        /// What it should be.
        spec: AddressSpec,
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
            Change::PutBackend { id, backend } => {
                self.backend_ids.take(&backend, id.0);
                self.backends.insert(backend, id);
            }
            Change::PutService { id, key, spec, .. } => {
                self.service_ids.take(&key, id.0);
                self.services.insert(key, (id, spec));
            }
            Change::PutFrontend { frontend, spec, .. } => {
                self.frontends.insert(frontend, spec);
            }
            Change::PutAddress { address, spec } => {
                self.addresses.insert(address, spec);
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

/// The maps, as the loop that programs them sees them.
pub trait Dataplane {
    /// Why a call fails.
    type Error: Error + Send + Sync + 'static;

    /// Returns how much the maps hold.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Makes the maps larger, until they hold at least this much; returns how much they hold, or `None` while that is
    /// prepared: then it is to be called again.
    ///
    /// # Errors
    ///
    /// If they cannot become larger. They then hold as much as before.
    fn grow(&mut self, _wanted: &Limits) -> Result<Option<Limits>, Self::Error> {
        Ok(Some(self.limits()))
    }

    /// Checks that the maps can be written. A full map can.
    ///
    /// # Errors
    ///
    /// If one of them cannot.
    fn check(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

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

    /// Does some of the work that follows changes, and is done once for all of them: forgets what
    /// leads to removed backends. Each call takes about a millisecond.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written, or sockets cannot be ended.
    fn step_sweep(&mut self) -> Result<Sweep, Self::Error>;
}
