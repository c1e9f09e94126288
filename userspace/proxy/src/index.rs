//! Finds the route of a request by host and path, without a scan of all routes.

use std::{cell::Cell, collections::HashMap, net::IpAddr, sync::Arc};

use headgate_model::edge::{Condition, HostMode, PathMatch, Route};
use http::request::Parts;

use crate::message::{RequestHead, parameters};

/// Routes of all hosts. `T` is a route with the state that serves it.
#[derive(Debug)]
pub(crate) struct Index<T> {
    mode: HostMode,
    hosts: HashMap<String, HostIndex<T>>,
    default: Option<Arc<T>>,
}

/// Routes of one host by precedence, and their positions in that order by path.
#[derive(Debug)]
struct HostIndex<T> {
    routes: Vec<Arc<T>>,
    exact: HashMap<String, Vec<usize>>,
    prefixes: HashMap<String, Vec<usize>>,
    /// Length of the longest prefix: a client's path may have thousands of segments.
    longest: usize,
    patterns: Vec<usize>,
}

/// How the route of a request was found.
#[derive(Debug)]
pub(crate) struct RouteSearch<'a, T> {
    /// The host whose routes decide, as rules write it: that of the selected one, else the best.
    pub(crate) host: Option<&'a str>,
    /// The routes before the selected one, or all of them, and why each does not match.
    pub(crate) passed: Vec<(&'a T, Lack<'a>)>,
    /// Whether the default is selected.
    pub(crate) is_default: bool,
}

/// Why a route does not match.
#[derive(Debug)]
pub(crate) enum Lack<'a> {
    Path,
    Condition(&'a Condition),
}

impl<T: AsRef<Route>> Index<T> {
    /// Indexes routes. Of the routes of a host the first that matches is selected.
    pub(crate) fn new(
        mode: HostMode,
        hosts: impl Iterator<Item = (String, Vec<Arc<T>>)>,
        default: Option<Arc<T>>,
    ) -> Self {
        let hosts = hosts.map(|(host, routes)| (host, HostIndex::new(routes)));
        Self {
            mode,
            hosts: hosts.collect(),
            default,
        }
    }

    /// Returns the route of a request. The host decides first: an exact one before a wildcard, then
    /// rules without host; with [`HostMode::Suffix`] a worse one is tried if no route of a better one
    /// matches. A request that no route matches gets the default.
    pub(crate) fn find(
        &self,
        head: &RequestHead<'_>,
        parts: &Parts,
        client: IpAddr,
    ) -> Option<&Arc<T>> {
        let holds = |route: &Route| {
            let mut conditions = route.conditions.iter();
            conditions.all(|condition| holds(condition, head, parts, client))
        };
        let mut hosts = self.hosts(&head.host);
        let found = hosts.find_map(|(_, host)| host.find(&head.path, holds));
        found.or(self.default.as_ref())
    }

    /// Returns the route of a request as [`Self::find`] does, if that depends on host and path alone.
    pub(crate) fn find_plain(&self, host: &str, path: &str) -> Option<&Arc<T>> {
        let has_conditions = Cell::new(false);
        let holds = |route: &Route| {
            has_conditions.set(has_conditions.get() || !route.conditions.is_empty());
            true
        };
        let found = self
            .hosts(host)
            .find_map(|(_, host)| host.find(path, holds));
        let found = found.or(self.default.as_ref());
        found.filter(|_| !has_conditions.get())
    }

