//! What exists.

use std::{net::IpAddr, time::SystemTime};

use ipnet::IpNet;

use crate::{NamespacedName, Protocol, Scope};

/// A Kubernetes Service, as far as it matters for balancing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: NamespacedName,
    /// When it was created, in seconds since 1970; objects without are the youngest.
    pub created_s: Option<i64>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Cluster IPs of one or two families; none if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// External IPs.
    pub external_ips: Vec<IpAddr>,
    /// Addresses that a load balancer forwards from without translating them.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy`.
    pub external_policy: Scope,
    /// `internalTrafficPolicy`.
    pub internal_policy: Scope,
    /// Timeout of `sessionAffinity: ClientIP` in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// Who may use the load-balancer IPs; `None` means everybody.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Where load balancers ask whether this node has endpoints.
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
    /// Port on the nodes.
    pub node_port: Option<u16>,
}

/// A slice of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service.
    pub service: NamespacedName,
    /// Target ports by the name of the Service's port.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When that happened which the slice was last changed for, if anybody says so.
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

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// The node it runs on.
    pub node: Option<String>,
    /// Takes new connections.
    pub ready: bool,
    /// Would take connections if it were not terminating.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
    /// Zones whose clients it should serve; empty if that is not said.
    pub zone_hints: Vec<String>,
    /// Nodes whose clients it should serve; empty if that is not said.
    pub node_hints: Vec<String>,
}

/// This node, and what is served on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// Addresses that it holds for itself.
    pub addresses: Vec<IpAddr>,
    /// Networks that its devices are on: another machine may hold an address there.
    pub networks: Vec<IpNet>,
    /// Addresses that node ports are served on.
    pub node_port_addresses: Vec<IpAddr>,
    /// Whether `spec.externalIPs` are served (CVE-2020-8554).
    pub serves_external_ips: bool,
}
