//! A simple search for the route of a request.

use std::sync::Arc;

use headgate_model::{
    edge::{Condition, Route, Target},
    gateway::Resolved,
};

/// A request at the Gateway `web`, port 80.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) method: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) query: &'a [(&'a str, &'a str)],
}

pub(crate) fn get<'a>(host: &'a str, path: &'a str) -> Request<'a> {
    Request {
        host,
        path,
        method: "GET",
        headers: &[],
        query: &[],
    }
}

impl Request<'_> {
    fn meets(&self, condition: &Condition) -> bool {
        let value = |pairs: &[(&str, &str)], name: &str| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        match condition {
            Condition::Method(text) => text.matches(self.method),
            Condition::Header(name, text) => {
                value(self.headers, name).is_some_and(|value| text.matches(&value))
            }
            Condition::Query(name, text) | Condition::FirstQuery(name, text) => {
                value(self.query, name).is_some_and(|value| text.matches(&value))
            }
            Condition::Source(_) => false,
        }
    }
}

/// The route of a request at a Gateway `web`, port 80: the listener with the longest host name, then its
/// hosts from the best to the worst.
pub(crate) fn find(resolved: &Resolved, request: &Request<'_>) -> Option<Arc<Route>> {
    let mut ports = resolved.gateways.iter();
    let (_, port) = ports.find(|(port, _)| port.gateway.name == "web" && port.port == 80)?;
    let listeners = port.listeners.iter().filter(|one| {
        let suffix = one.hostname.strip_prefix('*');
        let is_below = |suffix: &str| request.host.ends_with(suffix);
        one.hostname.is_empty() || one.hostname == request.host || suffix.is_some_and(is_below)
    });
    let listener =
        listeners.max_by_key(|one| (!one.hostname.starts_with('*'), one.hostname.len()))?;
    let mut routes = listener.hosts(request.host).flat_map(|host| &host.routes);
    let found = routes.find(|route| {
        let mut conditions = route.conditions.iter();
        route.path.matches(request.path) && conditions.all(|one| request.meets(one))
    });
    found.cloned()
}

/// The first Service with a weight, or the status code without one.
pub(crate) fn answer(resolved: &Resolved, request: &Request<'_>) -> String {
    let Some(route) = find(resolved, request) else {
        return "404".into();
    };
    let mut targets = route.targets.iter().filter(|one| one.weight > 0);
    match targets.next().map(|one| &one.target) {
        Some(Target::Upstream(key)) => key.service.name.clone(),
        Some(_) | None => "500".into(),
    }
}
