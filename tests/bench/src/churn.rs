//! Many Services with their endpoints, and their changes: `headgate-churn` serves them, and
//! `bench control` looks them up in the maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// Pod addresses between those of two Services: more than a Service has endpoints.
const STRIDE: u32 = 64;
/// Port of every Service.
pub const PORT: u16 = 80;
/// Second port of Services that got one.
pub const SECOND_PORT: u16 = 81;
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

    /// Endpoints of the Service of this number.
    fn endpoints_of(&self, number: u32) -> u32 {
        self.endpoints / self.services + u32::from(number < self.endpoints % self.services)
    }

    fn service(&self, number: u32, change: Option<Change>) -> Value {
        let name = name(number);
        let mut port = json!({"name": "http", "port": PORT, "targetPort": 8080, "protocol": "TCP"});
        let has_node_port = number.is_multiple_of(NODE_PORT_EVERY);
        if has_node_port {
            port["nodePort"] = (30_000 + number / NODE_PORT_EVERY).into();
        }
        let mut ports = vec![port];
        if change == Some(Change::SecondPort) {
            ports.push(json!({"name": "more", "port": SECOND_PORT, "targetPort": 8080}));
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
                "type": if has_node_port { "NodePort" } else { "ClusterIP" },
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
            let pod = number * STRIDE + index;
            let range = match change {
                Some(Change::Moved) if is_changed => Ipv4Addr::new(10, 192, 0, 0),
                _ => Ipv4Addr::new(10, 128, 0, 0),
            };
            let address: IpAddr = match is_v6 {
                true => sixth(0xfd00_0010_0244, pod).into(),
                false => Ipv4Addr::from(u32::from(range) + pod).into(),
            };
            let is_ready = !(is_changed && change == Some(Change::Unready));
            json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
                "nodeName": format!("node-{}", pod % 1000),
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
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        })
    }
}

/// An IPv6 address with this prefix of 48 bits and this number.
fn sixth(prefix: u64, number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) << 80 | u128::from(number + 1))
}

fn name(number: u32) -> String {
    format!("hgb-{number:05}")
}
