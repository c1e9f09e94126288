//! What one Service adds to the maps: the rules of the Service API, one function for each rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    AddressKind, AddressSpec, Backend, Endpoint, EndpointSlice, Family, Frontend, FrontendKind,
    FrontendSpec, HealthCheck, KeyParts, Location, Node, ObjectName, Refusal, Routed, Scope,
    Service, ServiceKey, ServicePort, ServiceSpec,
    routed::{FINEST, Weighed, weighed},
};

/// What one Service adds to the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contribution {
    /// Frontends. Several Services may ask for the same one.
    pub ownerships: Vec<Ownership>,
    /// Services by port, family and scope.
    pub services: BTreeMap<ServiceKey, ServiceSpec>,
    /// Addresses of the frontends.
    pub addresses: BTreeMap<IpAddr, AddressSpec>,
    /// Answer of its health-check node port.
    pub health_check: Option<HealthCheck>,
    /// Fields that are not served as written.
    pub refusals: Vec<Refusal>,
}

/// A frontend that a Service asks to own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The field of the Service that has the address.
    pub field: &'static str,
    /// The frontend.
    pub frontend: Frontend,
    /// What it should be.
    pub spec: FrontendSpec,
}

/// Returns what `service` with these slices adds to the maps of `node`. Connections of a port in `routed` go to the
/// backends there, and not to endpoints in `slices`. The same input gives the same output.
///
/// ```
/// use headgate_model::{
///     NamespacedName, Node, Protocol, Routed, Scope, Service, ServicePort, contribution,
/// };
///
/// let web = Service {
///     name: NamespacedName::new("default", "web"),
///     created_s: None,
///     ports: vec![ServicePort {
///         name: "http".into(),
///         protocol: Protocol::Tcp,
///         port: 80,
///         node_port: None,
///     }],
///     cluster_ips: vec![[10, 96, 0, 10].into()],
///     external_ips: Vec::new(),
///     load_balancer_ips: Vec::new(),
///     external_policy: Scope::Cluster,
///     internal_policy: Scope::Cluster,
///     affinity_timeout_s: None,
///     source_ranges: None,
///     health_check_node_port: None,
/// };
/// let added = contribution(&web, &[], &Routed::new(), &Node::default());
/// assert_eq!(added.ownerships[0].frontend.to_string(), "tcp 10.96.0.10:80");
/// assert_eq!(added.services.len(), 1);
/// let (_, spec) = added.services.first_key_value().unwrap();
/// assert!(spec.backends.is_empty(), "there are no slices");
/// ```
pub fn contribution(
    service: &Service,
    slices: &[&EndpointSlice],
    routed: &Routed<'_>,
    node: &Node,
) -> Contribution {
    let mut contribution = Contribution::default();
    for (field, addresses, kind) in addresses(service, node, &mut contribution.refusals) {
        for port in &service.ports {
            for address in &addresses {
                let Some(frontend) = frontend(kind, *address, port) else {
                    continue;
                };
                let shares = routed.get(&(port.protocol, port.port));
                let is_routed = shares.is_some();
                let mut spec = frontend_spec(service, port, kind, Family::of(*address), is_routed);
                let is_reached = kind != FrontendKind::ClusterIp;
                let backends = |key: &ServiceKey| match shares {
                    Some(shares) => weighed(shares, node, key),
                    None => (eligible_backends(slices, node, key), None),
                };
                let added = &mut contribution;
                add_service(added, service, backends, &mut spec.inside, false);
                add_service(added, service, backends, &mut spec.outside, is_reached);
                let services = [&spec.inside, &spec.outside].map(|key| &contribution.services[key]);
                let is_ready = services.iter().any(|service| !service.backends.is_empty());
                let kind = address_kind(kind, *address, node);
                let address_spec = AddressSpec {
                    kind,
                    answers_echo: is_ready && kind != AddressKind::Node,
                };
                let known = contribution.addresses.entry(*address).or_default();
                *known = known.and(address_spec);
                contribution.ownerships.push(Ownership {
                    field,
                    frontend,
                    spec,
                });
            }
        }
    }
    contribution.health_check = health_check(service, slices, node);
    contribution
}

