//! The expected content of the maps for a cluster, by the rules of the Service API. It shares no code with
//! the model: it computes everything from the whole cluster, one rule after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use headgate_model::{
    Actual, AddressKind, AddressSpec, Backend, Frontend, FrontendKind, Location, NamespacedName,
    Protocol, Scope, Service, ServiceKey,
};
use ipnet::IpNet;

use crate::cluster::Cluster;

/// The service behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    of: NamespacedName,
    kind: FrontendKind,
    inside: Targets,
    outside: Targets,
    /// Admitted source ranges, if restricted.
    admits: Option<BTreeSet<IpNet>>,
}

/// The backends of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Targets {
    /// Backends.
    backends: BTreeSet<Backend>,
    is_local: bool,
    affinity_timeout_s: u32,
}

/// The content of the maps, without ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    frontends: BTreeMap<Frontend, Behind>,
    addresses: BTreeMap<IpAddr, AddressSpec>,
    backends: BTreeSet<Backend>,
}

/// The expected content.
pub(crate) fn expected(cluster: &Cluster) -> Seen {
    let mut seen = Seen::default();
    // S17, S91: addresses that the cluster assigns come first, then the oldest Service, Services without
    // age last.
    let services = cluster.services.values();
    let mut wanted: Vec<(FrontendKind, &Service, IpAddr)> = services
        .flat_map(|service| {
            let addresses = addresses(cluster, service).into_iter();
            addresses.map(move |(address, kind)| (kind, service, address))
        })
        .collect();
    wanted.sort_by_key(|(kind, service, _)| {
        (
            *kind,
            service.created_s.is_none(),
            service.created_s,
            &service.name,
        )
    });
    for (kind, service, address) in wanted {
        for port in &service.ports {
            let number = match (kind, port.node_port) {
                (FrontendKind::NodePort, None) => continue,
                (FrontendKind::NodePort, Some(number)) => number,
                _ => port.port,
            };
            let targets = |is_local| {
                targets(
                    cluster,
                    service,
                    &port.name,
                    port.protocol,
                    address,
                    is_local,
                )
            };
            let external = service.external_policy == Scope::Local;
            let internal = service.internal_policy == Scope::Local;
            // S21, S23: the external policy does not apply to traffic from inside.
            let (inside, outside) = match kind {
                FrontendKind::ClusterIp => (targets(internal), targets(internal)),
                _ => (targets(false), targets(external)),
            };
            for targets in [&inside, &outside] {
                seen.backends.extend(&targets.backends);
            }
            let has_backend = !inside.backends.is_empty() || !outside.backends.is_empty();
            // S13: only for the load-balancer IP.
            let ranges = match kind {
                // A family without ranges is not restricted.
                FrontendKind::LoadBalancer => service.source_ranges.as_ref().filter(|ranges| {
                    let mut ranges = ranges.iter();
                    ranges.any(|range| range.addr().is_ipv4() == address.is_ipv4())
                }),
                _ => None,
            };
            let frontend = Frontend {
                address,
                port: number,
                protocol: port.protocol,
            };
            seen.frontends.entry(frontend).or_insert_with(|| Behind {
                of: service.name.clone(),
                kind,
                inside,
                outside,
                admits: ranges.map(|ranges| {
                    let of_family = ranges
                        .iter()
                        .filter(|range| range.addr().is_ipv4() == address.is_ipv4());
                    of_family.copied().collect()
                }),
            });
            // S16: an address belongs to services only, unless the node or another machine has it too.
            let is_own = match kind {
                // S167: a process of the node serves one that the node holds.
                FrontendKind::ClusterIp => !cluster.node.addresses.contains(&address),
                FrontendKind::LoadBalancer => {
                    let node = &cluster.node;
                    let mut networks = node.networks.iter();
                    !node.addresses.contains(&address)
                        && !networks.any(|network| network.contains(&address))
                }
                FrontendKind::NodePort | FrontendKind::ExternalIp => false,
            };
            let is_nodes =
                kind == FrontendKind::NodePort || cluster.node.addresses.contains(&address);
            let kind = match (is_own, is_nodes) {
                (true, _) => AddressKind::Service,
                (false, true) => AddressKind::Node,
                (false, false) => AddressKind::Shared,
            };
            let known = seen.addresses.entry(address).or_default();
            known.kind = known.kind.max(kind);
            // S115: the node answers for its own addresses.
            known.answers_echo |= has_backend && kind != AddressKind::Node;
        }
    }
    seen
}

/// The addresses of a Service (S10, S12, S15).
fn addresses(cluster: &Cluster, service: &Service) -> Vec<(IpAddr, FrontendKind)> {
    let node = &cluster.node;
    let external = service
        .external_ips
        .iter()
        .filter(|address| node.serves_external_ips && !node.own_addresses.contains(address));
    let of =
        |addresses: Vec<IpAddr>, kind| addresses.into_iter().map(move |address| (address, kind));
    // S117: in the families of the Service.
    let node_ports = node.node_port_addresses.iter().filter(|address| {
        let mut own = service.cluster_ips.iter();
        service.cluster_ips.is_empty() || own.any(|own| own.is_ipv4() == address.is_ipv4())
    });
    of(service.cluster_ips.clone(), FrontendKind::ClusterIp)
        .chain(of(node_ports.copied().collect(), FrontendKind::NodePort))
        .chain(of(external.copied().collect(), FrontendKind::ExternalIp))
        .chain(of(
            service.load_balancer_ips.clone(),
            FrontendKind::LoadBalancer,
        ))
        .collect()
}

