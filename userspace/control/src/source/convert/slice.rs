//! EndpointSlices.

use std::time::SystemTime;

use headgate_model::{Endpoint, EndpointPort, EndpointSlice, NamespacedName};
use k8s_openapi::{api::discovery::v1 as discovery, jiff::Timestamp};
use kube::ResourceExt;

use super::{HEADLESS, Refusals, address, is_tcp, port_number, protocol};
use crate::source::event::Interest;

const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice, or `None` if it is not used.
pub(super) fn slice(
    object: &discovery::EndpointSlice,
    namespace: &str,
    interest: Interest,
    refusals: &mut Refusals,
) -> Option<EndpointSlice> {
    let labels = object.labels();
    let service = labels.get(SERVICE_NAME)?;
    let is_for_agent = matches!(interest, Interest::Services | Interest::Listeners);
    let is_headless = labels.contains_key(HEADLESS);
    if is_headless && interest == Interest::Services || object.address_type == "FQDN" {
        return None;
    }
    let mut ports = Vec::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        // No number means every port, which no Service can use.
        let Some(number) = port.port else { continue };
        if !is_for_agent && !is_tcp(port.protocol.as_deref()) {
            continue;
        }
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
    let given = object.endpoints.as_deref().unwrap_or_default();
    let mut endpoints = Vec::with_capacity(given.len());
    for (index, endpoint) in given.iter().enumerate() {
        let Some(text) = endpoint.addresses.first() else {
            continue;
        };
        let address = address(text);
        let field = format!("endpoints[{index}].addresses[0]");
        let Some(address) = refusals.keep(&field, address) else {
            continue;
        };
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // `ready` defaults to true, and `serving` to `ready`.
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
    let service = NamespacedName::new(namespace, service);
    // Set by kube-controller-manager; without it no latency is measured.
    let trigger = object.annotations().get(TRIGGER_TIME);
    let trigger = trigger.and_then(|text| text.parse::<Timestamp>().ok());
    Some(EndpointSlice {
        service,
        ports,
        endpoints,
        triggered: trigger.map(SystemTime::from),
    })
}
