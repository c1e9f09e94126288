//! Client certificates are asked for by host, before a path is known.

use std::sync::Arc;

use crate::Refusal;

use super::{Auth, ClientCertificates, PathMatch, Policy, Route, rules::refusal};

/// Where solvers prove that a host is theirs (RFC 8555, 8.3), which nobody can who must have a
/// certificate of ours before.
const ACME: &str = "/.well-known/acme-challenge/";

/// Makes what the oldest Ingress of a host demands of clients hold for all routes of the host.
/// Whether anything is demanded. `routes` are in the order of their Ingresses.
pub(super) fn share(routes: &mut [&mut Route], refusals: &mut Vec<Refusal>) -> bool {
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
                let reason = "the host has client certificates of another Ingress already";
                let policy: &mut Policy = Arc::make_mut(&mut route.policy);
                policy.closed.get_or_insert(reason.into());
                let field = "metadata.annotations[auth-tls-secret]".into();
                let refusal = refusal(&route.ingress, field, reason.into());
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
