//! What is to be written: the difference between what is there and what should be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use headgate_model::{
    NamespacedName,
    edge::{Secret, Services},
    gateway::{
        Addresses, Infrastructure, Merge, Objects, Problem, Resolved, Resolver, RouteKind, Servers,
        World, assign, infrastructure,
        object::{Meta, RouteStatus, StatusAddress},
        service_name,
    },
};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt, api::ObjectMeta};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ControllerOptions,
    made::{
        self, Endpoints, has_all, has_other_class, owner, service_patch, slice_patch, slice_ports,
    },
    proxies::proxies,
    servers::{agents_problem, proxies_problem},
    store::Store,
};

/// What is written. In this order: Gateways get their addresses first, and slices do not delay statuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Service(NamespacedName),
    /// The addresses in the status of a Service.
    Addresses(NamespacedName),
    /// The status of an object.
    Class(String),
    Gateway(NamespacedName),
    ListenerSet(NamespacedName),
    Route(RouteKind, NamespacedName),
    Policy(NamespacedName),
    RoutePolicy(NamespacedName),
    Slice(NamespacedName),
}

impl Target {
    /// The kind of the object.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) | Self::Addresses(_) => "Service",
            Self::Slice(_) => "EndpointSlice",
            Self::Class(_) => "GatewayClass",
            Self::Gateway(_) => "Gateway",
            Self::ListenerSet(_) => "ListenerSet",
            Self::Route(kind, _) => kind.name(),
            Self::Policy(_) => "BackendTLSPolicy",
            Self::RoutePolicy(_) => "RoutePolicy",
        }
    }

    /// The Service of the Gateway that the object is made for.
    pub(super) fn service(&self) -> Option<NamespacedName> {
        match self {
            Self::Service(name) | Self::Addresses(name) => Some(name.clone()),
            Self::Slice(name) => made::service_of(name),
            _ => None,
        }
    }

    /// The name of the object.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Class(name) => name.clone(),
            Self::Service(name)
            | Self::Addresses(name)
            | Self::Slice(name)
            | Self::Gateway(name)
            | Self::ListenerSet(name)
            | Self::Policy(name)
            | Self::RoutePolicy(name)
            | Self::Route(_, name) => name.to_string(),
        }
    }
}

/// How it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    CreateService(Box<Service>),
    CreateSlice(Box<EndpointSlice>),
    /// Merge patch, which names the version that it was made from.
    Patch(Value),
    /// Merge patch of the status, which names that version too.
    Status(Value),
    /// Deletion of the object with this `uid`.
    Delete(String),
}

impl Write {
    /// A hash of what is written, whatever the version that it replaces.
    pub(super) fn content(&self) -> u64 {
        let text = match self {
            Self::CreateService(service) => serde_json::to_string(service),
            Self::CreateSlice(slice) => serde_json::to_string(slice),
            Self::Patch(patch) | Self::Status(patch) => {
                let mut patch = patch.clone();
                patch["metadata"]["resourceVersion"] = Value::Null;
                serde_json::to_string(&patch)
            }
            Self::Delete(uid) => Ok(uid.clone()),
        };
        let mut hasher = DefaultHasher::new();
        text.unwrap_or_default().hash(&mut hasher);
        hasher.finish()
    }
}

/// What is there.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: Objects,
    pub(super) secrets: BTreeMap<NamespacedName, Secret>,
    pub(super) services: Services,
    /// Services and slices of Gateways.
    pub(super) made_services: Store<Service>,
    pub(super) made_slices: Store<EndpointSlice>,
    /// Pods of proxies.
    pub(super) pods: Store<Pod>,
    /// Pods of agents.
    pub(super) agents: Store<Pod>,
}