    /// Returns how [`Self::find`] selects the route.
    pub(crate) fn search<'a>(
        &'a self,
        head: &RequestHead<'_>,
        parts: &Parts,
        client: IpAddr,
    ) -> RouteSearch<'a, T> {
        let selected = self.find(head, parts, client);
        let is = |other: Option<&Arc<T>>| {
            let both = selected.zip(other);
            both.is_some_and(|(selected, other)| Arc::ptr_eq(selected, other))
        };
        let mut passed = Vec::new();
        let mut decides = None;
        for (name, host) in self.hosts(&head.host) {
            decides = decides.or(Some(name.as_str()));
            let before = host.routes.iter().take_while(|route| !is(Some(route)));
            passed.extend(before.filter_map(|route| {
                let lack = lack((**route).as_ref(), head, parts, client)?;
                Some((route.as_ref(), lack))
            }));
            if host.routes.iter().any(|route| is(Some(route))) {
                decides = Some(name.as_str());
                break;
            }
        }
        RouteSearch {
            host: decides,
            passed,
            is_default: is(self.default.as_ref()),
        }
    }

    /// Returns routes by host, those of a host by precedence, and last the default, with host `None`.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (Option<&str>, &T)> {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort_by_key(|(name, _)| (name.is_empty(), name.as_str()));
        let routes = hosts.into_iter().flat_map(|(name, host)| {
            let routes = host.routes.iter();
            routes.map(move |route| (Some(name.as_str()), route.as_ref()))
        });
        routes.chain(self.default.iter().map(|route| (None, route.as_ref())))
    }

    /// Returns all routes of hosts, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        let routes = self.hosts.values().flat_map(|host| &host.routes);
        routes.map(AsRef::as_ref)
    }

    /// Returns whether there are rules for exactly this host, as rules write it.
    pub(crate) fn has_host(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }

    /// Returns the hosts whose routes decide about requests for a host, the best first.
    fn hosts<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a String, &'a HostIndex<T>)> {
        let most = self.mode.most_tried();
        let hosts = self.mode.all(name, |host| self.hosts.get_key_value(host));
        hosts.take(most)
    }
}

impl<T: AsRef<Route>> HostIndex<T> {
    fn new(routes: Vec<Arc<T>>) -> Self {
        let mut index = Self {
            routes: Vec::new(),
            exact: HashMap::new(),
            prefixes: HashMap::new(),
            longest: 0,
            patterns: Vec::new(),
        };
        for (position, route) in routes.iter().enumerate() {
            let positions = match &(**route).as_ref().path {
                PathMatch::Exact(path) => index.exact.entry(path.clone()).or_default(),
                PathMatch::Prefix(path) => {
                    index.longest = index.longest.max(path.len());
                    index.prefixes.entry(path.clone()).or_default()
                }
                PathMatch::Regex(_) => &mut index.patterns,
            };
            positions.push(position);
        }
        index.routes = routes;
        index
    }

    fn find(&self, path: &str, holds: impl Fn(&Route) -> bool) -> Option<&Arc<T>> {
        let route = |position: usize| self.routes.get(position).map(|route| (**route).as_ref());
        // Positions ascend, so the first match is the best of its list.
        let best_of = |positions: Option<&Vec<usize>>| {
            let mut positions = positions.into_iter().flatten().copied();
            positions.find(|position| route(*position).is_some_and(&holds))
        };
        let mut best = best_of(self.exact.get(path));
        let mut consider = |found: Option<usize>| {
            best = [best, found].into_iter().flatten().min();
        };
        let cuts = path.match_indices('/').map(|(at, _)| at);
        let ends = cuts.chain([path.len()]);
        for end in ends.take_while(|end| *end <= self.longest) {
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

fn lack<'a>(
    route: &'a Route,
    head: &RequestHead<'_>,
    parts: &Parts,
    client: IpAddr,
) -> Option<Lack<'a>> {
    if !route.path.matches(&head.path) {
        return Some(Lack::Path);
    }
    let mut conditions = route.conditions.iter();
    let lacking = conditions.find(|condition| !holds(condition, head, parts, client));
    lacking.map(Lack::Condition)
}

fn holds(condition: &Condition, head: &RequestHead<'_>, parts: &Parts, client: IpAddr) -> bool {
    match condition {
        Condition::Method(methods) => methods.matches(parts.method.as_str()),
        Condition::Header(name, text) => {
            let mut values = parts.headers.get_all(name.as_str()).iter();
            values.any(|value| value.to_str().is_ok_and(|value| text.matches(value)))
        }
        Condition::Query(name, text) => {
            parameters(head.query, name).any(|value| text.matches(&value))
        }
        Condition::FirstQuery(name, text) => {
            let mut values = parameters(head.query, name);
            values.next().is_some_and(|value| text.matches(&value))
        }
        Condition::Source(networks) => networks.iter().any(|network| network.contains(&client)),
    }
}
