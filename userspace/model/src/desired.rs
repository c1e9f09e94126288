//! What Services mean: the rules of the Service API, one function a rule.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use crate::{
    Backend, BackendSpec, Desired, Endpoint, Family, Frontend, FrontendKind, FrontendSpec, Model,
    Node, Scope, Service, ServiceKey, ServicePort, ServiceSpec,
};

/// Something that was asked for and is not done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Kind, namespace and name of the object, or the file.
    pub object: String,
    /// The field.
    pub field: String,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            field,
            reason,
        } = self;
        if field.is_empty() {
            return write!(out, "{object}: {reason}");
        }
        write!(out, "{object}: {field}: {reason}")
    }
}

/// What the maps of `node` should hold. The same input gives the same output.
pub fn desired(model: &Model, node: &Node) -> (Desired, Vec<Refusal>) {
    let mut desired = Desired::default();
    let mut refusals = Vec::new();
    for service in by_age(model) {
        for (field, addresses, kind) in addresses(service, node, &mut refusals) {
            for port in &service.ports {
                for address in &addresses {
                    let Some(frontend) = frontend(kind, *address, port) else {
                        continue;
                    };
                    let spec = frontend_spec(service, port, kind, Family::of(*address));
                    // Two services that claim one address and port: the older wins.
                    if let Some(owner) = desired.frontends.get(&frontend) {
                        if owner.inside.service == service.name {
                            continue;
                        }
                        refusals.push(Refusal {
                            object: format!("Service {}", service.name),
                            field: field.into(),
                            reason: format!("{frontend} belongs to {}", owner.inside.service),
                        });
                        continue;
                    }
                    add_service(&mut desired, model, node, service, &spec.inside, false);
                    let is_reached = kind != FrontendKind::ClusterIp;
                    add_service(
                        &mut desired,
                        model,
                        node,
                        service,
                        &spec.outside,
                        is_reached,
                    );
                    desired.frontends.insert(frontend, spec);
                }
            }
        }
    }
    (desired, refusals)
}

/// The oldest first; among equals by name.
fn by_age(model: &Model) -> Vec<&Service> {
    let mut services: Vec<&Service> = model.services.values().collect();
    services.sort_by_key(|service| (service.created_s.unwrap_or(i64::MAX), &service.name));
    services
}

/// The addresses of a service by the field they come from.
fn addresses(
    service: &Service,
    node: &Node,
    refusals: &mut Vec<Refusal>,
) -> Vec<(&'static str, Vec<IpAddr>, FrontendKind)> {
    let mut addresses = vec![
        (
            "spec.clusterIPs",
            service.cluster_ips.clone(),
            FrontendKind::ClusterIp,
        ),
        (
            "spec.ports.nodePort",
            node.addresses.clone(),
            FrontendKind::NodePort,
        ),
    ];
    // An address that the node holds for itself is not a service's to take (CVE-2020-8554).
    let (own, external): (Vec<IpAddr>, Vec<IpAddr>) = service
        .external_ips
        .iter()
        .partition(|address| node.addresses.contains(address));
    for address in own {
        refusals.push(Refusal {
            object: format!("Service {}", service.name),
            field: "spec.externalIPs".into(),
            reason: format!("{address} is an address of this node"),
        });
    }
    addresses.push(("spec.externalIPs", external, FrontendKind::ExternalIp));
    if service.source_ranges.is_empty() {
        let ips = service.load_balancer_ips.clone();
        addresses.push(("status.loadBalancer", ips, FrontendKind::LoadBalancer));
    } else if !service.load_balancer_ips.is_empty() {
        refusals.push(Refusal {
            object: format!("Service {}", service.name),
            field: "spec.loadBalancerSourceRanges".into(),
            reason: "source ranges are not enforced yet, so its load-balancer IPs are not served"
                .into(),
        });
    }
    addresses
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
    let key = |scope| ServiceKey {
        service: service.name.clone(),
        port: port.name.clone(),
        protocol: port.protocol,
        family,
        scope,
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
    }
}

fn add_service(
    desired: &mut Desired,
    model: &Model,
    node: &Node,
    service: &Service,
    key: &ServiceKey,
    is_reached_from_outside: bool,
) {
    if !desired.services.contains_key(key) {
        let backends = eligible_backends(model, node, key);
        let spec = ServiceSpec {
            backends: backends.iter().map(|(backend, _)| *backend).collect(),
            consistent: false,
            affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
        };
        desired.services.insert(key.clone(), spec);
        desired.backends.extend(backends);
    }
    if let Some(spec) = desired.services.get_mut(key) {
        spec.consistent |= is_reached_from_outside;
    }
}

/// Ready endpoints; if there is none, those that still serve while they terminate (KEP-1669).
fn eligible_backends(model: &Model, node: &Node, key: &ServiceKey) -> Vec<(Backend, BackendSpec)> {
    let ready = backends(model, node, key, |endpoint| endpoint.ready);
    if !ready.is_empty() {
        return ready;
    }
    backends(model, node, key, |endpoint| {
        endpoint.serving && endpoint.terminating
    })
}

/// Endpoints of all slices of the service that `counts` admits, each once, sorted.
fn backends(
    model: &Model,
    node: &Node,
    key: &ServiceKey,
    counts: impl Fn(&Endpoint) -> bool,
) -> Vec<(Backend, BackendSpec)> {
    let mut seen = BTreeSet::new();
    let mut backends = Vec::new();
    for slice in model
        .slices
        .values()
        .filter(|slice| slice.service == key.service)
    {
        for port in &slice.ports {
            if port.name != key.port || port.protocol != key.protocol {
                continue;
            }
            for endpoint in slice.endpoints.iter().filter(|endpoint| counts(endpoint)) {
                let local = endpoint.node.as_deref() == Some(node.name.as_str());
                let is_in_scope = key.scope == Scope::Cluster || local;
                let backend = Backend {
                    address: endpoint.address,
                    port: port.port,
                    protocol: port.protocol,
                };
                if is_in_scope && Family::of(endpoint.address) == key.family && seen.insert(backend)
                {
                    backends.push((backend, BackendSpec { local }));
                }
            }
        }
    }
    backends.sort_by_key(|(backend, _)| *backend);
    backends
}
