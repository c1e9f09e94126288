//! All Services together: what was told, and what the maps should hold for it. Work is proportional
//! to what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    Actual, AddressKind, Backend, BackendSpec, Desired, EndpointSlice, Frontend, FrontendKind,
    FrontendSpec, NamespacedName, Node, ObjectName, Refusal, Service, ServiceKey, Share, share,
};

/// Keys whose desired state may differ from what it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services.
    pub services: BTreeSet<ServiceKey>,
    /// Backends.
    pub backends: BTreeSet<Backend>,
    /// Frontends.
    pub frontends: BTreeSet<Frontend>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl Touched {
    /// Every key of both.
    pub fn everything(actual: &Actual, desired: &Desired) -> Self {
        fn keys<K: Ord + Clone, A, D>(a: &BTreeMap<K, A>, d: &BTreeMap<K, D>) -> BTreeSet<K> {
            a.keys().chain(d.keys()).cloned().collect()
        }
        Self {
            services: keys(&actual.services, &desired.services),
            backends: keys(&actual.backends, &desired.backends),
            frontends: keys(&actual.frontends, &desired.frontends),
            addresses: keys(&actual.addresses, &desired.addresses),
        }
    }
}

/// The oldest Service first; among equals by name. Those without an age are the youngest.
type Age = (i64, NamespacedName);

/// Who gets a frontend that several want. An address that the cluster gave to a Service comes before
/// one that a Service may name as it likes, however old (CVE-2020-8554).
type Rank = (FrontendKind, Age);

/// What a Service has a say in. Its addresses are those of its claims, its backends those of its
/// services.
#[derive(Clone, Debug)]
struct Entered {
    age: Age,
    claims: Box<[(Frontend, FrontendKind)]>,
    services: Box<[ServiceKey]>,
    refusals: Box<[Refusal]>,
}

/// What was told, and what follows.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    node: Node,
    services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, EndpointSlice>,
    /// Services with the names of their slices.
    slices_of: BTreeSet<(NamespacedName, NamespacedName)>,
    /// Services to look at again.
    dirty: BTreeSet<NamespacedName>,
    entered: BTreeMap<NamespacedName, Entered>,
    /// Who wants a frontend, with the field that says so: the first gets it. Nearly all frontends,
    /// backends and addresses are of one Service, so a map for each would be much memory.
    claims: BTreeMap<(Frontend, Rank), (&'static str, FrontendSpec)>,
    users: BTreeMap<(Backend, NamespacedName), BackendSpec>,
    holders: BTreeMap<(IpAddr, NamespacedName), AddressKind>,
    /// Frontends that more than one Service wants.
    contested: BTreeSet<Frontend>,
    /// Services that do not get all they want.
    refused: BTreeSet<NamespacedName>,
    desired: Desired,
}

impl Planner {
    /// Nothing is known but the node.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// A Service is so, or gone.
    pub fn set_service(&mut self, name: &NamespacedName, service: Option<Service>) {
        if replace(&mut self.services, name, service) {
            self.dirty.insert(name.clone());
        }
    }

    /// An EndpointSlice is so, or gone.
    pub fn set_slice(&mut self, name: &NamespacedName, slice: Option<EndpointSlice>) {
        if let Some(old) = self.slices.get(name) {
            self.dirty.insert(old.service.clone());
            let slice_of = (old.service.clone(), name.clone());
            self.slices_of.remove(&slice_of);
        }
        if let Some(new) = &slice {
            self.dirty.insert(new.service.clone());
            let slice_of = (new.service.clone(), name.clone());
            self.slices_of.insert(slice_of);
        }
        replace(&mut self.slices, name, slice);
    }

    /// An EndpointSlice as it was told last.
    pub fn slice(&self, name: &NamespacedName) -> Option<&EndpointSlice> {
        self.slices.get(name)
    }