impl State {
    /// Returns what is to be written, and the number of our Gateways. `failures` says by Service of a Gateway what
    /// could not be written for it; `now` is the time (RFC 3339).
    pub(super) fn plan(
        &self,
        resolver: &mut Resolver,
        options: &ControllerOptions,
        failures: &BTreeMap<NamespacedName, String>,
        now: &str,
    ) -> (BTreeMap<Target, Write>, usize) {
        let controller = &options.gateways.controller;
        let present = self.addresses(controller, failures);
        let assigned = assign(&self.objects, &options.gateways, &present);
        let addresses = match options.gateways.pools.is_empty() {
            true => self.given(present),
            false => self.assigned(&present, &assigned),
        };
        let resolved = resolver.resolve(&World {
            objects: &self.objects,
            secrets: &self.secrets,
            services: &self.services,
            addresses: &addresses,
            servers: &self.servers(options),
            options: &options.gateways,
        });
        let made = infrastructure(&self.objects, &resolved);
        let mut plan = Plan {
            state: self,
            controller,
            has_pool: !options.gateways.pools.is_empty(),
            endpoints: Endpoints::new(&proxies(self.pods.objects(), controller)),
            writes: BTreeMap::new(),
            slices: BTreeSet::new(),
        };
        for made in made.values() {
            plan.make(made, &assigned);
        }
        plan.delete_rest(&made);
        plan.write_statuses(&resolved, now);
        (plan.writes, made.len())
    }

    /// Whether proxies and agents serve Gateways.
    fn servers(&self, options: &ControllerOptions) -> Servers {
        let controller = &options.gateways.controller;
        let agents = options.agent_selector.as_ref();
        Servers {
            proxies: proxies_problem(self.pods.objects(), &options.proxy_selector, controller),
            agents: agents
                .and_then(|selector| agents_problem(self.agents.objects(), selector, controller)),
        }
    }

    /// The addresses that Services of Gateways have, and what cannot be written for one.
    fn addresses(
        &self,
        controller: &str,
        failures: &BTreeMap<NamespacedName, String>,
    ) -> Addresses {
        let mut addresses = Addresses::default();
        for (name, gateway) in &self.objects.gateways {
            if let Some(error) = failures.get(&service_name(&gateway.meta)) {
                let problem = Problem::new("AddressNotAssigned", error);
                addresses.set(name.clone(), Vec::new(), Some(problem));
            }
        }
        for (name, service) in self.made_services.iter() {
            if let Some((gateway, uid)) = owner(&service.metadata, controller)
                && self.uid(&gateway) == Some(uid)
            {
                let points = points(service);
                let reason = match points.is_empty() {
                    true => "AddressNotAssigned",
                    false => "NoResources",
                };
                let problem = failures.get(name).map(|error| Problem::new(reason, error));
                addresses.set(gateway, points, problem);
            }
        }
        addresses
    }

    fn uid(&self, gateway: &NamespacedName) -> Option<&str> {
        let gateway = self.objects.gateways.get(gateway)?;
        Some(&gateway.meta.uid)
    }

    /// Addresses that a load balancer of the cluster has given.
    fn given(&self, mut addresses: Addresses) -> Addresses {
        for (name, gateway) in &self.objects.gateways {
            let here = addresses.of(name).to_vec();
            let is_here = |wanted: &str| here.iter().any(|one| is_same(&one.value, wanted));
            let named = gateway.spec.addresses.iter();
            let mut named = named.filter_map(|one| one.value.as_deref());
            let missing = named.find(|value| !value.is_empty() && !is_here(value));
            if let Some(value) = missing
                && addresses.problem(name).is_none()
            {
                let reason = format!("the load balancer of the cluster has not given {value}");
                let problem = Problem::new("AddressNotUsable", reason);
                addresses.set(name.clone(), here, Some(problem));
            }
        }
        addresses
    }

    /// Addresses of a pool. They are in the status before the Service has them, so that they stay when the Service
    /// is lost.
    fn assigned(&self, present: &Addresses, assigned: &Addresses) -> Addresses {
        let mut addresses = Addresses::default();
        for name in self.objects.gateways.keys() {
            let given = assigned.of(name);
            let is_pending = !given.is_empty() && present.of(name) != given;
            let pending = || Problem::new("AddressNotAssigned", "the Service has no address yet");
            let problem = assigned.problem(name).or(present.problem(name)).cloned();
            let problem = problem.or_else(|| is_pending.then(pending));
            addresses.set(name.clone(), given.to_vec(), problem);
        }
        addresses
    }
}

