//! All Services together, and what the maps should hold for them. Work is proportional to what
//! changed.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    Actual, AddressSpec, Backend, Contribution, Desired, EndpointSlice, Frontend, FrontendKind,
    FrontendSpec, Limits, NamespacedName, Node, ObjectName, Refusal, Routed, Service, ServiceKey,
    Share, contribution,
    gateway::{L4Backend, RoutedPort, RoutedPorts, route_kind},
    put,
    share::{self, Granted, Sums},
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
    /// Adds the keys that differ.
    fn extend(&mut self, before: &Desired, after: &Desired) {
        let services = differing(&before.services, &after.services);
        self.services.extend(services.into_iter().cloned());
        let backends = before.backends.symmetric_difference(&after.backends);
        self.backends.extend(backends);
        let frontends = differing(&before.frontends, &after.frontends);
        self.frontends.extend(frontends);
        let addresses = differing(&before.addresses, &after.addresses);
        self.addresses.extend(addresses);
    }

    /// Every key of `actual` and `desired`.
    pub fn everything(actual: &Actual, desired: &Desired) -> Self {
        fn keys<K: Ord + Clone, A, D>(a: &BTreeMap<K, A>, d: &BTreeMap<K, D>) -> BTreeSet<K> {
            a.keys().chain(d.keys()).cloned().collect()
        }
        Self {
            services: keys(&actual.services, &desired.services),
            backends: actual
                .backends
                .keys()
                .chain(&desired.backends)
                .copied()
                .collect(),
            frontends: keys(&actual.frontends, &desired.frontends),
            addresses: keys(&actual.addresses, &desired.addresses),
        }
    }
}

/// The keys that only one of the maps has, or with another value. Both are read once, in order.
fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> Vec<&'a K> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let mut keys = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return keys,
        };
        let old = before.next_if(|_| order.is_le());
        let new = after.next_if(|_| order.is_ge());
        if old != new {
            keys.extend(old.or(new).map(|(key, _)| key));
        }
    }
}

/// Creation time and name: the oldest Service first. A Service without creation time is the
/// youngest.
type Age = (i64, NamespacedName);

/// Order of the Services that ask for the same frontend. An address that the cluster assigned comes
/// before one that a Service chose, whatever their ages (CVE-2020-8554).
type Rank = (FrontendKind, Age);

/// What a Service contributed. Its addresses are those of its frontends, its backends those of its
/// services.
#[derive(Clone, Debug)]
struct Entered {
    age: Age,
    frontends: Box<[(Frontend, FrontendKind)]>,
    services: Box<[ServiceKey]>,
    refusals: Box<[Refusal]>,
}

/// Keeps the Services and EndpointSlices of a cluster, and what the maps of this node should hold
/// for them.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    node: Node,
    services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, EndpointSlice>,
    /// Services with the names of their slices.
    slices_of: BTreeSet<(NamespacedName, NamespacedName)>,
    /// Ports of Services that routes serve.
    routed: BTreeMap<NamespacedName, RoutedPorts>,
    /// Backends of routes, with the Services whose ports these serve.
    routed_to: BTreeSet<(NamespacedName, NamespacedName)>,
    /// Services to compute again.
    dirty: BTreeSet<NamespacedName>,
    entered: BTreeMap<NamespacedName, Entered>,
    /// Services that ask for a frontend, with the field that has its address: the first one gets
    /// it. Flat, because nearly every frontend, backend and address is of a single Service, and a
    /// map for each would need much memory.
    ownerships: BTreeMap<(Frontend, Rank), (&'static str, FrontendSpec)>,
    users: BTreeSet<(Backend, NamespacedName)>,
    holders: BTreeMap<(IpAddr, NamespacedName), AddressSpec>,
    /// Frontends that more than one Service asks for.
    contested: BTreeSet<Frontend>,
    /// Services with refusals of their own.
    refused: BTreeSet<NamespacedName>,
    /// Services whose backends have shares of their own by the weights of a route.
    weighed: BTreeSet<ServiceKey>,
    /// What all Services ask for.
    asked: Desired,
    sums: Sums,
    limits: Limits,
    /// What the maps hold of it, if they cannot hold everything.
    granted: Option<Granted>,
}

