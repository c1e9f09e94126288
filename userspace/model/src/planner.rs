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
    shares: BTreeMap<NamespacedName, (Age, Share)>,
    /// Who wants a frontend, with the field that says so: the first gets it.
    claims: BTreeMap<Frontend, BTreeMap<Rank, (&'static str, FrontendSpec)>>,
    users: BTreeMap<Backend, BTreeMap<NamespacedName, BackendSpec>>,
    holders: BTreeMap<IpAddr, BTreeMap<NamespacedName, AddressKind>>,
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
            if let Some((age, old)) = self.shares.remove(&name) {
                self.withdraw(&name, &age, &old, &mut touched);
            }
            if let Some(service) = self.services.get(&name) {
                let slices = self.slices_of.get(&name).into_iter().flatten();
                let slices: Vec<&EndpointSlice> =
                    slices.filter_map(|slice| self.slices.get(slice)).collect();
                let new = share(service, &slices, &self.node);
                let age = (service.created_s.unwrap_or(i64::MAX), name.clone());
                self.enter(&name, &age, &new, &mut touched);
                self.shares.insert(name, (age, new));
            }
        }
        self.settle(&touched);
        touched
    }

    fn withdraw(&mut self, name: &NamespacedName, age: &Age, old: &Share, touched: &mut Touched) {
        for claim in &old.claims {
            touched.frontends.insert(claim.frontend);
            withdraw(&mut self.claims, &claim.frontend, |claims| {
                claims.remove(&(claim.spec.kind, age.clone()));
                claims.is_empty()
            });
        }
        for key in old.services.keys() {
            touched.services.insert(key.clone());
            self.desired.services.remove(key);
        }
        for backend in old.backends.keys() {
            touched.backends.insert(*backend);
            withdraw(&mut self.users, backend, |users| {
                users.remove(name);
                users.is_empty()
            });
        }
        for address in old.addresses.keys() {
            touched.addresses.insert(*address);
            withdraw(&mut self.holders, address, |holders| {
                holders.remove(name);
                holders.is_empty()
            });
        }
        self.refused.remove(name);
        self.desired.health_checks.remove(name);
    }

    fn enter(&mut self, name: &NamespacedName, age: &Age, new: &Share, touched: &mut Touched) {
        for claim in &new.claims {
            touched.frontends.insert(claim.frontend);
            let claims = self.claims.entry(claim.frontend).or_default();
            claims
                .entry((claim.spec.kind, age.clone()))
                .or_insert_with(|| (claim.field, claim.spec.clone()));
        }
        for (key, spec) in &new.services {
            touched.services.insert(key.clone());
            self.desired.services.insert(key.clone(), spec.clone());
        }
        for (backend, spec) in &new.backends {
            touched.backends.insert(*backend);
            let users = self.users.entry(*backend).or_default();
            users.insert(name.clone(), *spec);
        }
        for (address, kind) in &new.addresses {
            touched.addresses.insert(*address);
            let holders = self.holders.entry(*address).or_default();
            holders.insert(name.clone(), *kind);
        }
        if !new.refusals.is_empty() {
            self.refused.insert(name.clone());
        }
        if let Some(check) = new.health_check {
            self.desired.health_checks.insert(name.clone(), check);
        }
    }

    /// Decides about what several Services have a say in.
    fn settle(&mut self, touched: &Touched) {
        for frontend in &touched.frontends {
            let claims = self.claims.get(frontend);
            let first = claims.and_then(|claims| claims.values().next());
            let winner = first.map(|(_, spec)| spec.clone());
            replace(&mut self.desired.frontends, frontend, winner);
            let ages: BTreeSet<&Age> = claims
                .into_iter()
                .flatten()
                .map(|((_, age), _)| age)
                .collect();
            if ages.len() > 1 {
                self.contested.insert(*frontend);
            } else {
                self.contested.remove(frontend);
            }
        }
        for backend in &touched.backends {
            let local = self
                .users
                .get(backend)
                .map(|users| users.values().any(|spec| spec.local));
            let spec = local.map(|local| BackendSpec { local });
            replace(&mut self.desired.backends, backend, spec);
        }
        for address in &touched.addresses {
            let holders = self.holders.get(address);
            let kind = holders.and_then(|holders| holders.values().max().copied());
            replace(&mut self.desired.addresses, address, kind);
        }
    }

    /// What Services ask for and do not get.
    pub fn refusals(&self) -> Vec<Refusal> {
        let own = self
            .refused
            .iter()
            .filter_map(|name| self.shares.get(name))
            .flat_map(|(_, share)| share.refusals.clone());
        let lost = self.contested.iter().flat_map(|frontend| {
            let mut claims = self.claims.get(frontend).into_iter().flatten();
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
