//! The Gateway API: what a proxy serves, and what the statuses say, made from Kubernetes objects.
//!
//! Everything here is a pure function without clock or I/O. The proxy, the controller and the commands
//! call the same ones, so a status says what is served.

mod addresses;
mod attach;
mod backend;
mod backend_tls;
mod candidates;
mod certificates;
mod filters;
mod frontend;
mod grpc;
mod hostname;
mod http;
mod infrastructure;
mod l4;
mod listeners;
pub mod object;
mod patterns;
mod ports;
mod problem;
mod reference;
mod resolve;
mod resolver;
mod route_policies;
mod rules;
mod served;
mod servers;
mod site;
mod status;
mod streams;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};

pub use addresses::{Addresses, assign};
pub use certificates::AUTHORITIES_KEY;
pub use hostname::intersect;
pub use infrastructure::{GATEWAY_NAME, Infrastructure, infrastructure, service_name};
pub(crate) use l4::route_kind;
pub use l4::{
    L4Backend, L4Listener, L4Port, L4Target, RoutedPort, RoutedPorts, port_name, routed_ports,
    stand_in,
};
pub use listeners::{Conflict, Holder, Listener, RouteKind};
pub use object::Objects;
pub use ports::can_be_target;
pub use problem::Problem;
pub use reference::{Referent, Referrer, permits};
pub use resolve::Resolved;
pub use resolver::{Resolver, resolve};
pub use route_policies::{PolicyField, policy_fields};
pub use servers::Servers;
pub use status::{
    ClassVerdict, GatewayVerdict, ListenerSetVerdict, ListenerVerdict, Merge, PolicyVerdict,
    RouteVerdict, Verdict,
};

use ipnet::IpNet;

use crate::{
    NamespacedName,
    edge::{Certificate, Secret, Services},
};
use object::{FromNamespaces, Gateway, GatewayClass, LabelSelector};

/// Options that apply to all Gateways.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// `spec.controllerName` of the GatewayClasses that are served.
    pub controller: String,
    /// Networks whose addresses Gateways get. Empty: the load balancers of the cluster give them.
    pub pools: Vec<IpNet>,
    /// Version of the installed CRDs, as `v1.6.1`, if it is known.
    pub bundle_version: Option<String>,
    /// Whether CA certificates for clients are judged. Without, HTTPS listeners are accepted whatever they name: an
    /// agent reads no ConfigMaps, and a Gateway that it refused would lose its TCP and UDP listeners.
    pub judges_certificates: bool,
    /// Returns why a certificate and its key cannot be used.
    pub check_certificate: fn(&Certificate) -> Result<(), String>,
    /// Returns why CA certificates (PEM) cannot be used.
    pub check_authorities: fn(&[u8]) -> Result<(), String>,
    /// Networks of the node that authentication services may be in.
    pub auth_local: Vec<IpNet>,
    /// Ports of nodes that are never target ports: those that a proxy of a folder of manifests listens on for other
    /// reasons. Where a controller gives target ports, this is empty.
    pub reserved_ports: BTreeSet<u16>,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            controller: "headgate.io/gateway".into(),
            pools: Vec::new(),
            bundle_version: None,
            judges_certificates: true,
            check_certificate: |_| Ok(()),
            check_authorities: |_| Ok(()),
            auth_local: Vec::new(),
            reserved_ports: BTreeSet::new(),
        }
    }
}

impl GatewayOptions {
    /// Returns whether a GatewayClass is ours.
    fn owns(&self, class: &GatewayClass) -> bool {
        class.spec.controller_name == self.controller
    }

    /// Returns whether a Gateway is of a class of ours.
    pub fn serves(&self, objects: &Objects, gateway: &Gateway) -> bool {
        let class = objects.classes.get(&gateway.spec.gateway_class_name);
        class.is_some_and(|class| self.owns(class))
    }
}

/// Everything that statuses and routes are made from.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Objects of the Gateway API.
    pub objects: &'a Objects,
    /// Secrets.
    pub secrets: &'a BTreeMap<NamespacedName, Secret>,
    /// Services.
    pub services: &'a Services,
    /// Addresses of Gateways. They matter to statuses only.
    pub addresses: &'a Addresses,
    /// What is wrong with proxies and agents. It matters to statuses only.
    pub servers: &'a Servers,
    /// Options.
    pub options: &'a GatewayOptions,
}

impl World<'_> {
    /// Whether a namespace is one of those that an object of the namespace `own` names.
    fn selects(
        &self,
        from: &FromNamespaces,
        selector: Option<&LabelSelector>,
        own: &str,
        namespace: &str,
    ) -> bool {
        match from {
            FromNamespaces::All => true,
            FromNamespaces::Same => own == namespace,
            FromNamespaces::Selector => {
                let labels = self.objects.namespaces.get(namespace);
                let both = selector.zip(labels);
                both.is_some_and(|(selector, labels)| selector.selects(labels))
            }
            FromNamespaces::None | FromNamespaces::Other(_) => false,
        }
    }
}