impl Planner {
    /// Creates a planner without Services, for maps without limits.
    pub fn new(node: Node) -> Self {
        Self::with_limits(node, Limits::default())
    }

    /// Creates a planner without Services, for maps that hold this much.
    pub fn with_limits(node: Node, limits: Limits) -> Self {
        Self {
            node,
            limits,
            ..Self::default()
        }
    }

    /// Whether the maps cannot hold everything, as of the last [`Planner::gather`].
    pub fn is_short(&self) -> bool {
        !self.limits.hold(&self.asked, &self.sums)
    }

    /// Returns larger limits, if the present ones hold little more than what is asked for, or less.
    pub fn lacking(&self) -> Option<Limits> {
        self.limits.enlarged(&self.asked, &self.sums)
    }

    /// Replaces what the maps hold; returns whether it differs. Then the next [`Planner::grant`] decides again.
    pub fn set_limits(&mut self, limits: Limits) -> bool {
        let differs = self.limits != limits;
        self.limits = limits;
        differs
    }

    /// Upserts (`Some`) or deletes (`None`) a Service.
    pub fn set_service(&mut self, name: &NamespacedName, service: Option<Service>) {
        if put(&mut self.services, name, service) {
            self.dirty.insert(name.clone());
        }
    }

    /// Upserts (`Some`) or deletes (`None`) an EndpointSlice.
    pub fn set_slice(&mut self, name: &NamespacedName, slice: Option<EndpointSlice>) {
        let before = self.slices.get(name);
        for service in before.iter().chain(&slice.as_ref()).map(|one| &one.service) {
            self.dirty.insert(service.clone());
            let routed = self.routed_to.range((service.clone(), first_name())..);
            let routed = routed.take_while(|(backend, _)| backend == service);
            self.dirty.extend(routed.map(|(_, routed)| routed.clone()));
        }
        if let Some(old) = self.slices.get(name) {
            let slice_of = (old.service.clone(), name.clone());
            self.slices_of.remove(&slice_of);
        }
        if let Some(new) = &slice {
            let slice_of = (new.service.clone(), name.clone());
            self.slices_of.insert(slice_of);
        }
        put(&mut self.slices, name, slice);
    }

    /// Sets which ports of a Service are served by routes, and their backends.
    pub fn set_routed(&mut self, service: &NamespacedName, ports: RoutedPorts) {
        let ports = Some(ports).filter(|ports| !ports.is_empty());
        let pair = |backend: &L4Backend| Some((backend.port.clone()?.service, service.clone()));
        if let Some(old) = self.routed.get(service) {
            for pair in backends(old).filter_map(pair) {
                self.routed_to.remove(&pair);
            }
        }
        let new = ports.iter().flat_map(backends);
        self.routed_to.extend(new.filter_map(pair));
        if put(&mut self.routed, service, ports) {
            self.dirty.insert(service.clone());
        }
    }

    /// Returns an EndpointSlice.
    pub fn slice(&self, name: &NamespacedName) -> Option<&EndpointSlice> {
        self.slices.get(name)
    }