/// Whether two texts are the same address.
fn is_same(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// The addresses of a Service.
fn points(service: &Service) -> Vec<StatusAddress> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let addresses = points.into_iter().flatten().filter_map(|point| {
        let (type_, value) = match (&point.ip, &point.hostname) {
            (Some(ip), _) if !ip.is_empty() => ("IPAddress", ip),
            (_, Some(name)) if !name.is_empty() => ("Hostname", name),
            _ => return None,
        };
        Some(StatusAddress {
            type_: type_.into(),
            value: value.clone(),
        })
    });
    addresses.collect()
}

struct Plan<'a> {
    state: &'a State,
    controller: &'a str,
    has_pool: bool,
    endpoints: Endpoints,
    writes: BTreeMap<Target, Write>,
    /// Slices that should be there.
    slices: BTreeSet<NamespacedName>,
}

impl Plan<'_> {
    /// Makes what a Gateway needs.
    fn make(&mut self, made: &Infrastructure, assigned: &Addresses) {
        let (gateway, uid) = &made.owner;
        let is_ours = |metadata: &ObjectMeta| {
            let owner = owner(metadata, self.controller);
            owner.is_some_and(|(_, owner)| owner == uid)
        };
        if made.is_idle() {
            // What was made stays as it is.
            let slices = self.state.made_slices.iter();
            let slices = slices.filter(|(_, slice)| is_ours(&slice.metadata));
            self.slices.extend(slices.map(|(name, _)| name.clone()));
            return;
        }
        let found = self.state.made_services.get(&made.service);
        let found = found.filter(|service| is_ours(&service.metadata));
        let gateway = self.state.objects.gateways.get(gateway);
        let named = gateway.iter().flat_map(|gateway| &gateway.spec.addresses);
        let mut named = named.filter_map(|one| one.value.as_deref());
        let wanted = named.find(|value| !self.has_pool && !value.is_empty());
        let service = made::service(made, self.controller, self.has_pool, wanted);
        let write = match found {
            None => Some(Write::CreateService(service.into())),
            Some(found) if has_other_class(found, &service) => found.uid().map(Write::Delete),
            Some(found) if has_all(found, &service) => None,
            Some(found) => Some(Write::Patch(service_patch(found, service))),
        };
        if let Some(write) = write {
            let target = Target::Service(made.service.clone());
            self.writes.insert(target, write);
        }
        if let Some(found) = found.filter(|_| self.has_pool) {
            self.set_addresses(made, found, assigned.of(&made.owner.0));
        }
        let ports = slice_ports(made);
        for slice in made::slices(made, &self.endpoints, &ports) {
            let found = self.state.made_slices.get(&slice.name);
            let found = found.filter(|slice| is_ours(&slice.metadata));
            let metadata = slice.metadata(made, self.controller);
            let write = match found {
                None => Some(Write::CreateSlice(slice.object(metadata).into())),
                Some(found) if slice.is(found, &metadata) => None,
                Some(found) => Some(Write::Patch(slice_patch(found, &slice.object(metadata)))),
            };
            if let Some(write) = write {
                self.writes.insert(Target::Slice(slice.name.clone()), write);
            }
            self.slices.insert(slice.name);
        }
    }

    /// Gives a Service the addresses of a pool.
    fn set_addresses(&mut self, made: &Infrastructure, found: &Service, given: &[StatusAddress]) {
        if points(found) == given {
            return;
        }
        let points: Vec<Value> = given
            .iter()
            .map(|one| json!({"ip": one.value, "ipMode": "VIP"}))
            .collect();
        let version = found.resource_version().unwrap_or_default();
        let status = json!({"loadBalancer": {"ingress": points}});
        let target = Target::Addresses(made.service.clone());
        self.writes.insert(target, written(&version, &status));
    }

    /// Deletes what was made for Gateways that are gone or have another class, and slices that are too many. The
    /// garbage collector deletes what belongs to Gateways that are gone as well. A class that is missing may come
    /// back: addresses would be lost meanwhile.
    fn delete_rest(&mut self, made: &BTreeMap<NamespacedName, Infrastructure>) {
        let objects = &self.state.objects;
        let is_wanted = |name: &NamespacedName, uid: &str| {
            let gateway = objects.gateways.get(name);
            let gateway = gateway.filter(|gateway| gateway.meta.uid == uid);
            let is_unclear = gateway.is_some_and(|gateway| {
                let class = &gateway.spec.gateway_class_name;
                !objects.classes.contains_key(class)
            });
            let is_made = made.get(name).is_some_and(|made| made.owner.1 == uid);
            (is_made, is_unclear)
        };
        for (name, service) in self.state.made_services.iter() {
            if let Some((gateway, owner)) = owner(&service.metadata, self.controller)
                && is_wanted(&gateway, owner) == (false, false)
                && let Some(uid) = service.uid()
            {
                let target = Target::Service(name.clone());
                self.writes.insert(target, Write::Delete(uid));
            }
        }
        for (name, slice) in self.state.made_slices.iter() {
            if let Some((gateway, owner)) = owner(&slice.metadata, self.controller)
                && let (is_made, false) = is_wanted(&gateway, owner)
                && !(is_made && self.slices.contains(name))
                && let Some(uid) = slice.uid()
            {
                let target = Target::Slice(name.clone());
                self.writes.insert(target, Write::Delete(uid));
            }
        }
    }

    fn write_statuses(&mut self, resolved: &Resolved, now: &str) {
        let objects = &self.state.objects;
        for (name, verdict) in &resolved.classes {
            if let Some(class) = objects.classes.get(name) {
                let new = merge(&class.meta, now).class(&class.status, verdict);
                self.write_status(Target::Class(name.clone()), &class.meta, new);
            }
        }
        for (name, verdict) in &resolved.verdicts {
            if let Some(gateway) = objects.gateways.get(name) {
                let new = merge(&gateway.meta, now).gateway(&gateway.status, verdict);
                self.write_status(Target::Gateway(name.clone()), &gateway.meta, new);
            }
        }
        for (name, verdict) in &resolved.listener_sets {
            if let Some(set) = objects.listener_sets.get(name) {
                let new = merge(&set.meta, now).listener_set(&set.status, verdict);
                self.write_status(Target::ListenerSet(name.clone()), &set.meta, new);
            }
        }
        for ((kind, name), verdict) in &resolved.routes {
            if let Some((meta, status)) = route(objects, *kind, name) {
                let new = merge(meta, now).route(status, verdict, self.controller);
                self.write_status(Target::Route(*kind, name.clone()), meta, new);
            }
        }
        for (name, verdict) in &resolved.backend_tls {
            if let Some(policy) = objects.backend_tls.get(name) {
                let new = merge(&policy.meta, now).policy(&policy.status, verdict, self.controller);
                self.write_status(Target::Policy(name.clone()), &policy.meta, new);
            }
        }
        for (name, verdict) in &resolved.route_policies {
            if let Some(policy) = objects.route_policies.get(name) {
                let new = merge(&policy.meta, now).policy(&policy.status, verdict, self.controller);
                self.write_status(Target::RoutePolicy(name.clone()), &policy.meta, new);
            }
        }
    }

    fn write_status(&mut self, target: Target, meta: &Meta, status: Option<impl Serialize>) {
        let status = status.and_then(|status| serde_json::to_value(status).ok());
        if let Some(status) = status {
            self.writes.insert(target, written(&meta.version, &status));
        }
    }
}

fn merge<'a>(meta: &Meta, now: &'a str) -> Merge<'a> {
    Merge {
        generation: meta.generation,
        now,
    }
}

/// A status that is written if the object has this version.
fn written(version: &str, status: &Value) -> Write {
    Write::Status(json!({"metadata": {"resourceVersion": version}, "status": status}))
}

fn route<'a>(
    objects: &'a Objects,
    kind: RouteKind,
    name: &NamespacedName,
) -> Option<(&'a Meta, &'a RouteStatus)> {
    macro_rules! of {
        ($routes:ident) => {
            objects
                .$routes
                .get(name)
                .map(|route| (&route.meta, &route.status))
        };
    }
    match kind {
        RouteKind::Http => of!(http_routes),
        RouteKind::Grpc => of!(grpc_routes),
        RouteKind::Tls => of!(tls_routes),
        RouteKind::Tcp => of!(tcp_routes),
        RouteKind::Udp => of!(udp_routes),
    }
}
