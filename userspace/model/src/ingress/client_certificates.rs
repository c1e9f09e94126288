//! Client certificates are requested by host, in the TLS handshake, before a path is known.

use std::sync::Arc;

use crate::{NamespacedName, Refusal};

use crate::edge::{Auth, ClientCertificates, PathMatch, Policy, Route};

/// Path of ACME HTTP-01 (RFC 8555, 8.3); must be reachable without a client certificate.
pub(super) const ACME: &str = "/.well-known/acme-challenge/";

/// Applies what the oldest Ingress of the owner's namespace demands of client certificates to all
/// routes of a host; returns whether it demands any. `routes` are in the order of their Ingresses.
pub(super) fn demand_on_all(
    routes: &mut [&mut Route],
    owner: Option<&NamespacedName>,
    refusals: &mut Vec<Refusal>,
) -> bool {
    let is_owners = |route: &&&mut Route| {
        owner.is_none_or(|owner| owner.namespace == route.origin.name.namespace)
    };
    let demanded = routes
        .iter()
        .filter(is_owners)
        .find_map(|route| demand(&route.policy))
        .cloned();
    for route in routes {
        match (demand(&route.policy), &demanded) {
            (None, None) => {}
            (Some(own), Some(demanded)) if own == demanded => {}
            (Some(_), _) => {
                let reason =
                    "another Ingress of the host decides which client certificates it requires";
                let policy: &mut Policy = Arc::make_mut(&mut route.policy);
                policy.closed.get_or_insert(reason.into());
                let field = "metadata.annotations[auth-tls-secret]".into();
                let refusal = Refusal::ingress(&route.origin.name, field, reason);
                if !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
            }
            (None, Some(_)) if is_solver(route) => {}
            (None, Some(demanded)) => {
                let auth = &mut Arc::make_mut(&mut route.policy).auth;
                auth.insert(0, Auth::Certificate(demanded.clone()));
            }
        }
    }
    demanded.is_some()
}

fn demand(policy: &Policy) -> Option<&ClientCertificates> {
    policy.auth.iter().find_map(|auth| match auth {
        Auth::Certificate(demand) => Some(demand),
        _ => None,
    })
}

fn is_solver(route: &Route) -> bool {
    match &route.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.starts_with(ACME),
        PathMatch::Regex(_) => false,
    }
}
