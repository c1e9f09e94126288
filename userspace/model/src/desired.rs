//! What a Service means: the rules of the Service API, one function a rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    AddressKind, Backend, BackendSpec, Endpoint, EndpointSlice, Family, Frontend, FrontendKind,
    FrontendSpec, HealthCheck, KeyParts, Node, ObjectName, Refusal, Scope, Service, ServiceKey,
    ServicePort, ServiceSpec,
};

/// What one Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Frontends. Two Services may claim the same one.
    pub claims: Vec<Claim>,
    /// Services by port, family and scope.
    pub services: BTreeMap<ServiceKey, ServiceSpec>,
    /// Backends of all of them.
    pub backends: BTreeMap<Backend, BackendSpec>,
    /// Addresses of the frontends.
    pub addresses: BTreeMap<IpAddr, AddressKind>,
    /// What its health-check node port tells.
    pub health_check: Option<HealthCheck>,
    /// What it asks for and does not get.
    pub refusals: Vec<Refusal>,
}

/// A frontend that a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The field that says so.
    pub field: &'static str,
    /// Where.
    pub frontend: Frontend,
    /// What.
    pub spec: FrontendSpec,
}

/// What `service` with these slices means on `node`. The same input gives the same output.
pub fn share(service: &Service, slices: &[&EndpointSlice], node: &Node) -> Share {
    let mut share = Share::default();
    for (field, addresses, kind) in addresses(service, node, &mut share.refusals) {
        for port in &service.ports {
            for address in &addresses {
                let Some(frontend) = frontend(kind, *address, port) else {
                    continue;
                };
                let mut spec = frontend_spec(service, port, kind, Family::of(*address));
                let is_reached = kind != FrontendKind::ClusterIp;
                add_service(&mut share, service, slices, node, &mut spec.inside, false);
                add_service(
                    &mut share,
                    service,
                    slices,
                    node,
                    &mut spec.outside,
                    is_reached,
                );
                let address_kind = address_kind(kind, *address, node);
                let known = share.addresses.entry(*address).or_default();
                *known = address_kind.max(*known);
                share.claims.push(Claim {
                    field,
                    frontend,
                    spec,
                });
            }
        }
    }
    share.health_check = health_check(service, slices, node);
    share
}