/// The backends of a service port (S04, S25, S30, S31).
fn targets(
    cluster: &Cluster,
    service: &Service,
    port_name: &str,
    protocol: Protocol,
    of_family: IpAddr,
    is_local: bool,
) -> Targets {
    let here = &cluster.node.name;
    let mut ready = Vec::new();
    let mut leaving = Vec::new();
    for slice in cluster
        .slices
        .values()
        .filter(|slice| slice.service == service.name)
    {
        for port in &slice.ports {
            for endpoint in &slice.endpoints {
                let is_this = port.name == port_name
                    && port.protocol == protocol
                    && endpoint.address.is_ipv4() == of_family.is_ipv4();
                let is_here = endpoint.node.as_ref() == Some(here);
                if !is_this || is_local && !is_here {
                    continue;
                }
                let is_held = cluster.node.addresses.contains(&endpoint.address);
                let backend = Backend {
                    address: endpoint.address,
                    port: port.port,
                    protocol,
                    location: match &endpoint.node {
                        _ if is_here || is_held => Location::ThisNode,
                        Some(_) => Location::OtherNode,
                        None => Location::Outside,
                    },
                };
                if endpoint.ready {
                    ready.push((backend, endpoint));
                } else if endpoint.serving && endpoint.terminating {
                    leaving.push((backend, endpoint));
                }
            }
        }
    }
    let mut chosen = if ready.is_empty() {
        leaving
    } else {
        ready.clone()
    };
    if !is_local && !ready.is_empty() {
        let all_have_nodes = ready
            .iter()
            .all(|(_, endpoint)| !endpoint.node_hints.is_empty());
        let all_have_zones = ready
            .iter()
            .all(|(_, endpoint)| !endpoint.zone_hints.is_empty());
        let mut of_node = ready.clone();
        of_node.retain(|(_, endpoint)| endpoint.node_hints.contains(here));
        let mut of_zone = ready;
        of_zone.retain(|(_, endpoint)| {
            let zone = cluster.node.zone.as_ref();
            zone.is_some_and(|zone| endpoint.zone_hints.contains(zone))
        });
        if all_have_nodes && !of_node.is_empty() {
            chosen = of_node;
        } else if all_have_zones && !of_zone.is_empty() {
            chosen = of_zone;
        }
    }
    Targets {
        backends: one_place_each(chosen.into_iter().map(|(backend, _)| backend)),
        is_local,
        affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
    }
}

/// The nearest place of an address that slices disagree about.
fn one_place_each(all: impl Iterator<Item = Backend>) -> BTreeSet<Backend> {
    let all: BTreeSet<Backend> = all.collect();
    let place = |backend: &Backend, location| Backend {
        location,
        ..*backend
    };
    let is_nearest = |backend: &&Backend| match backend.location {
        Location::ThisNode => true,
        Location::OtherNode => !all.contains(&place(backend, Location::ThisNode)),
        Location::Outside => ![Location::ThisNode, Location::OtherNode]
            .iter()
            .any(|location| all.contains(&place(backend, *location))),
    };
    all.iter().filter(is_nearest).copied().collect()
}

/// The content of the maps in this form.
pub(crate) fn seen(actual: &Actual) -> Seen {
    let targets = |key: &ServiceKey| {
        let (_, spec) = &actual.services[key];
        Targets {
            backends: spec.backends.iter().copied().collect(),
            is_local: key.scope == Scope::Local,
            affinity_timeout_s: spec.affinity_timeout_s,
        }
    };
    let frontends = actual.frontends.iter().map(|(frontend, spec)| {
        let ranges = &actual.services[&spec.outside].1.source_ranges;
        let behind = Behind {
            of: spec.inside.service.clone(),
            kind: spec.kind,
            inside: targets(&spec.inside),
            outside: targets(&spec.outside),
            admits: spec.is_restricted.then(|| ranges.iter().copied().collect()),
        };
        (*frontend, behind)
    });
    Seen {
        frontends: frontends.collect(),
        addresses: actual.addresses.clone(),
        backends: actual.backends.keys().copied().collect(),
    }
}

/// Panics if an entry refers to a missing one, or two entries have the same id.
pub(crate) fn assert_consistent(actual: &Actual) {
    for (frontend, spec) in &actual.frontends {
        for key in [&spec.inside, &spec.outside] {
            assert!(
                actual.services.contains_key(key),
                "{frontend} names {key}, which is not there"
            );
        }
    }
    for (key, (_, spec)) in &actual.services {
        for backend in spec.backends.iter() {
            assert!(
                actual.backends.contains_key(backend),
                "{key} names {backend}, which is not there"
            );
        }
    }
    let ids: BTreeSet<_> = actual.services.values().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), actual.services.len(), "two services with one id");
    let ids: BTreeSet<_> = actual.backends.values().collect();
    assert_eq!(ids.len(), actual.backends.len(), "two backends with one id");
}
