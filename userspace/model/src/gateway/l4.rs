//! TCPRoutes and UDPRoutes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Problem, Resolved, RouteKind, World,
    backend::{Backends, Carried},
    backend_tls::Policies,
    object::{AddressType, GROUP, Gateway, L4Route},
    reference::Referrer,
    service_name,
};
use crate::{NamespacedName, Protocol, Scope, Service, ServicePort, edge::UpstreamKey};

/// A TCP or UDP listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct L4Listener {
    /// The Gateway.
    pub gateway: NamespacedName,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Where connections or flows of a listener go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L4Target {
    /// The name of the listener, as the proxy has them.
    pub listener: String,
    /// The route: the oldest of those that are accepted.
    pub route: Option<NamespacedName>,
    /// Its backends. All connections are refused if it has no backend, or no weight.
    pub backends: Vec<L4Backend>,
}

/// A backend with its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L4Backend {
    /// Its share of the connections is this of the sum of all weights; 0 for none.
    pub weight: u32,
    /// Where it goes; `None` if the reference is not valid: its share is refused.
    pub port: Option<L4Port>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L4Port {
    /// The Service.
    pub service: NamespacedName,
    /// The number.
    pub port: u16,
    /// The name, which its slices have as well; may be empty.
    pub name: String,
}

/// Ports of a Service that routes serve, by protocol and number.
pub type RoutedPorts = BTreeMap<(Protocol, u16), RoutedPort>;

/// A port of a Service that a route serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutedPort {
    /// The route; `None` if no route is accepted.
    pub route: Option<NamespacedName>,
    /// Its backends.
    pub backends: Vec<L4Backend>,
}

/// Returns which ports of the Services that are made for Gateways routes serve, by Gateway: those of all TCP and UDP
/// listeners. A port without a route has no backend, and refuses.
pub fn routed_ports(resolved: &Resolved) -> BTreeMap<&NamespacedName, RoutedPorts> {
    let mut gateways: BTreeMap<&NamespacedName, RoutedPorts> = BTreeMap::new();
    for (listener, target) in &resolved.l4 {
        let ports = gateways.entry(&listener.gateway).or_default();
        let port = (listener.protocol, listener.port);
        let routed = RoutedPort {
            route: target.route.clone(),
            backends: target.backends.clone(),
        };
        ports.insert(port, routed);
    }
    gateways
}

/// Returns what the Service of a Gateway is where no controller makes one: the TCP and UDP ports of the Gateway, at the
/// addresses of its status.
pub fn stand_in(gateway: &Gateway, ports: &RoutedPorts) -> Service {
    let ports = ports.keys().map(|(protocol, port)| ServicePort {
        name: port_name(*protocol, *port),
        protocol: *protocol,
        port: *port,
        node_port: None,
    });
    let addresses = gateway.status.addresses.iter();
    let addresses = addresses.filter(|address| address.type_ == AddressType::IpAddress.as_str());
    let addresses: BTreeSet<IpAddr> = addresses
        .filter_map(|address| address.value.parse().ok())
        .map(|address: IpAddr| address.to_canonical())
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        .collect();
    Service {
        name: service_name(&gateway.meta),
        created_s: gateway.meta.created_s,
        ports: ports.collect(),
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer_ips: addresses.into_iter().collect(),
        external_policy: Scope::Cluster,
        internal_policy: Scope::Cluster,
        affinity_timeout_s: None,
        source_ranges: None,
        health_check_node_port: None,
    }
}

/// Returns the name that a port of a Service of a Gateway has.
pub fn port_name(protocol: Protocol, port: u16) -> String {
    format!("{protocol}-{port}")
}

/// Returns the kind of the routes of a protocol.
pub(crate) fn route_kind(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => RouteKind::Tcp.name(),
        Protocol::Udp => RouteKind::Udp.name(),
    }
}

/// The backends of a TCPRoute or a UDPRoute, and the first reference that is not valid. Its first rule counts;
/// the API allows no other.
pub(super) fn judge(
    world: &World<'_>,
    policies: &Policies,
    route: &L4Route,
    protocol: Protocol,
) -> (Vec<L4Backend>, Option<Problem>) {
    let carried = match protocol {
        Protocol::Tcp => Carried::Raw,
        Protocol::Udp => Carried::Datagrams,
    };
    let from = Referrer {
        group: GROUP,
        kind: route_kind(protocol),
        namespace: &route.meta.name.namespace,
    };
    let mut backends = Backends::new(world, policies, from, carried);
    let references = route.spec.rules.iter().take(1);
    let references = references.flat_map(|rule| &rule.backend_refs);
    let targets = references.map(|reference| {
        let found = backends.upstream(reference);
        let found = found.map_err(|problem| backends.problems.push(problem));
        L4Backend {
            weight: u32::try_from(reference.weight).unwrap_or_default(),
            port: found.ok().map(|key| L4Port {
                name: name(world, &key, protocol),
                service: key.service,
                port: key.port,
            }),
        }
    });
    let targets = targets.collect();
    (targets, backends.problems.into_iter().next())
}

/// The name of a port of a Service.
fn name(world: &World<'_>, key: &UpstreamKey, protocol: Protocol) -> String {
    let service = world.services.get(&key.service);
    let port = service.and_then(|service| service.port(protocol, key.port));
    port.map_or_else(String::new, |port| port.name.clone())
}