/// The addresses of a service by the field they come from.
fn addresses(
    service: &Service,
    node: &Node,
    refusals: &mut Vec<Refusal>,
) -> [(&'static str, Vec<IpAddr>, FrontendKind); 4] {
    let mut refuse = |reason: String| {
        refusals.push(Refusal {
            object: ObjectName::Service(service.name.clone()),
            field: "spec.externalIPs".into(),
            reason,
        });
    };
    let mut external = Vec::new();
    for address in &service.external_ips {
        if !node.serves_external_ips {
            refuse(format!("{address}: external IPs are not served here"));
        } else if node.addresses.contains(address) {
            // An address that the node holds for itself is not a service's to take (CVE-2020-8554).
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
            node.node_port_addresses.clone(),
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

/// Ports that nobody uses are refused on addresses of services alone. An external IP may be
/// another machine's, and some load balancers give out the addresses of the nodes, this one's and
/// those of its neighbours.
fn address_kind(kind: FrontendKind, address: IpAddr, node: &Node) -> AddressKind {
    let is_machines = || {
        let mut networks = node.networks.iter();
        node.addresses.contains(&address) || networks.any(|network| network.contains(&address))
    };
    match kind {
        FrontendKind::ClusterIp => AddressKind::Service,
        FrontendKind::LoadBalancer if !is_machines() => AddressKind::Service,
        FrontendKind::LoadBalancer | FrontendKind::NodePort | FrontendKind::ExternalIp => {
            AddressKind::Shared
        }
    }
}

/// Which endpoints serve a frontend (KEP-2086 for cluster IPs).
///
/// `externalTrafficPolicy: Local` holds for traffic from outside alone: what comes from this
/// cluster goes to all endpoints.
fn frontend_spec(
    service: &Service,
    port: &ServicePort,
    kind: FrontendKind,
    family: Family,
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
        FrontendKind::ClusterIp => (service.internal_policy, service.internal_policy),
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            (Scope::Cluster, service.external_policy)
        }
    };
    FrontendSpec {
        kind,
        inside: key(inside),
        outside: key(outside),
        is_restricted: kind == FrontendKind::LoadBalancer && service.source_ranges.is_some(),
    }
}

/// Adds a service, or finds it: frontends hold the key that it has there.
fn add_service(
    share: &mut Share,
    service: &Service,
    slices: &[&EndpointSlice],
    node: &Node,
    key: &mut ServiceKey,
    is_reached_from_outside: bool,
) {
    if let Some((known, _)) = share.services.get_key_value(key) {
        key.clone_from(known);
    } else {
        let backends = eligible_backends(slices, node, key);
        let spec = ServiceSpec {
            backends: backends.iter().map(|(backend, _)| *backend).collect(),
            consistent: false,
            affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
            source_ranges: source_ranges(service, key.family),
        };
        share.services.insert(key.clone(), spec);
        share.backends.extend(backends);
    }
    if let Some(spec) = share.services.get_mut(key) {
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

/// An endpoint of a service's port.
type Candidate<'a> = (&'a Endpoint, u16);

/// Ready endpoints, near ones if hints say so; if there is none, those that still serve while they
/// terminate (KEP-1669).
fn eligible_backends(
    slices: &[&EndpointSlice],
    node: &Node,
    key: &ServiceKey,
) -> Vec<(Backend, BackendSpec)> {
    let mut eligible = candidates(slices, node, key, |endpoint| endpoint.ready);
    if eligible.is_empty() {
        eligible = candidates(slices, node, key, |endpoint| {
            endpoint.serving && endpoint.terminating
        });
    } else if key.scope == Scope::Cluster {
        eligible = near(&eligible, node).unwrap_or(eligible);
    }
    let backends: BTreeMap<Backend, BackendSpec> = eligible
        .into_iter()
        .map(|(endpoint, port)| {
            let backend = Backend {
                address: endpoint.address,
                port,
                protocol: key.protocol,
            };
            let local = is_local(endpoint, node);
            (backend, BackendSpec { local })
        })
        .collect();
    backends.into_iter().collect()
}

fn is_local(endpoint: &Endpoint, node: &Node) -> bool {
    endpoint.node.as_deref() == Some(node.name.as_str())
}

/// Endpoints of the key's port, family and scope that `counts` admits.
fn candidates<'a>(
    slices: &[&'a EndpointSlice],
    node: &Node,
    key: &ServiceKey,
    counts: impl Fn(&Endpoint) -> bool,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
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
            candidates.extend(admitted.map(|endpoint| (endpoint, port.port)));
        }
    }
    candidates
}

/// Endpoints that hints give to this node, else those given to its zone (KEP-2433, KEP-4444).
fn near<'a>(ready: &[Candidate<'a>], node: &Node) -> Option<Vec<Candidate<'a>>> {
    let of_node = hinted(ready, |endpoint| &endpoint.node_hints, &node.name);
    of_node.or_else(|| hinted(ready, |endpoint| &endpoint.zone_hints, node.zone.as_ref()?))
}

/// Hints count only if every ready endpoint has one and some are for here (KEP-2433).
fn hinted<'a>(
    ready: &[Candidate<'a>],
    hints: impl Fn(&Endpoint) -> &[String],
    here: &String,
) -> Option<Vec<Candidate<'a>>> {
    if ready.iter().any(|(endpoint, _)| hints(endpoint).is_empty()) {
        return None;
    }
    let is_here = |(endpoint, _): &&Candidate<'a>| hints(endpoint).contains(here);
    let near: Vec<Candidate<'a>> = ready.iter().filter(is_here).copied().collect();
    (!near.is_empty()).then_some(near)
}

/// How many endpoints of this node are ready, for load balancers that ask. With two families every
/// pod is in two slices; it counts once.
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
