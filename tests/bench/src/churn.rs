//! Many Services with their endpoints, and their changes: `headgate-churn` serves them, and
//! `bench control` looks them up in the maps.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Endpoints of each Service.
pub const ENDPOINTS: u32 = 10;
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

/// The cluster IP of a Service.
pub fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number)
}

/// A Service and its slice before the change.
pub fn objects(number: u32) -> [Value; 2] {
    [service(number, None), slice(number, None)]
}

/// The object that changes with the Service of this number, after the change.
pub fn changed(number: u32) -> Value {
    let change = Change::of(number);
    match change {
        Change::Unready | Change::Moved => slice(number, Some(change)),
        Change::Affinity | Change::SecondPort => service(number, Some(change)),
    }
}

fn name(number: u32) -> String {
    format!("hgb-{number:05}")
}

fn service(number: u32, change: Option<Change>) -> Value {
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
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "type": if has_node_port { "NodePort" } else { "ClusterIP" },
            "clusterIP": cluster_ip(number).to_string(),
            "selector": {"app": name},
            "sessionAffinity": match change {
                Some(Change::Affinity) => "ClientIP",
                _ => "None",
            },
            "ports": ports,
        },
    })
}

fn slice(number: u32, change: Option<Change>) -> Value {
    let name = name(number);
    let endpoints = (0..ENDPOINTS).map(|index| {
        let is_changed = index == ENDPOINTS / 2;
        let pod = number * ENDPOINTS + index;
        let range = match change {
            Some(Change::Moved) if is_changed => Ipv4Addr::new(10, 160, 0, 0),
            _ => Ipv4Addr::new(10, 128, 0, 0),
        };
        let is_ready = !(is_changed && change == Some(Change::Unready));
        json!({
            "addresses": [Ipv4Addr::from(u32::from(range) + pod).to_string()],
            "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
            "nodeName": format!("node-{}", pod % 1000),
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("{name}-{index}")},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}
