//! TCPRoutes and UDPRoutes.

use super::{
    Problem, World,
    backend::{Backends, Carried},
    backend_tls::Policies,
    object::{GROUP, L4Route},
    reference::Referrer,
};
use crate::{NamespacedName, Protocol};

/// A TCP or UDP listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct L4Listener {
    /// The Gateway.
    pub gateway: NamespacedName,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Where connections or flows of a listener go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L4Target {
    /// The route: the oldest of those that are accepted.
    pub route: Option<NamespacedName>,
    /// Its backends. All connections are refused if it has no backend, or no weight.
    pub backends: Vec<L4Backend>,
}

/// A backend with its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L4Backend {
    /// Its share of the connections is this of the sum of all weights; 0 for none.
    pub weight: u32,
    /// The Service and its port; `None` if the reference is not valid: its share is refused.
    pub service: Option<(NamespacedName, u16)>,
}

/// The backends of a TCPRoute or a UDPRoute, and the first reference that is not valid. Its first rule counts;
/// the API allows no other.
pub(super) fn judge(
    world: &World<'_>,
    policies: &Policies,
    route: &L4Route,
    protocol: Protocol,
) -> (Vec<L4Backend>, Option<Problem>) {
    let (kind, carried) = match protocol {
        Protocol::Tcp => ("TCPRoute", Carried::Raw),
        Protocol::Udp => ("UDPRoute", Carried::Datagrams),
    };
    let from = Referrer {
        group: GROUP,
        kind,
        namespace: &route.meta.name.namespace,
    };
    let mut backends = Backends::new(world, policies, from, carried);
    let references = route.spec.rules.iter().take(1);
    let references = references.flat_map(|rule| &rule.backend_refs);
    let targets = references.map(|reference| {
        let found = backends.upstream(reference);
        let found = found.map_err(|problem| backends.problems.push(problem));
        L4Backend {
            weight: u32::try_from(reference.weight).unwrap_or_default(),
            service: found.ok().map(|key| (key.service, key.port)),
        }
    });
    let targets = targets.collect();
    (targets, backends.problems.into_iter().next())
}
