//! Backends of routes, and their endpoints.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use crate::{EndpointSlice, NamespacedName, Protocol, RefusalKind, refusal::Reason};

use super::{PortName, Sticky, UpstreamKey, UpstreamPolicy, UpstreamPort, UpstreamService};

/// Services by name, headless ones as well.
pub type Services = BTreeMap<NamespacedName, UpstreamService>;
/// EndpointSlices, by Service and name.
pub type Slices = BTreeMap<NamespacedName, BTreeMap<NamespacedName, EndpointSlice>>;

/// Finds a port of a Service by name or number.
pub(crate) fn upstream(
    services: &Services,
    service: &NamespacedName,
    port: &PortName,
    policy: &Arc<UpstreamPolicy>,
) -> Result<UpstreamKey, Reason> {
    let found = services.get(service);
    let missing = || {
        Reason(
            RefusalKind::Service,
            format!("there is no Service {service}"),
        )
    };
    let found = found.ok_or_else(missing)?;
    if found.is_external {
        // Any user that can write Services could make the proxy call any host.
        return Err(Reason::from(format!(
            "Service {service} is of type ExternalName, which is not supported as a backend"
        )));
    }
    let is_wanted = |known: &&UpstreamPort| match port {
        PortName::Name(name) => known.name == *name,
        PortName::Number(number) => known.port == *number,
    };
    let known = found.ports.iter().find(is_wanted);
    let known = known.ok_or_else(|| format!("Service {service} has no TCP port {port}"))?;
    Ok(UpstreamKey {
        service: service.clone(),
        port: known.port,
        policy: match &policy.sticky {
            Some(sticky) => Arc::new(UpstreamPolicy {
                sticky: Some(Sticky {
                    secret: match found.uid.is_empty() {
                        true => service.to_string(),
                        false => found.uid.clone(),
                    },
                    ..sticky.clone()
                }),
                ..(**policy).clone()
            }),
            None => policy.clone(),
        },
    })
}

/// Returns the addresses of a backend with their weights: ready endpoints, or without ready ones
/// those that still serve while they terminate (KEP-1669).
pub fn endpoints(
    services: &Services,
    slices: &Slices,
    key: &UpstreamKey,
) -> BTreeMap<SocketAddr, u32> {
    let Some(service) = services.get(&key.service) else {
        return BTreeMap::new();
    };
    let mut ports = service.ports.iter();
    let Some(port) = ports.find(|port| port.port == key.port) else {
        return BTreeMap::new();
    };
    if key.policy.by_cluster_ip {
        return cluster_ips(service, port.port);
    }
    let slices = slices.get(&key.service);
    let slices: Vec<&EndpointSlice> = slices.into_iter().flat_map(BTreeMap::values).collect();
    let places = |is_wanted: fn(&crate::Endpoint) -> bool| {
        let mut places = BTreeMap::new();
        for slice in &slices {
            let same = |target: &&crate::EndpointPort| {
                target.name == port.name && target.protocol == Protocol::Tcp
            };
            let Some(target) = slice.ports.iter().find(same) else {
                continue;
            };
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|endpoint| is_wanted(endpoint))
            {
                let node = endpoint.node.as_ref();
                let weight = node.and_then(|node| key.policy.weights.get(node));
                let address = SocketAddr::new(endpoint.address, target.port);
                places.insert(address, weight.copied().unwrap_or(1));
            }
        }
        places
    };
    let ready = places(|endpoint| endpoint.ready);
    match ready.is_empty() {
        true => places(|endpoint| endpoint.serving && endpoint.terminating),
        false => ready,
    }
}

fn cluster_ips(service: &UpstreamService, port: u16) -> BTreeMap<SocketAddr, u32> {
    let addresses = service.cluster_ips.iter();
    addresses
        .map(|address| (SocketAddr::new(*address, port), 1))
        .collect()
}
