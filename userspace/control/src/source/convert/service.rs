//! Services.

use std::net::IpAddr;

use headgate_model::{
    NamespacedName, Protocol, Scope, Service, ServicePort,
    edge::{UpstreamPort, UpstreamService},
};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;

use super::{HEADLESS, Refusals, address, port_number, protocol};

/// Default of `spec.sessionAffinityConfig.clientIP.timeoutSeconds`, in seconds.
const AFFINITY_TIMEOUT_S: u32 = 10_800;

/// A Service, or `None` if this agent does not balance it.
pub(super) fn service(
    object: &core::Service,
    name: NamespacedName,
    refusals: &mut Refusals,
) -> Option<Service> {
    let spec = object.spec.clone().unwrap_or_default();
    let labels = object.labels();
    let is_headless = labels.contains_key(HEADLESS) || spec.cluster_ip.as_deref() == Some("None");
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    if is_headless || type_ == "ExternalName" {
        return None;
    }
    let has_node_ports = matches!(type_, "NodePort" | "LoadBalancer");
    let ports = spec.ports.iter().flatten().enumerate();
    let ports = ports
        .filter_map(|(index, port)| service_port(index, port, has_node_ports, refusals))
        .collect();
    let has_affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    Some(Service {
        name,
        created_s: object.creation_timestamp().map(|time| time.0.as_second()),
        ports,
        cluster_ips: cluster_ips(&spec, refusals),
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

/// The ports and cluster IPs of a Service.
pub(super) fn upstream(object: &core::Service, refusals: &mut Refusals) -> UpstreamService {
    let spec = object.spec.clone().unwrap_or_default();
    let mut ports = |wanted: Protocol| -> Vec<UpstreamPort> {
        let ports = spec.ports.iter().flatten().enumerate();
        let ports = ports.filter(|(_, port)| protocol(port.protocol.as_deref()) == Ok(wanted));
        let ports = ports.filter_map(|(index, port)| {
            let field = format!("spec.ports[{index}].port");
            Some(UpstreamPort {
                name: port.name.clone().unwrap_or_default(),
                port: refusals.keep(&field, port_number(port.port))?,
                app_protocol: port.app_protocol.clone(),
            })
        });
        ports.collect()
    };
    UpstreamService {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        ports: ports(Protocol::Tcp),
        udp_ports: ports(Protocol::Udp),
        cluster_ips: cluster_ips(&spec, refusals),
        is_external: spec.type_.as_deref() == Some("ExternalName"),
    }
}

/// Empty if the Service is headless.
fn cluster_ips(spec: &core::ServiceSpec, refusals: &mut Refusals) -> Vec<IpAddr> {
    let texts = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(addresses), _) if !addresses.is_empty() => addresses.clone(),
        (_, Some(address)) if !address.is_empty() => vec![address.clone()],
        _ => Vec::new(),
    };
    match texts.first().is_some_and(|text| text == "None") {
        true => Vec::new(),
        false => addresses("spec.clusterIPs", &texts, refusals),
    }
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
        let address = address(text);
        addresses.extend(refusals.keep(&format!("{field}[{index}]"), address));
    }
    addresses
}

/// The port that load balancers probe; only for `externalTrafficPolicy: Local`.
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

/// A family is restricted if it has a range. An invalid range admits no client, and restricts the
/// family that it looks like; if none is valid, both.
fn source_ranges(texts: &[String], refusals: &mut Refusals) -> Option<Vec<IpNet>> {
    // No client has these addresses.
    let nothing = |family: char| match family {
        ':' => IpNet::from(IpAddr::from([0_u16; 8])),
        _ => IpNet::from(IpAddr::from([0_u8; 4])),
    };
    let mut ranges: Vec<IpNet> = Vec::new();
    let mut invalid: Vec<IpNet> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let range = text
            .trim()
            .parse::<IpNet>()
            .map(canonical)
            .map_err(|error| format!("`{text}`: {error}"));
        let field = format!("spec.loadBalancerSourceRanges[{index}]");
        match refusals.keep(&field, range) {
            Some(range) => ranges.push(range),
            None => invalid.push(nothing(if text.contains(':') { ':' } else { '.' })),
        }
    }
    if ranges.is_empty() && !invalid.is_empty() {
        invalid = [':', '.'].map(nothing).to_vec();
    }
    ranges.extend(invalid);
    (!texts.is_empty()).then_some(ranges)
}

/// Converts a range of IPv4-mapped IPv6 addresses to IPv4, as [`address`] does.
fn canonical(range: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let len = range.prefix_len().checked_sub(MAPPED_BITS);
    let v4 = match range.network() {
        IpAddr::V6(network) => network.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    let v4 = v4.zip(len);
    v4.and_then(|(network, len)| Ipv4Net::new(network, len).ok())
        .map_or(range, IpNet::V4)
}

fn scope(policy: Option<&str>) -> Scope {
    match policy {
        Some("Local") => Scope::Local,
        _ => Scope::Cluster,
    }
}
