//! What a controller makes for each Gateway: a Service with its addresses, and EndpointSlices with the proxies
//! of all nodes, so that the datapath of Services brings connections to the proxies.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Resolved,
    object::{Gateway, Meta, Objects},
    ports::hash,
};
use crate::{NamespacedName, Protocol};

/// Label of everything that is made for a Gateway.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Longest name of a Service, and longest value of a label.
const LONGEST: usize = 63;

/// What is made for a Gateway. All of it is owned by the Gateway, in its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infrastructure {
    /// Name and `uid` of the owner.
    pub owner: (NamespacedName, String),
    /// Name of the Service; the names of its slices begin with it.
    pub service: NamespacedName,
    /// Labels of all objects.
    pub labels: BTreeMap<String, String>,
    /// Annotations of all objects.
    pub annotations: BTreeMap<String, String>,
    /// TCP ports of proxies: that of clients and that of proxies.
    pub ports: BTreeMap<u16, u16>,
    /// Ports that the kernel serves.
    pub kernel_ports: BTreeSet<(Protocol, u16)>,
}

impl Infrastructure {
    /// Whether the Gateway serves nothing now. What was made stays then, because a load balancer could give another
    /// address later.
    pub fn is_idle(&self) -> bool {
        self.ports.is_empty() && self.kernel_ports.is_empty()
    }
}

/// Returns what is made for our Gateways.
pub fn infrastructure(
    objects: &Objects,
    resolved: &Resolved,
) -> BTreeMap<NamespacedName, Infrastructure> {
    let ours = resolved.verdicts.keys();
    let ours = ours.filter_map(|name| objects.gateways.get(name));
    let mut all: BTreeMap<NamespacedName, Infrastructure> = ours
        .map(|gateway| (gateway.meta.name.clone(), of(gateway)))
        .collect();
    for (port, listeners) in &resolved.gateways {
        if let Some(made) = all.get_mut(&port.gateway) {
            made.ports.insert(port.port, listeners.target_port);
        }
    }
    for listener in resolved.l4.keys() {
        if let Some(made) = all.get_mut(&listener.gateway) {
            let port = (listener.protocol, listener.port);
            made.kernel_ports.insert(port);
        }
    }
    all
}

/// What is made for a Gateway, without ports.
fn of(gateway: &Gateway) -> Infrastructure {
    let wanted = gateway.spec.infrastructure.clone().unwrap_or_default();
    let mut labels = wanted.labels;
    labels.insert(GATEWAY_NAME.into(), shortened(&gateway.meta.name.name));
    Infrastructure {
        owner: (gateway.meta.name.clone(), gateway.meta.uid.clone()),
        service: service_name(&gateway.meta),
        labels,
        annotations: wanted.annotations,
        ports: BTreeMap::new(),
        kernel_ports: BTreeSet::new(),
    }
}

/// Returns the name of the Service of a Gateway: a DNS label that begins with a letter.
pub fn service_name(meta: &Meta) -> NamespacedName {
    let name = &meta.name.name;
    let label = format!("gateway-{name}");
    let is_label = !name.contains('.') && label.len() <= LONGEST;
    let label = match is_label {
        true => label,
        false => with_hash(&label.replace('.', "-"), name),
    };
    NamespacedName::new(&meta.name.namespace, &label)
}

/// A name as the value of a label.
fn shortened(name: &str) -> String {
    match name.len() <= LONGEST {
        true => name.into(),
        false => with_hash(name, name),
    }
}

/// The start of a text, with a hash that keeps it unique.
fn with_hash(text: &str, name: &str) -> String {
    let hash = format!("-{:016x}", hash(name));
    let start = text.len().min(LONGEST - hash.len());
    let start = text.get(..start).unwrap_or_default();
    format!("{}{hash}", start.trim_end_matches(['-', '.']))
}
