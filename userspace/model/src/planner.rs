//! All Services together: what was told, and what the maps should hold for it. Work is proportional
//! to what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
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
type Age = (i64, Name);

/// A name that many keys hold.
type Name = Arc<NamespacedName>;

/// Who gets a frontend that several want. An address that the cluster gave to a Service comes before
/// one that a Service may name as it likes, however old (CVE-2020-8554).
type Rank = (FrontendKind, Age);

/// What a Service has a say in.
#[derive(Clone, Debug)]
struct Entered {
    age: Age,
    claims: Vec<(Frontend, FrontendKind)>,
    services: Vec<ServiceKey>,
    backends: Vec<Backend>,
    addresses: Vec<IpAddr>,
    refusals: Vec<Refusal>,
}

/// What was told, and what follows.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    node: Node,
    services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, EndpointSlice>,
    /// Names of slices by the Service that they are of.
    slices_of: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// Services to look at again.
    dirty: BTreeSet<NamespacedName>,
    entered: BTreeMap<NamespacedName, Entered>,
    /// Who wants a frontend, with the field that says so: the first gets it. Nearly all frontends,
    /// backends and addresses are of one Service, so a map for each would be much memory.
    claims: BTreeMap<(Frontend, Rank), (&'static str, FrontendSpec)>,
    users: BTreeMap<(Backend, Name), BackendSpec>,
    holders: BTreeMap<(IpAddr, Name), AddressKind>,
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
            withdraw(&mut self.slices_of, &old.service, |slices| {
                slices.remove(name);
                slices.is_empty()
            });
        }
        if let Some(new) = &slice {
            self.dirty.insert(new.service.clone());
            let slices = self.slices_of.entry(new.service.clone()).or_default();
            slices.insert(name.clone());
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
            if let Some(service) = self.services.get(&name) {
                let slices = self.slices_of.get(&name).into_iter().flatten();
                let slices: Vec<&EndpointSlice> =
                    slices.filter_map(|slice| self.slices.get(slice)).collect();
                let share = share(service, &slices, &self.node);
                let created_s = service.created_s.unwrap_or(i64::MAX);
                let age = (created_s, Name::new(name.clone()));
                let new = self.enter(age, share, &mut touched);
                self.entered.insert(name, new);
            }
        }
        self.settle(&touched);
        touched
    }

    fn withdraw(&mut self, name: &NamespacedName, old: &Entered, touched: &mut Touched) {
        for (frontend, kind) in &old.claims {
            touched.frontends.insert(*frontend);
            let rank = (*kind, old.age.clone());
            self.claims.remove(&(*frontend, rank));
        }
        for key in &old.services {
            touched.services.insert(key.clone());
            self.desired.services.remove(key);
        }
        let (_, user) = &old.age;
        for backend in &old.backends {
            touched.backends.insert(*backend);
            self.users.remove(&(*backend, user.clone()));
        }
        for address in &old.addresses {
            touched.addresses.insert(*address);
            self.holders.remove(&(*address, user.clone()));
        }
        self.refused.remove(name);
        self.desired.health_checks.remove(name);
    }

    fn enter(&mut self, age: Age, share: Share, touched: &mut Touched) -> Entered {
        let (_, name) = &age;
        let mut new = Entered {
            age: age.clone(),
            claims: Vec::with_capacity(share.claims.len()),
            services: share.services.keys().cloned().collect(),
            backends: share.backends.keys().copied().collect(),
            addresses: share.addresses.keys().copied().collect(),
            refusals: share.refusals,
        };
        for claim in share.claims {
            touched.frontends.insert(claim.frontend);
            new.claims.push((claim.frontend, claim.spec.kind));
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
            self.refused.insert(NamespacedName::clone(name));
        }
        if let Some(check) = share.health_check {
            let checks = &mut self.desired.health_checks;
            checks.insert(NamespacedName::clone(name), check);
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
            .flat_map(|entered| entered.refusals.clone());
        let lost = self.contested.iter().flat_map(|frontend| {
            let mut claims = of(&self.claims, *frontend, first_rank());
            let winner = claims.next().map(|((_, (_, name)), _)| name);
            claims
                .zip(winner.into_iter().cycle())
                .filter(|(((_, (_, name)), _), winner)| name != *winner)
                .map(move |(((_, (_, name)), (field, _)), winner)| Refusal {
                    object: ObjectName::Service(NamespacedName::clone(name)),
                    field: (*field).into(),
                    reason: format!("{frontend} belongs to {winner}"),
                })
        });
        own.chain(lost).collect()
    }
}

/// Before every other.
fn first_name() -> Name {
    Name::new(NamespacedName::new("", ""))
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

/// Changes an entry, and removes it if `change` says that nothing is left of it.
fn withdraw<K: Ord, V>(map: &mut BTreeMap<K, V>, key: &K, change: impl FnOnce(&mut V) -> bool) {
    if map.get_mut(key).is_some_and(change) {
        map.remove(key);
    }
}