/// The addresses of a Service, by field.
fn addresses(
    service: &Service,
    node: &Node,
    refusals: &mut Vec<Refusal>,
) -> [(&'static str, Vec<IpAddr>, FrontendKind); 4] {
    let mut refuse = |reason: String| {
        let object = ObjectName::Service(service.name.clone());
        refusals.push(Refusal::new(object, "spec.externalIPs", reason));
    };
    let mut external = Vec::new();
    for address in &service.external_ips {
        if !node.serves_external_ips {
            refuse(format!("{address}: external IPs are disabled on this node"));
        } else if node.own_addresses.contains(address) {
            refuse(format!("{address} is an address of this node"));
        } else {
            external.push(*address);
        }
    }
    [
        (
            "spec.clusterIPs",
            service.cluster_ips.clone(),
            FrontendKind::ClusterIp,
        ),
        (
            "spec.ports.nodePort",
            node_port_addresses(service, node),
            FrontendKind::NodePort,
        ),
        ("spec.externalIPs", external, FrontendKind::ExternalIp),
        (
            "status.loadBalancer",
            service.load_balancer_ips.clone(),
            FrontendKind::LoadBalancer,
        ),
    ]
}

/// The addresses of the node in the families that the Service has: in the other family a process of
/// the node may listen on the port.
fn node_port_addresses(service: &Service, node: &Node) -> Vec<IpAddr> {
    let is_served = |address: &&IpAddr| {
        let mut own = service.cluster_ips.iter();
        service.cluster_ips.is_empty() || own.any(|own| Family::of(*own) == Family::of(**address))
    };
    let addresses = node.node_port_addresses.iter();
    addresses.filter(is_served).copied().collect()
}

fn frontend(kind: FrontendKind, address: IpAddr, port: &ServicePort) -> Option<Frontend> {
    let number = match kind {
        FrontendKind::NodePort => port.node_port?,
        FrontendKind::ClusterIp | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            port.port
        }
    };
    Some(Frontend {
        address,
        port: number,
        protocol: port.protocol,
    })
}

/// Unused ports are refused only on addresses that belong to Services. An external IP may belong to
/// another machine, and some load balancers report addresses of this node or of its neighbours. A cluster IP that the
/// node holds is left to its process there (NodeLocal DNSCache).
fn address_kind(kind: FrontendKind, address: IpAddr, node: &Node) -> AddressKind {
    let is_neighbour = || {
        let mut networks = node.networks.iter();
        networks.any(|network| network.contains(&address))
    };
    match kind {
        FrontendKind::NodePort => AddressKind::Node,
        _ if node.addresses.contains(&address) => AddressKind::Node,
        FrontendKind::ClusterIp => AddressKind::Service,
        FrontendKind::LoadBalancer if !is_neighbour() => AddressKind::Service,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => AddressKind::Shared,
    }
}

/// Which endpoints serve a frontend (KEP-2086 for cluster IPs).
///
/// `externalTrafficPolicy: Local` applies only to traffic from outside the cluster; traffic from
/// inside goes to all endpoints. So does all traffic of a routed port: the policies of the Service are about its own
/// endpoints.
fn frontend_spec(
    service: &Service,
    port: &ServicePort,
    kind: FrontendKind,
    family: Family,
    is_routed: bool,
) -> FrontendSpec {
    let key = |scope| {
        ServiceKey::from(KeyParts {
            service: service.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            family,
            scope,
        })
    };
    let (inside, outside) = match kind {
        _ if is_routed => (Scope::Cluster, Scope::Cluster),
        FrontendKind::ClusterIp => (service.internal_policy, service.internal_policy),
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            (Scope::Cluster, service.external_policy)
        }
    };
    FrontendSpec {
        kind,
        inside: key(inside),
        outside: key(outside),
        is_restricted: kind == FrontendKind::LoadBalancer
            && !source_ranges(service, family).is_empty(),
    }
}

/// Adds a service unless it exists, and makes `key` share its memory with the key in the map.
fn add_service(
    contribution: &mut Contribution,
    service: &Service,
    backends: impl Fn(&ServiceKey) -> Weighed,
    key: &mut ServiceKey,
    is_reached_from_outside: bool,
) {
    if let Some((known, _)) = contribution.services.get_key_value(key) {
        key.clone_from(known);
    } else {
        let (backends, shares) = backends(key);
        let spec = ServiceSpec {
            slots: match &shares {
                Some(_) => FINEST,
                None => backends.len() as u32,
            },
            backends,
            // A plain list has no shares.
            consistent: shares.is_some(),
            shares,
            affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
            source_ranges: source_ranges(service, key.family),
        };
        contribution.services.insert(key.clone(), spec);
    }
    if let Some(spec) = contribution.services.get_mut(key) {
        spec.consistent |= is_reached_from_outside;
    }
}

