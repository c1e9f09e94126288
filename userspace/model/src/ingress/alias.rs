//! Annotations that add hosts: `server-alias` and `from-to-www-redirect`.

use std::sync::Arc;

use super::{
    Ingress,
    annotations::Settings,
    candidate::PathCandidate,
    owners::{belongs, www_of},
    rules::Builder,
};
use crate::edge::{PathMatch, Policy, Redirect, Route, RouteOrigin, Template};

impl Builder<'_> {
    /// Copies the routes of an Ingress to its aliases, unless these have rules of their own. If its
    /// hosts have different routes for a path, the first host counts.
    pub(super) fn add_aliases(&mut self, ingress: &Ingress, settings: &Settings) {
        for alias in &settings.aliases {
            let copies = self.copies(ingress, settings, alias);
            let reason = match self.owners.other(alias, ingress) {
                Some(owner) => belongs(alias, owner),
                None if self.is_known(alias) => format!("host {alias} has rules of its own"),
                None if copies.is_empty() => format!("there are no routes for host {alias}"),
                None => {
                    self.hosts.insert(alias.clone(), copies);
                    continue;
                }
            };
            self.refuse(ingress, settings.field("server-alias"), reason);
        }
    }

    fn copies(
        &mut self,
        ingress: &Ingress,
        settings: &Settings,
        alias: &str,
    ) -> Vec<PathCandidate> {
        let policy = self.policy(ingress, settings, alias);
        let mut copies: Vec<PathCandidate> = Vec::new();
        for rule in &ingress.rules {
            let candidates = self.hosts.get(&rule.host).into_iter().flatten();
            for own in candidates.filter(|known| known.route.origin.name == ingress.name) {
                if !copies.iter().any(|copy| copy.is_same(own)) {
                    let mut copy = own.clone();
                    copy.route.policy = policy.clone();
                    if own.route.policy.rewrite.is_none() {
                        copy.leave_path();
                    }
                    copies.push(copy);
                }
            }
        }
        copies
    }

    /// Redirects `/` of the hosts of an Ingress to its `app-root`, unless a rule of its own gets these
    /// requests, which then are redirected there.
    pub(super) fn add_app_root(&mut self, ingress: &Ingress, settings: &Settings) {
        if settings.policy.app_root.is_none() || settings.passthrough {
            return;
        }
        for rule in &ingress.rules {
            if self.owners.other(&rule.host, ingress).is_some() {
                continue;
            }
            let site = self.site(ingress, settings, &rule.host);
            let candidates = self.hosts.entry(rule.host.clone()).or_default();
            let root = candidates.iter().filter(|one| one.route.path.matches("/"));
            let first = root.min_by_key(|one| one.rank());
            if first.is_none_or(|first| first.route.origin.name != ingress.name) {
                let route = Route {
                    path: PathMatch::Exact("/".into()),
                    ..local_route(ingress, settings, site.policy)
                };
                candidates.insert(0, PathCandidate { route, written: 1 });
            }
        }
    }

    /// Adds redirects between a host and its `www.`, if only one has rules.
    pub(super) fn add_www(&mut self, ingress: &Ingress, settings: &Settings) {
        if !settings.www_redirect || settings.passthrough {
            return;
        }
        for rule in &ingress.rules {
            let host = &rule.host;
            let Some(other) = www_of(host) else { continue };
            let taken = [host, &other].iter().find_map(|host| {
                let owner = self.owners.other(host, ingress)?;
                Some(belongs(host, owner))
            });
            if let Some(reason) = taken {
                self.refuse(ingress, settings.field("from-to-www-redirect"), reason);
                continue;
            }
            if self.is_known(&other) {
                continue;
            }
            let route = Route {
                conditions: Vec::new(),
                ..local_route(ingress, settings, Arc::new(www_policy(settings, host)))
            };
            self.hosts
                .insert(other, vec![PathCandidate { route, written: 1 }]);
        }
    }

    /// Whether a host has rules or is an alias.
    fn is_known(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }
}

/// A route that needs no backend.
fn local_route(ingress: &Ingress, settings: &Settings, policy: Arc<Policy>) -> Route {
    Route {
        origin: RouteOrigin::ingress(ingress.name.clone()),
        path: PathMatch::Prefix(String::new()),
        conditions: settings.conditions.clone(),
        targets: Vec::new(),
        canary: None,
        policy,
    }
}

/// The policy of a redirect, with the guards of its Ingress.
fn www_policy(settings: &Settings, host: &str) -> Policy {
    Policy {
        redirect: Some(Redirect::Location {
            location: Template::to_host(host),
            code: 308,
        }),
        app_root: None,
        ..settings.policy.clone()
    }
}
