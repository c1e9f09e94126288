//! Where the proxies are: the addresses of their pods.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::Pod;

use super::servers::{is_alive, serves_gateways};

/// A proxy, as an endpoint of Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProxyEndpoint {
    /// That of its node.
    pub(super) address: IpAddr,
    pub(super) node: String,
    /// Whether it accepts connections.
    pub(super) is_serving: bool,
    /// Whether it finishes its connections, and then ends.
    pub(super) is_terminating: bool,
}

impl ProxyEndpoint {
    /// Whether it gets new connections.
    pub(super) fn is_ready(&self) -> bool {
        self.is_serving && !self.is_terminating
    }
}

/// Returns the proxies of pods that serve the Gateways of a controller, ordered by address. During an update two pods
/// have the address of a node: the better one counts.
pub(super) fn proxies<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    controller: &str,
) -> Vec<ProxyEndpoint> {
    let mut all: BTreeMap<IpAddr, ProxyEndpoint> = BTreeMap::new();
    let serving = pods.filter(|pod| is_alive(pod) && serves_gateways(pod, controller));
    for found in serving.flat_map(endpoints) {
        let rank = |one: &ProxyEndpoint| (one.is_ready(), one.is_serving);
        match all.get(&found.address) {
            Some(known) if rank(known) >= rank(&found) => {}
            _ => drop(all.insert(found.address, found)),
        }
    }
    all.into_values().collect()
}

fn endpoints(pod: &Pod) -> Vec<ProxyEndpoint> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let (Some(node), Some(status)) = (node, &pod.status) else {
        return Vec::new();
    };
    let mut conditions = status.conditions.iter().flatten();
    let is_serving = conditions.any(|one| one.type_ == "Ready" && one.status == "True");
    let addresses = status.pod_ips.iter().flatten();
    let addresses = addresses.filter_map(|one| one.ip.parse().ok());
    let endpoints = addresses.map(|address| ProxyEndpoint {
        address,
        node: node.clone(),
        is_serving,
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
    });
    endpoints.collect()
}