/// The ranges of one family, each once, sorted.
fn source_ranges(service: &Service, family: Family) -> Arc<[IpNet]> {
    let ranges = service.source_ranges.iter().flatten();
    let ranges: BTreeSet<IpNet> = ranges
        .filter(|range| Family::of(range.addr()) == family)
        .map(IpNet::trunc)
        .collect();
    ranges.into_iter().collect()
}

/// An endpoint with its number of a Service's port.
type Claimant<'a> = (&'a Endpoint, u16);

/// Ready endpoints, or the near ones of them if hints apply; without ready ones, those that still
/// serve while they terminate (KEP-1669).
pub(crate) fn eligible_backends(
    slices: &[&EndpointSlice],
    node: &Node,
    key: &KeyParts,
) -> Arc<[Backend]> {
    let mut eligible = claimants(slices, node, key, |endpoint| endpoint.ready);
    if eligible.is_empty() {
        eligible = claimants(slices, node, key, |endpoint| {
            endpoint.serving && endpoint.terminating
        });
    } else if key.scope == Scope::Cluster {
        eligible = near(&eligible, node).unwrap_or(eligible);
    }
    let mut locations: BTreeMap<(IpAddr, u16), Location> = BTreeMap::new();
    for (endpoint, port) in eligible {
        let here = location(endpoint, node);
        let known = locations.entry((endpoint.address, port)).or_insert(here);
        *known = here.max(*known);
    }
    let backends = locations.into_iter();
    backends
        .map(|((address, port), location)| Backend {
            address,
            port,
            protocol: key.protocol,
            location,
        })
        .collect()
}

/// Where packets to an endpoint go. What this node holds needs no translated source, whatever a
/// slice says: the kernel drops its own address as a source from outside.
fn location(endpoint: &Endpoint, node: &Node) -> Location {
    if is_local(endpoint, node) || node.addresses.contains(&endpoint.address) {
        return Location::ThisNode;
    }
    match &endpoint.node {
        Some(_) => Location::OtherNode,
        None => Location::Outside,
    }
}

/// Whether a slice says that the endpoint is on this node, which is what traffic policies ask.
fn is_local(endpoint: &Endpoint, node: &Node) -> bool {
    endpoint.node.as_deref() == Some(node.name.as_str())
}

/// Endpoints of the key's port, family and scope for which `counts` is true.
fn claimants<'a>(
    slices: &[&'a EndpointSlice],
    node: &Node,
    key: &KeyParts,
    counts: impl Fn(&Endpoint) -> bool,
) -> Vec<Claimant<'a>> {
    let mut claimants = Vec::new();
    for slice in slices {
        for port in &slice.ports {
            if port.name != key.port || port.protocol != key.protocol {
                continue;
            }
            let admitted = slice.endpoints.iter().filter(|endpoint| {
                counts(endpoint)
                    && Family::of(endpoint.address) == key.family
                    && (key.scope == Scope::Cluster || is_local(endpoint, node))
            });
            claimants.extend(admitted.map(|endpoint| (endpoint, port.port)));
        }
    }
    claimants
}

/// Endpoints whose hints name this node, else those whose hints name its zone (KEP-2433, KEP-4444).
fn near<'a>(ready: &[Claimant<'a>], node: &Node) -> Option<Vec<Claimant<'a>>> {
    let of_node = hinted(ready, |endpoint| &endpoint.node_hints, &node.name);
    of_node.or_else(|| hinted(ready, |endpoint| &endpoint.zone_hints, node.zone.as_ref()?))
}

/// Applies hints only if every ready endpoint has one and some name `here` (KEP-2433).
fn hinted<'a>(
    ready: &[Claimant<'a>],
    hints: impl Fn(&Endpoint) -> &[String],
    here: &String,
) -> Option<Vec<Claimant<'a>>> {
    if ready.iter().any(|(endpoint, _)| hints(endpoint).is_empty()) {
        return None;
    }
    let is_here = |(endpoint, _): &&Claimant<'a>| hints(endpoint).contains(here);
    let near: Vec<Claimant<'a>> = ready.iter().filter(is_here).copied().collect();
    (!near.is_empty()).then_some(near)
}

/// The number of ready endpoints on this node, for load balancers. A pod with addresses of both
/// families is in two slices and counts once.
fn health_check(service: &Service, slices: &[&EndpointSlice], node: &Node) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let ready: BTreeSet<IpAddr> = endpoints
        .filter(|endpoint| endpoint.ready && is_local(endpoint, node))
        .map(|endpoint| endpoint.address)
        .collect();
    let v4 = ready.iter().filter(|address| address.is_ipv4()).count();
    Some(HealthCheck {
        port,
        local_endpoints: v4.max(ready.len() - v4),
    })
}
