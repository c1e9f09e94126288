//! From host and path to a route, without looking at every route.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use headgate_model::ingress::{Condition, PathMatch, Route};
use http::request::Parts;

use crate::message::{Ask, parameters};

/// Routes of all hosts. `T` is a route with what it takes to serve it.
#[derive(Debug)]
pub(crate) struct Index<T> {
    hosts: HashMap<String, HostIndex<T>>,
    default: Option<Arc<T>>,
}

/// Routes of one host by precedence, and where in that order to look.
#[derive(Debug)]
struct HostIndex<T> {
    routes: Vec<Arc<T>>,
    exact: HashMap<String, Vec<usize>>,
    prefixes: HashMap<String, Vec<usize>>,
    patterns: Vec<usize>,
}

impl<T: AsRef<Route>> Index<T> {
    /// Of the routes of each host, the first is taken that matches.
    pub(crate) fn new(
        hosts: impl Iterator<Item = (String, Vec<Arc<T>>)>,
        default: Option<Arc<T>>,
    ) -> Self {
        let hosts = hosts.map(|(host, routes)| (host, HostIndex::new(routes)));
        Self {
            hosts: hosts.collect(),
            default,
        }
    }

    /// The route of a request. The host decides first: an exact one before a wildcard, a wildcard
    /// before rules without host. What its rules do not match gets the default.
    pub(crate) fn find(&self, ask: &Ask<'_>, parts: &Parts, client: IpAddr) -> Option<&Arc<T>> {
        let holds = |route: &Route| {
            let mut conditions = route.conditions.iter();
            conditions.all(|condition| holds(condition, ask, parts, client))
        };
        let host = self.host(&ask.host);
        let found = host.and_then(|host| host.find(&ask.path, holds));
        found.or(self.default.as_ref())
    }

    fn host(&self, name: &str) -> Option<&HostIndex<T>> {
        let exact = (!name.is_empty()).then(|| self.hosts.get(name)).flatten();
        let wildcard = || {
            let (label, rest) = name.split_once('.')?;
            self.hosts
                .get(&format!("*.{rest}"))
                .filter(|_| !label.is_empty())
        };
        exact.or_else(wildcard).or_else(|| self.hosts.get(""))
    }
}

impl<T: AsRef<Route>> HostIndex<T> {
    fn new(routes: Vec<Arc<T>>) -> Self {
        let mut index = Self {
            routes: Vec::new(),
            exact: HashMap::new(),
            prefixes: HashMap::new(),
            patterns: Vec::new(),
        };
        for (position, route) in routes.iter().enumerate() {
            let positions = match &(**route).as_ref().path {
                PathMatch::Exact(path) => index.exact.entry(path.clone()).or_default(),
                PathMatch::Prefix(path) => index.prefixes.entry(path.clone()).or_default(),
                PathMatch::Regex(_) => &mut index.patterns,
            };
            positions.push(position);
        }
        index.routes = routes;
        index
    }

    fn find(&self, path: &str, holds: impl Fn(&Route) -> bool) -> Option<&Arc<T>> {
        let route = |position: usize| self.routes.get(position).map(|route| (**route).as_ref());
        // Positions ascend, so the first that holds is the best of its list.
        let best_of = |positions: Option<&Vec<usize>>| {
            let mut positions = positions.into_iter().flatten().copied();
            positions.find(|position| route(*position).is_some_and(&holds))
        };
        let mut best = best_of(self.exact.get(path));
        let mut consider = |found: Option<usize>| {
            best = [best, found].into_iter().flatten().min();
        };
        let cuts = path.match_indices('/').map(|(at, _)| at);
        for end in cuts.chain([path.len()]) {
            consider(best_of(
                path.get(..end).and_then(|prefix| self.prefixes.get(prefix)),
            ));
        }
        let mut patterns = self.patterns.iter().copied();
        consider(patterns.find(|position| {
            let matches = |route: &Route| route.path.matches(path) && holds(route);
            route(*position).is_some_and(matches)
        }));
        self.routes.get(best?)
    }
}

fn holds(condition: &Condition, ask: &Ask<'_>, parts: &Parts, client: IpAddr) -> bool {
    match condition {
        Condition::Method(methods) => methods.matches(parts.method.as_str()),
        Condition::Header(name, text) => {
            let mut values = parts.headers.get_all(name.as_str()).iter();
            values.any(|value| value.to_str().is_ok_and(|value| text.matches(value)))
        }
        Condition::Query(name, text) => {
            parameters(ask.query, name).any(|value| text.matches(&value))
        }
        Condition::Source(networks) => networks.iter().any(|network| network.contains(&client)),
    }
}