    /// Replaces the node. If it differs, every Service is computed again.
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
        match &self.granted {
            Some(granted) => &granted.desired,
            None => &self.asked,
        }
    }

    /// Computes what has changed since the last call; returns the keys whose desired state may
    /// differ.
    pub fn update(&mut self) -> Touched {
        let mut touched = self.gather();
        self.grant(&mut touched);
        touched
    }

    /// The first part of [`Planner::update`]: what all Services ask for, which shows whether the maps hold it.
    pub fn gather(&mut self) -> Touched {
        let mut touched = Touched::default();
        for name in std::mem::take(&mut self.dirty) {
            if let Some(old) = self.entered.remove(&name) {
                self.withdraw(&name, &old, &mut touched);
            }
            if let Some((name, service)) = self.services.get_key_value(&name) {
                let name = name.clone();
                let slices = self.slices_of(&name);
                let contribution = contribution(service, &slices, &self.routed(&name), &self.node);
                let age = (service.created_s.unwrap_or(i64::MAX), name.clone());
                let new = self.enter(age, contribution, &mut touched);
                self.entered.insert(name, new);
            }
        }
        self.settle(&touched);
        touched
    }

    /// The slices of a Service.
    fn slices_of(&self, service: &NamespacedName) -> Vec<&EndpointSlice> {
        let slices = self.slices_of.range((service.clone(), first_name())..);
        let slices = slices.take_while(|(owner, _)| owner == service);
        slices
            .filter_map(|(_, slice)| self.slices.get(slice))
            .collect()
    }

    /// The ports of a Service that routes serve.
    fn routed(&self, service: &NamespacedName) -> Routed<'_> {
        let ports = self.routed.get(service).into_iter().flatten();
        let ports = ports.map(|(port, routed)| {
            let shares = routed.backends.iter().map(|backend| Share {
                weight: backend.weight,
                port: backend
                    .port
                    .as_ref()
                    .map(|port| (port.name.as_str(), self.slices_of(&port.service))),
            });
            (*port, shares.collect())
        });
        ports.collect()
    }

    /// The second part of [`Planner::update`]: what each Service gets, if the maps cannot hold everything.
    pub fn grant(&mut self, touched: &mut Touched) {
        let entered = &self.entered;
        let created_s = |name: &NamespacedName| entered.get(name).map_or(i64::MAX, |new| new.age.0);
        let before = self.granted.take();
        self.granted = share::grant(&self.asked, &self.sums, &self.limits, created_s);
        // What one Service gets depends on all.
        if before.is_some() || self.granted.is_some() {
            let before = before
                .as_ref()
                .map_or(&self.asked, |granted| &granted.desired);
            touched.extend(before, self.desired());
        }
    }

    fn withdraw(&mut self, name: &NamespacedName, old: &Entered, touched: &mut Touched) {
        for (frontend, kind) in old.frontends.iter() {
            touched.frontends.insert(*frontend);
            let rank = (*kind, old.age.clone());
            self.ownerships.remove(&(*frontend, rank));
            touched.addresses.insert(frontend.address);
            self.holders.remove(&(frontend.address, name.clone()));
        }
        for key in old.services.iter() {
            touched.services.insert(key.clone());
            self.weighed.remove(key);
            let spec = self.asked.services.remove(key);
            spec.iter().for_each(|spec| self.sums.subtract(spec));
            for backend in spec.iter().flat_map(|spec| spec.backends.iter()) {
                touched.backends.insert(*backend);
                self.users.remove(&(*backend, name.clone()));
            }
        }
        self.refused.remove(name);
        self.asked.health_checks.remove(name);
    }

    fn enter(
        &mut self,
        age: Age,
        mut contribution: Contribution,
        touched: &mut Touched,
    ) -> Entered {
        let (_, name) = &age;
        let frontends = contribution.ownerships.iter();
        let new = Entered {
            age: age.clone(),
            frontends: frontends
                .map(|ownership| (ownership.frontend, ownership.spec.kind))
                .collect(),
            services: contribution.services.keys().cloned().collect(),
            refusals: contribution.refusals.into(),
        };
        for ownership in contribution.ownerships {
            touched.frontends.insert(ownership.frontend);
            let rank = (ownership.spec.kind, age.clone());
            self.ownerships
                .entry((ownership.frontend, rank))
                .or_insert((ownership.field, ownership.spec));
        }
        touched.services.extend(new.services.iter().cloned());
        for (key, spec) in &mut contribution.services {
            if spec.shares.is_some() {
                self.weighed.insert(key.clone());
            }
            spec.resize(self.limits.slots_of(spec));
            self.sums.add(spec);
            for backend in spec.backends.iter() {
                touched.backends.insert(*backend);
                self.users.insert((*backend, name.clone()));
            }
        }
        self.asked.services.extend(contribution.services);
        for (address, spec) in contribution.addresses {
            touched.addresses.insert(address);
            self.holders.insert((address, name.clone()), spec);
        }
        if !new.refusals.is_empty() {
            self.refused.insert(name.clone());
        }
        if let Some(check) = contribution.health_check {
            let checks = &mut self.asked.health_checks;
            checks.insert(name.clone(), check);
        }
        new
    }

    /// Decides about frontends, backends and addresses that several Services share.
    fn settle(&mut self, touched: &Touched) {
        for frontend in &touched.frontends {
            let mut ownerships = of(&self.ownerships, *frontend, first_rank());
            let first = ownerships.next();
            let winner = first.map(|(_, (_, spec))| spec.clone());
            let age = first.map(|((_, age), _)| age);
            let is_contested = ownerships.any(|((_, other), _)| Some(other) != age);
            put(&mut self.asked.frontends, frontend, winner);
            if is_contested {
                self.contested.insert(*frontend);
            } else {
                self.contested.remove(frontend);
            }
        }
        for backend in &touched.backends {
            let mut users = self.users.range((*backend, first_name())..);
            match users.next().is_some_and(|(used, _)| used == backend) {
                true => self.asked.backends.insert(*backend),
                false => self.asked.backends.remove(backend),
            };
        }
        for address in &touched.addresses {
            let specs = of(&self.holders, *address, first_name()).map(|(_, spec)| *spec);
            let spec = specs.reduce(AddressSpec::and);
            put(&mut self.asked.addresses, address, spec);
        }
    }

    /// Returns the refusals of all Services, including frontends that belong to another Service.
    pub fn refusals(&self) -> Vec<Refusal> {
        let own = self
            .refused
            .iter()
            .filter_map(|name| self.entered.get(name))
            .flat_map(|entered| entered.refusals.iter().cloned());
        let lost = self.contested.iter().flat_map(|frontend| {
            let mut ownerships = of(&self.ownerships, *frontend, first_rank());
            let winner = ownerships.next().map(|((_, (_, name)), _)| name);
            ownerships
                .zip(winner.into_iter().cycle())
                .filter(|(((_, (_, name)), _), winner)| name != *winner)
                .map(move |(((_, (_, name)), (field, _)), winner)| {
                    let object = ObjectName::Service(name.clone());
                    Refusal::new(object, *field, format!("{frontend} belongs to {winner}"))
                })
        });
        let granted = self.granted.iter();
        let short = granted.flat_map(|granted| granted.refusals.iter().cloned());
        own.chain(lost)
            .chain(short)
            .chain(self.unweighted())
            .collect()
    }

    /// Refusals of the weights of routes, one for each port.
    fn unweighted(&self) -> BTreeSet<Refusal> {
        let refusals = self.weighed.iter().filter_map(|key| {
            let spec = self.desired().services.get(key)?;
            if spec.shares.is_some() {
                return None;
            }
            let mut ports = self.services.get(&key.service)?.ports.iter();
            let port = ports.find(|one| one.name == key.port && one.protocol == key.protocol)?;
            let RoutedPort { route, backends } = self
                .routed
                .get(&key.service)?
                .get(&(port.protocol, port.port))?;
            let reason = match self.asked.services.get(key)?.shares {
                Some(_) => "this node has no capacity for more slots (--max-map-memory)".into(),
                None => format!("no table has slots for {} endpoints", spec.backends.len()),
            };
            let services = backends.iter().filter(|backend| backend.weight > 0);
            let services = services.filter_map(|backend| Some(backend.port.as_ref()?.service.to_string()));
            let services: BTreeSet<String> = services.collect();
            let services: Vec<String> = services.into_iter().collect();
            let text = format!(
                "the weights of {} {} are left out, as {reason}: each endpoint of {} gets the same share, and what \
                 would be refused is served",
                route_kind(port.protocol),
                route.as_ref()?,
                services.join(", "),
            );
            let object = ObjectName::Service(key.service.clone());
            let field = format!("spec.ports[{}]", port.name);
            Some(Refusal::new(object, field, text))
        });
        refusals.collect()
    }
}

/// The backends of all ports.
fn backends(ports: &RoutedPorts) -> impl Iterator<Item = &L4Backend> {
    ports.values().flat_map(|routed| &routed.backends)
}

/// Sorts before every other name.
fn first_name() -> NamespacedName {
    NamespacedName::new("", "")
}

/// Sorts before every other rank.
fn first_rank() -> Rank {
    (FrontendKind::ClusterIp, (i64::MIN, first_name()))
}

/// The entries whose keys begin with `key`, by the rest of their keys; `least` sorts before every
/// rest.
fn of<K: Ord + Copy, R: Ord, V>(
    map: &BTreeMap<(K, R), V>,
    key: K,
    least: R,
) -> impl Iterator<Item = (&R, &V)> {
    let entries = map.range((key, least)..);
    let entries = entries.take_while(move |((first, _), _)| *first == key);
    entries.map(|((_, rest), value)| (rest, value))
}
