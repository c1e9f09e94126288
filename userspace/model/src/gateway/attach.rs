//! Which routes attach to which listeners.

use std::collections::BTreeMap;

use super::{
    Holder, Listener, Problem, RouteKind, World,
    hostname::{self, Hostnames},
    object::{GROUP, Meta, ParentRef},
    site::Sites,
};
use crate::NamespacedName;

/// A route, reduced to what attachment needs.
pub(super) struct Candidate<'a> {
    pub(super) kind: RouteKind,
    pub(super) meta: &'a Meta,
    pub(super) parents: &'a [ParentRef],
    /// Host names; empty for those of the listener.
    pub(super) hostnames: &'a [String],
    /// Why no part of the route can be served.
    pub(super) refusal: Option<Problem>,
}

/// A listener that accepts a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The Gateway.
    pub(super) gateway: NamespacedName,
    /// The index of the listener among those of the Gateway and its sets.
    pub(super) listener: usize,
    /// The names that both the listener and the route have.
    pub(super) hostnames: Vec<String>,
}

/// The outcome at one parent of a route.
pub(super) struct Attachment<'a> {
    pub(super) parent: &'a ParentRef,
    /// Listeners that the route is for, also if it is refused: its requests must not get to other routes.
    pub(super) places: Vec<Place>,
    pub(super) result: Result<(), Problem>,
}

/// Attaches routes, those of older objects first.
#[derive(Default)]
pub(super) struct Attacher {
    /// Names of HTTPRoutes and GRPCRoutes, by Gateway and listener.
    names: BTreeMap<(NamespacedName, usize), BTreeMap<RouteKind, Hostnames>>,
}

impl Attacher {
    /// Attaches a route to each of its parents that is ours. Parents that do not exist, or that are of
    /// another controller, are left out.
    pub(super) fn attach<'a>(
        &mut self,
        world: &World<'_>,
        sites: &Sites<'_>,
        route: &Candidate<'a>,
    ) -> Vec<Attachment<'a>> {
        let mut attachments: Vec<Attachment<'a>> = Vec::new();
        for parent in route.parents {
            let is_known = |one: &Attachment<'_>| one.parent == parent;
            let Some((gateway, holder)) = target(sites, route.meta, parent) else {
                continue;
            };
            if attachments.iter().any(is_known) {
                continue;
            }
            let places = self.places(world, sites, route, parent, &gateway, &holder);
            let (places, result) = match (places, &route.refusal) {
                (Ok(places), None) => (places, Ok(())),
                (Ok(places), Some(problem)) => (places, Err(problem.clone())),
                (Err(problem), _) => (Vec::new(), Err(problem)),
            };
            attachments.push(Attachment {
                parent,
                places,
                result,
            });
        }
        // After all parents: a route does not conflict with itself.
        let accepted = attachments.iter().filter(|one| one.result.is_ok());
        for place in accepted.flat_map(|one| &one.places) {
            let names = self.names.entry((place.gateway.clone(), place.listener));
            let names = names.or_default().entry(route.kind).or_default();
            place.hostnames.iter().for_each(|name| names.insert(name));
        }
        attachments
    }

    /// The listeners of a parent that accept a route, or why none does.
    fn places(
        &self,
        world: &World<'_>,
        sites: &Sites<'_>,
        route: &Candidate<'_>,
        parent: &ParentRef,
        gateway: &NamespacedName,
        holder: &Holder,
    ) -> Result<Vec<Place>, Problem> {
        let listeners = sites.listeners_of(gateway, holder);
        let meant: Vec<(usize, &Listener<'_>)> =
            listeners.filter(|(_, one)| is_meant(parent, one)).collect();
        if meant.is_empty() {
            let message = format!("{holder} has no such listener");
            return Err(Problem::new("NoMatchingParent", message));
        }
        let namespace = &route.meta.name.namespace;
        let mut allowing = meant.into_iter().filter(|(_, one)| {
            one.kinds.contains(&route.kind) && one.allows_namespace(world, namespace)
        });
        let Some(first) = allowing.next() else {
            let message = format!(
                "no listener of {holder} allows a {} of namespace {namespace}",
                route.kind.name()
            );
            return Err(Problem::new("NotAllowedByListeners", message));
        };
        let allowing = std::iter::once(first).chain(allowing);
        let named: Vec<Place> = allowing
            .filter_map(|(index, listener)| {
                let hostnames = common(&listener.hostname, route.hostnames);
                (!hostnames.is_empty()).then(|| Place {
                    gateway: gateway.clone(),
                    listener: index,
                    hostnames,
                })
            })
            .collect();
        if named.is_empty() {
            let message = format!("no listener of {holder} has a host name of the route");
            return Err(Problem::new("NoMatchingListenerHostname", message));
        }
        let places: Vec<Place> = named
            .into_iter()
            .filter(|place| !self.is_taken(route.kind, place))
            .collect();
        match places.is_empty() {
            true => {
                let message = format!(
                    "an older route of another kind has a host name of the route at {holder}"
                );
                Err(Problem::new("HostnameConflict", message))
            }
            false => Ok(places),
        }
    }

    /// Whether an older route of the other kind has a name at a listener: HTTPRoutes and GRPCRoutes never
    /// share one.
    fn is_taken(&self, kind: RouteKind, place: &Place) -> bool {
        let other = match kind {
            RouteKind::Http => RouteKind::Grpc,
            RouteKind::Grpc => RouteKind::Http,
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => return false,
        };
        let names = self.names.get(&(place.gateway.clone(), place.listener));
        let names = names.and_then(|names| names.get(&other));
        names.is_some_and(|names| place.hostnames.iter().any(|own| names.meet(own)))
    }
}

/// The Gateway and the object that a parent names, if it is ours.
pub(super) fn target(
    sites: &Sites<'_>,
    route: &Meta,
    parent: &ParentRef,
) -> Option<(NamespacedName, Holder)> {
    let name = parent.target(&route.name.namespace);
    match (parent.group.as_str(), parent.kind.as_str()) {
        (GROUP, "Gateway") if sites.has(&name) => Some((name.clone(), Holder::Gateway(name))),
        (GROUP, "ListenerSet") => {
            let gateway = sites.gateway_of(&name)?;
            Some((gateway.clone(), Holder::ListenerSet(name)))
        }
        _ => None,
    }
}

/// Whether a parent means a listener of its object.
fn is_meant(parent: &ParentRef, listener: &Listener<'_>) -> bool {
    let is_named = |name| listener.spec.name == name;
    let port = parent.port;
    parent.section().is_none_or(is_named) && port.is_none_or(|port| port == listener.spec.port)
}

/// The names that a listener and a route have in common.
fn common(listener: &str, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return vec![listener.to_owned()];
    }
    let mut names: Vec<String> = Vec::new();
    for name in route {
        let name = hostname::normal(name);
        if let Some(name) = hostname::intersect(listener, &name)
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}
