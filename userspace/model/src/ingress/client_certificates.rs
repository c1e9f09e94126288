//! Client certificates are requested by host, in the TLS handshake, before a path is known.

use std::sync::Arc;

use crate::Refusal;

use super::{Auth, ClientCertificates, PathMatch, Policy, Route};

/// Path of ACME HTTP-01 (RFC 8555, 8.3); must be reachable without a client certificate.
const ACME: &str = "/.well-known/acme-challenge/";

/// Applies what the oldest Ingress of a host demands of client certificates to all routes of the
/// host; returns whether it demands any. `routes` are in the order of their Ingresses.
pub(super) fn demand_on_all(routes: &mut [&mut Route], refusals: &mut Vec<Refusal>) -> bool {
    let Some(demand) = routes
        .iter()
        .find_map(|route| demand(&route.policy))
        .cloned()
    else {
        return false;
    };
    for route in routes {
        match self::demand(&route.policy) {
            Some(own) if *own == demand => {}
            Some(_) => {
                let reason = "another Ingress of the host requires other client certificates";
                let policy: &mut Policy = Arc::make_mut(&mut route.policy);
                policy.closed.get_or_insert(reason.into());
                let field = "metadata.annotations[auth-tls-secret]".into();
                let refusal = Refusal::ingress(&route.ingress, field, reason.into());
                if !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
            }
            None if is_solver(route) => {}
            None => {
                let auth = &mut Arc::make_mut(&mut route.policy).auth;
                auth.insert(0, Auth::Certificate(demand.clone()));
            }
        }
    }
    true
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