    /// The node is so. Everything is looked at again if it was not.
    pub fn set_node(&mut self, node: Node) {
        if self.node != node {
            self.node = node;
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What the maps should hold, as of the last [`Planner::update`].
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Takes up everything told since the last time, and returns where that may have made a
    /// difference.
    pub fn update(&mut self) -> Touched {
        let mut touched = Touched::default();
        for name in std::mem::take(&mut self.dirty) {
            if let Some(old) = self.entered.remove(&name) {
                self.withdraw(&name, &old, &mut touched);
            }
            if let Some((name, service)) = self.services.get_key_value(&name) {
                let name = name.clone();
                let slices = self.slices_of.range((name.clone(), first_name())..);
                let slices: Vec<&EndpointSlice> = slices
                    .take_while(|(service, _)| *service == name)
                    .filter_map(|(_, slice)| self.slices.get(slice))
                    .collect();
                let share = share(service, &slices, &self.node);
                let age = (service.created_s.unwrap_or(i64::MAX), name.clone());
                let new = self.enter(age, share, &mut touched);
                self.entered.insert(name, new);
            }
        }
        self.settle(&touched);
        touched
    }

    fn withdraw(&mut self, name: &NamespacedName, old: &Entered, touched: &mut Touched) {
        for (frontend, kind) in old.claims.iter() {
            touched.frontends.insert(*frontend);
            let rank = (*kind, old.age.clone());
            self.claims.remove(&(*frontend, rank));
            touched.addresses.insert(frontend.address);
            self.holders.remove(&(frontend.address, name.clone()));
        }
        for key in old.services.iter() {
            touched.services.insert(key.clone());
            let spec = self.desired.services.remove(key);
            for backend in spec.iter().flat_map(|spec| spec.backends.iter()) {
                touched.backends.insert(*backend);
                self.users.remove(&(*backend, name.clone()));
            }
        }
        self.refused.remove(name);
        self.desired.health_checks.remove(name);
    }

    fn enter(&mut self, age: Age, share: Share, touched: &mut Touched) -> Entered {
        let (_, name) = &age;
        let claims = share.claims.iter();
        let new = Entered {
            age: age.clone(),
            claims: claims
                .map(|claim| (claim.frontend, claim.spec.kind))
                .collect(),
            services: share.services.keys().cloned().collect(),
            refusals: share.refusals.into(),
        };
        for claim in share.claims {
            touched.frontends.insert(claim.frontend);
            let rank = (claim.spec.kind, age.clone());
            self.claims
                .entry((claim.frontend, rank))
                .or_insert((claim.field, claim.spec));
        }
        touched.services.extend(new.services.iter().cloned());
        self.desired.services.extend(share.services);
        for (backend, spec) in share.backends {
            touched.backends.insert(backend);
            self.users.insert((backend, name.clone()), spec);
        }
        for (address, kind) in share.addresses {
            touched.addresses.insert(address);
            self.holders.insert((address, name.clone()), kind);
        }
        if !new.refusals.is_empty() {
            self.refused.insert(name.clone());
        }
        if let Some(check) = share.health_check {
            let checks = &mut self.desired.health_checks;
            checks.insert(name.clone(), check);
        }
        new
    }

    /// Decides about what several Services have a say in.
    fn settle(&mut self, touched: &Touched) {
        for frontend in &touched.frontends {
            let mut claims = of(&self.claims, *frontend, first_rank());
            let first = claims.next();
            let winner = first.map(|(_, (_, spec))| spec.clone());
            let age = first.map(|((_, age), _)| age);
            let is_contested = claims.any(|((_, other), _)| Some(other) != age);
            replace(&mut self.desired.frontends, frontend, winner);
            if is_contested {
                self.contested.insert(*frontend);
            } else {
                self.contested.remove(frontend);
            }
        }
        for backend in &touched.backends {
            let specs = of(&self.users, *backend, first_name()).map(|(_, spec)| *spec);
            let spec = specs.reduce(|a, b| BackendSpec {
                local: a.local || b.local,
            });
            replace(&mut self.desired.backends, backend, spec);
        }
        for address in &touched.addresses {
            let kinds = of(&self.holders, *address, first_name()).map(|(_, kind)| *kind);
            replace(&mut self.desired.addresses, address, kinds.max());
        }
    }

    /// What Services ask for and do not get.
    pub fn refusals(&self) -> Vec<Refusal> {
        let own = self
            .refused
            .iter()
            .filter_map(|name| self.entered.get(name))
            .flat_map(|entered| entered.refusals.iter().cloned());
        let lost = self.contested.iter().flat_map(|frontend| {
            let mut claims = of(&self.claims, *frontend, first_rank());
            let winner = claims.next().map(|((_, (_, name)), _)| name);
            claims
                .zip(winner.into_iter().cycle())
                .filter(|(((_, (_, name)), _), winner)| name != *winner)
                .map(move |(((_, (_, name)), (field, _)), winner)| Refusal {
                    object: ObjectName::Service(name.clone()),
                    field: (*field).into(),
                    reason: format!("{frontend} belongs to {winner}"),
                })
        });
        own.chain(lost).collect()
    }
}

/// Before every other.
fn first_name() -> NamespacedName {
    NamespacedName::new("", "")
}

/// Before every other.
fn first_rank() -> Rank {
    (FrontendKind::ClusterIp, (i64::MIN, first_name()))
}

/// The entries whose keys begin so, by the rest of their keys, of which none is before `least`.
fn of<K: Ord + Copy, R: Ord, V>(
    map: &BTreeMap<(K, R), V>,
    key: K,
    least: R,
) -> impl Iterator<Item = (&R, &V)> {
    let entries = map.range((key, least)..);
    let entries = entries.take_while(move |((first, _), _)| *first == key);
    entries.map(|((_, rest), value)| (rest, value))
}

/// Sets or removes; whether that made a difference.
fn replace<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    value: Option<V>,
) -> bool {
    match value {
        Some(value) => {
            let is_new = map.get(key) != Some(&value);
            if is_new {
                map.insert(key.clone(), value);
            }
            is_new
        }
        None => map.remove(key).is_some(),
    }
}
