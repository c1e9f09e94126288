//! Many Services with their endpoints, and their changes: `headgate-churn` serves them, and
//! `bench control` looks them up in the maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use headgate_netns::rules;
use serde_json::{Value, json};

/// Pod addresses between those of two Services: more than a Service has endpoints.
const STRIDE: u32 = 64;
/// Port of every Service.
pub const PORT: u16 = 80;
/// Second port of Services that got one.
pub const SECOND_PORT: u16 = 81;
const TARGET_PORT: u16 = 8080;
/// Addresses of endpoints.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// One Service of this many has a node port.
const NODE_PORT_EVERY: u32 = 20;

/// A change of a Service. Of ten changes, seven are of the first kind, and one of each other kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An endpoint becomes unready.
    Unready,
    /// An endpoint gets another address.
    Moved,
    /// The Service gets session affinity.
    Affinity,
    /// The Service gets a second port.
    SecondPort,
}

impl Change {
    /// The change of the Service with this number.
    pub fn of(number: u32) -> Self {
        match number % 10 {
            7 => Self::Moved,
            8 => Self::Affinity,
            9 => Self::SecondPort,
            _ => Self::Unready,
        }
    }
}

/// Services with their endpoints.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Shape {
    /// Number of Services
    pub services: u32,
    /// Number of endpoints of all Services, of one address family
    pub endpoints: u32,
    /// Services and endpoints have addresses of both families
    #[arg(long = "dual-stack")]
    pub is_dual_stack: bool,
}

/// The cluster IP of a Service, or its first one.
pub fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number)
}

impl Shape {
    /// A Service and its slices before the change.
    pub fn objects(&self, number: u32) -> Vec<Value> {
        let mut objects = vec![self.service(number, None), self.slice(number, None, false)];
        if self.is_dual_stack {
            objects.push(self.slice(number, None, true));
        }
        objects
    }

    /// The object that changes with the Service of this number, after the change.
    pub fn changed(&self, number: u32) -> Value {
        let change = Change::of(number);
        match change {
            Change::Unready | Change::Moved => self.slice(number, Some(change), false),
            Change::Affinity | Change::SecondPort => self.service(number, Some(change)),
        }
    }

    /// The same Services for rules of IPv4, without names of endpoints.
    pub(crate) fn for_rules(&self) -> Vec<rules::Service> {
        let services = (0..self.services).map(|number| rules::Service {
            name: name(number),
            address: cluster_ip(number).into(),
            port: PORT,
            protocol: "tcp",
            node_port: node_port(number).and_then(|port| u16::try_from(port).ok()),
            endpoints: (0..self.endpoints_of(number))
                .map(|index| (pod(PODS, number, index), TARGET_PORT).into())
                .collect(),
        });
        services.collect()
    }

    /// Endpoints of the Service of this number.
    fn endpoints_of(&self, number: u32) -> u32 {
        self.endpoints / self.services + u32::from(number < self.endpoints % self.services)
    }

    fn service(&self, number: u32, change: Option<Change>) -> Value {
        let name = name(number);
        let mut port =
            json!({"name": "http", "port": PORT, "targetPort": TARGET_PORT, "protocol": "TCP"});
        let node_port = node_port(number);
        if let Some(node_port) = node_port {
            port["nodePort"] = node_port.into();
        }
        let mut ports = vec![port];
        if change == Some(Change::SecondPort) {
            ports.push(json!({"name": "more", "port": SECOND_PORT, "targetPort": TARGET_PORT}));
        }
        let mut addresses = vec![cluster_ip(number).to_string()];
        let mut families = vec!["IPv4"];
        if self.is_dual_stack {
            addresses.push(sixth(0xfd00_0010_0096, number).to_string());
            families.push("IPv6");
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {
                "type": if node_port.is_some() { "NodePort" } else { "ClusterIP" },
                "clusterIP": addresses[0],
                "clusterIPs": addresses,
                "ipFamilies": families,
                "selector": {"app": name},
                "sessionAffinity": match change {
                    Some(Change::Affinity) => "ClientIP",
                    _ => "None",
                },
                "ports": ports,
            },
        })
    }

    fn slice(&self, number: u32, change: Option<Change>, is_v6: bool) -> Value {
        let name = name(number);
        let count = self.endpoints_of(number);
        let endpoints = (0..count).map(|index| {
            let is_changed = index == count / 2;
            let range = match change {
                Some(Change::Moved) if is_changed => Ipv4Addr::new(10, 192, 0, 0),
                _ => PODS,
            };
            let pod_number = number * STRIDE + index;
            let address = match is_v6 {
                true => sixth(0xfd00_0010_0244, pod_number).into(),
                false => pod(range, number, index),
            };
            let is_ready = !(is_changed && change == Some(Change::Unready));
            json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
                "nodeName": format!("node-{}", pod_number % 1000),
                "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("{name}-{index}")},
            })
        });
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{}", family.to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": family,
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
        })
    }
}

/// An IPv6 address with this prefix of 48 bits and this number.
fn sixth(prefix: u64, number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) << 80 | u128::from(number + 1))
}

/// The address of an endpoint in a range.
fn pod(range: Ipv4Addr, number: u32, index: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(range) + number * STRIDE + index).into()
}

fn node_port(number: u32) -> Option<u32> {
    let has_one = number.is_multiple_of(NODE_PORT_EVERY);
    has_one.then(|| 30_000 + number / NODE_PORT_EVERY)
}

fn name(number: u32) -> String {
    format!("hgb-{number:05}")
}
