//! Services, EndpointSlices and the node, reduced to what balancing needs.

use std::{net::IpAddr, time::SystemTime};

use ipnet::IpNet;

use crate::{NamespacedName, Protocol, Scope};

/// A Kubernetes Service, reduced to what balancing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: NamespacedName,
    /// Creation time in seconds since 1970; `None` counts as the youngest.
    pub created_s: Option<i64>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Cluster IPs, one of each family; empty if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// External IPs.
    pub external_ips: Vec<IpAddr>,
    /// IPs of its load balancer, except those with `ipMode: Proxy` (KEP-1860).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy`.
    pub external_policy: Scope,
    /// `internalTrafficPolicy`.
    pub internal_policy: Scope,
    /// Timeout of `sessionAffinity: ClientIP` in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// Clients that may use the load-balancer IPs. A family without ranges is not restricted, as in
    /// kube-proxy.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Port where load balancers ask whether this node has ready endpoints.
    pub health_check_node_port: Option<u16>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; may be empty if it is the only one.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the cluster IP, not 0.
    pub port: u16,
    /// Port on the nodes, not 0.
    pub node_port: Option<u16>,
}

/// A slice of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service.
    pub service: NamespacedName,
    /// Target ports.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When the change happened that the slice was last updated for, if that is known.
    pub triggered: Option<SystemTime>,
}

/// A target port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the Service's port.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoint, not 0.
    pub port: u16,
}

/// One endpoint of a Service, usually a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// The node it runs on.
    pub node: Option<String>,
    /// Whether it accepts new connections.
    pub ready: bool,
    /// Whether it accepts connections, even while terminating.
    pub serving: bool,
    /// Whether it is terminating.
    pub terminating: bool,
    /// Zones whose clients it should serve; empty without hint.
    pub zone_hints: Vec<String>,
    /// Nodes whose clients it should serve; empty without hint.
    pub node_hints: Vec<String>,
}

/// The node that is programmed, and what it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// Addresses that its devices hold.
    pub addresses: Vec<IpAddr>,
    /// Those that are its own: no Service can take them as an external IP (CVE-2020-8554). Others may be virtual
    /// addresses that move between nodes.
    pub own_addresses: Vec<IpAddr>,
    /// Networks of its devices: an address there may belong to another machine.
    pub networks: Vec<IpNet>,
    /// Addresses that serve node ports.
    pub node_port_addresses: Vec<IpAddr>,
    /// Whether `spec.externalIPs` are served (CVE-2020-8554).
    pub serves_external_ips: bool,
}
