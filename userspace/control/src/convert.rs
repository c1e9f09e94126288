//! From Kubernetes objects to the model. What cannot be taken is refused by field; the rest of the
//! object stands.

use std::{net::IpAddr, time::SystemTime};

use headgate_model::{
    Endpoint, EndpointPort, EndpointSlice, ObjectName, Protocol, Refusal, Scope, Service,
    ServiceName, ServicePort,
};
use ipnet::IpNet;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::event::NodeState;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler is about to remove the node.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` if it is not given.
const AFFINITY_TIMEOUT_S: u32 = 10_800;

/// Collects refusals of one object.
pub(crate) struct Refusals {
    object: ObjectName,
    pub(crate) list: Vec<Refusal>,
}

impl Refusals {
    pub(crate) fn new(object: ObjectName) -> Self {
        Self {
            object,
            list: Vec::new(),
        }
    }

    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.list.push(Refusal {
            object: self.object.clone(),
            field: field.into(),
            reason: reason.into(),
        });
    }

    fn keep<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|reason| self.add(field, reason)).ok()
    }
}

/// Namespace and name; objects without namespace are in `default`.
pub(crate) fn name(object: &impl ResourceExt) -> ServiceName {
    let namespace = object.namespace().unwrap_or_else(|| "default".into());
    ServiceName::new(&namespace, &object.name_any())
}

/// A Service, or `None` if it is nothing for us.
pub(crate) fn service(object: &core::Service, refusals: &mut Refusals) -> Option<Service> {
    let spec = object.spec.clone().unwrap_or_default();
    let is_ours = !object.labels().contains_key(PROXY_NAME);
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    if !is_ours || is_headless || type_ == "ExternalName" {
        return None;
    }
    let has_node_ports = matches!(type_, "NodePort" | "LoadBalancer");
    let ports = spec.ports.iter().flatten().enumerate();
    let ports = ports
        .filter_map(|(index, port)| service_port(index, port, has_node_ports, refusals))
        .collect();
    let cluster_ips = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(addresses), _) if !addresses.is_empty() => addresses.clone(),
        (_, Some(address)) if !address.is_empty() => vec![address.clone()],
        _ => Vec::new(),
    };
    let has_affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    Some(Service {
        name: name(object),
        created_s: object.creation_timestamp().map(|time| time.0.as_second()),
        ports,
        cluster_ips: addresses("spec.clusterIPs", &cluster_ips, refusals),
        external_ips: addresses(
            "spec.externalIPs",
            spec.external_ips.as_deref().unwrap_or_default(),
            refusals,
        ),
        load_balancer_ips: load_balancer_ips(object, type_, refusals),
        external_policy: scope(spec.external_traffic_policy.as_deref()),
        internal_policy: scope(spec.internal_traffic_policy.as_deref()),
        affinity_timeout_s: has_affinity.then(|| {
            let config = spec.session_affinity_config.as_ref();
            config
                .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(AFFINITY_TIMEOUT_S)
        }),
        source_ranges: source_ranges(
            spec.load_balancer_source_ranges
                .as_deref()
                .unwrap_or_default(),
            refusals,
        ),
        health_check_node_port: health_check_node_port(&spec, type_, refusals),
    })
}

fn service_port(
    index: usize,
    port: &core::ServicePort,
    has_node_ports: bool,
    refusals: &mut Refusals,
) -> Option<ServicePort> {
    let field = |name: &str| format!("spec.ports[{index}].{name}");
    let protocol = protocol(port.protocol.as_deref());
    let protocol = refusals.keep(&field("protocol"), protocol)?;
    let number = refusals.keep(&field("port"), port_number(port.port))?;
    let node_port = match port.node_port {
        Some(number) if has_node_ports && number != 0 => {
            refusals.keep(&field("nodePort"), port_number(number))
        }
        _ => None,
    };
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol,
        port: number,
        node_port,
    })
}

/// IPs of the load balancer, except of one that terminates connections itself (KEP-1860).
fn load_balancer_ips(object: &core::Service, type_: &str, refusals: &mut Refusals) -> Vec<IpAddr> {
    if type_ != "LoadBalancer" {
        return Vec::new();
    }
    let status = object
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ips: Vec<String> = status
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.clone())
        .collect();
    addresses("status.loadBalancer.ingress", &ips, refusals)
}

fn addresses(field: &str, texts: &[String], refusals: &mut Refusals) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let address = text
            .parse::<IpAddr>()
            .map_err(|error| format!("`{text}`: {error}"));
        addresses.extend(refusals.keep(&format!("{field}[{index}]"), address));
    }
    addresses
}

/// The port where a load balancer asks; it means something for local traffic alone.
fn health_check_node_port(
    spec: &core::ServiceSpec,
    type_: &str,
    refusals: &mut Refusals,
) -> Option<u16> {
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    if type_ != "LoadBalancer" || !is_local {
        return None;
    }
    refusals.keep("spec.healthCheckNodePort", port_number(number))
}

/// An unreadable range is left out. If none is left, nobody is admitted.
fn source_ranges(texts: &[String], refusals: &mut Refusals) -> Option<Vec<IpNet>> {
    let mut ranges: Vec<IpNet> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let range = text
            .trim()
            .parse::<IpNet>()
            .map_err(|error| format!("`{text}`: {error}"));
        let field = format!("spec.loadBalancerSourceRanges[{index}]");
        ranges.extend(refusals.keep(&field, range));
    }
    (!texts.is_empty()).then_some(ranges)
}

/// An EndpointSlice, or `None` if it is nothing for us.
pub(crate) fn slice(
    object: &discovery::EndpointSlice,
    refusals: &mut Refusals,
) -> Option<EndpointSlice> {
    let labels = object.labels();
    let service = labels.get(SERVICE_NAME)?;
    if labels.contains_key(HEADLESS)
        || labels.contains_key(PROXY_NAME)
        || object.address_type == "FQDN"
    {
        return None;
    }
    let mut ports = Vec::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        // No number means every port, which a Service cannot use.
        let Some(number) = port.port else { continue };
        let field = |name: &str| format!("ports[{index}].{name}");
        let protocol = protocol(port.protocol.as_deref());
        let protocol = refusals.keep(&field("protocol"), protocol);
        let number = refusals.keep(&field("port"), port_number(number));
        if let (Some(protocol), Some(port_number)) = (protocol, number) {
            let name = port.name.clone().unwrap_or_default();
            ports.push(EndpointPort {
                name,
                protocol,
                port: port_number,
            });
        }
    }
    let mut endpoints = Vec::new();
    for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
        let Some(text) = endpoint.addresses.first() else {
            continue;
        };
        let address = endpoint_address(text);
        let field = format!("endpoints[{index}].addresses[0]");
        let Some(address) = refusals.keep(&field, address) else {
            continue;
        };
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // What is not said means yes, and serving means what ready means.
        let ready = conditions.ready.unwrap_or(true);
        let hints = endpoint.hints.clone().unwrap_or_default();
        let zones = hints.for_zones.into_iter().flatten();
        let nodes = hints.for_nodes.into_iter().flatten();
        endpoints.push(Endpoint {
            zone_hints: zones.map(|zone| zone.name).collect(),
            node_hints: nodes.map(|node| node.name).collect(),
            address,
            node: endpoint.node_name.clone(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        });
    }
    let service = ServiceName::new(&name(object).namespace, service);
    // kube-controller-manager's; without it nothing is measured.
    let trigger = object.annotations().get(TRIGGER_TIME);
    let trigger = trigger.and_then(|text| text.parse::<Timestamp>().ok());
    Some(EndpointSlice {
        service,
        ports,
        endpoints,
        triggered: trigger.map(SystemTime::from),
    })
}

/// What matters of a Node.
pub(crate) fn node(object: &core::Node) -> NodeState {
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let is_tainted = taints.is_some_and(|taints| {
        let mut keys = taints.iter().map(|taint| taint.key.as_str());
        keys.any(|key| key == LEAVING_TAINT)
    });
    NodeState {
        zone: object.labels().get(ZONE).cloned(),
        is_leaving: is_tainted || object.metadata.deletion_timestamp.is_some(),
    }
}

/// An endpoint of these kinds would be the node itself, whoever runs there (CVE-2021-25737).
fn endpoint_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() || is_link_local
    {
        return Err(format!("{address} is no address of an endpoint"));
    }
    Ok(address)
}

fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some(other) => Err(format!("protocol {other} is not supported")),
    }
}

fn port_number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(format!("{number} is not a port (1 to 65535)")),
    }
}

fn scope(policy: Option<&str>) -> Scope {
    match policy {
        Some("Local") => Scope::Local,
        _ => Scope::Cluster,
    }
}
