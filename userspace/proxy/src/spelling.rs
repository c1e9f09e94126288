//! Which spelling of a path the backend gets.
//!
//! A path is routed and guarded in its decoded form, but servers read paths in different forms (see
//! [`path::readings`]). The backend gets the client's spelling, unless one of these forms has other access
//! rules. Then it gets the normal form, which servers read in one way.

use std::net::IpAddr;

use headgate_model::edge::{Auth, Policy, Route, Target, path};
use http::request::Parts;

use crate::{
    index::Index,
    message::{Misunderstood, RequestHead},
    serving::ServedRoute,
};

/// Returns the path that the backend of `route` gets instead of the client's spelling; `None` if it gets
/// that.
///
/// # Errors
///
/// If the normal form can be read as a path with other access rules, too: by `\` or `;`.
pub(crate) fn sent(
    index: &Index<ServedRoute>,
    head: &RequestHead<'_>,
    parts: &Parts,
    client: IpAddr,
    route: &ServedRoute,
) -> Result<Option<String>, Misunderstood> {
    let written = parts.uri.path();
    if path::is_plain(written) {
        return Ok(None);
    }
    let has_rules_of_route = |reading: String| {
        let head = RequestHead {
            host: head.host.as_ref().into(),
            path: reading.into(),
            query: head.query,
        };
        let other = index.find(&head, parts, client);
        other.is_none_or(|other| is_open(other.as_ref()) || rules(other.as_ref()) == rules(route))
    };
    let is_safe = |path: &str| {
        (!asks_service(route.policy()) || path::is_unambiguous(path))
            && path::readings(path).into_iter().all(has_rules_of_route)
    };
    if is_safe(written) {
        return Ok(None);
    }
    let normal = path::encoded(&head.path);
    match is_safe(&normal) {
        true => Ok(Some(normal.into_owned())),
        false => Err(Misunderstood::Readings),
    }
}

/// The access rules of a route.
fn rules(route: &ServedRoute) -> impl PartialEq + '_ {
    (of_policy(route.policy()), is_closed(route))
}

fn of_policy(policy: &Policy) -> impl PartialEq + '_ {
    let limits = &policy.limits;
    let limits = (&limits.rates, limits.concurrent, &limits.exempt);
    (&policy.closed, &policy.sources, &policy.auth, limits)
}

/// Whether a route has no access rules.
fn is_open(route: &ServedRoute) -> bool {
    let open = Policy::default();
    of_policy(route.policy()) == of_policy(&open) && !is_closed(route)
}

/// Whether a route sends nothing to a backend: it may have a guard that cannot be applied.
fn is_closed(route: &ServedRoute) -> bool {
    let route: &Route = route.as_ref();
    let mut targets = route.targets.iter();
    !route.targets.is_empty() && targets.all(|one| matches!(one.target, Target::Invalid(_)))
}

/// Whether another service decides by the path, which it is sent.
fn asks_service(policy: &Policy) -> bool {
    policy
        .auth
        .iter()
        .any(|auth| matches!(auth, Auth::External(_)))
}
