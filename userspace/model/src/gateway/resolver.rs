//! Judges objects again and again: work that a change does not concern is not done again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    World,
    backend_tls::Policies,
    certificates::Certificates,
    grpc, http,
    object::{GrpcRoute, HttpRoute, ReferenceGrant},
    patterns::Patterns,
    resolve::{Resolved, pass},
    rules::Judged,
};
use crate::{
    NamespacedName,
    edge::{GatewayPort, PortListeners},
};

/// Judges all objects. The same input gives the same output.
pub fn resolve(world: &World<'_>) -> Resolved {
    Resolver::default().resolve(world)
}

/// Judges objects as [`resolve`] does, and keeps what the next time can use: checked certificates, judged
/// routes, and listeners, which stay the same [`Arc`] while they are equal.
#[derive(Debug, Default)]
pub struct Resolver {
    pub(super) certificates: Certificates,
    judged: JudgedRoutes,
    /// What judged routes depend on besides the Services that they name.
    policies: Policies,
    grants: BTreeMap<NamespacedName, ReferenceGrant>,
    /// What was served.
    served: BTreeMap<GatewayPort, PortListeners>,
}

/// Routes with their verdicts.
#[derive(Debug, Default)]
pub(super) struct JudgedRoutes {
    http: HashMap<NamespacedName, (Arc<HttpRoute>, Arc<Judged>)>,
    grpc: HashMap<NamespacedName, (Arc<GrpcRoute>, Arc<Judged>)>,
}

impl Resolver {
    /// Judges all objects.
    pub fn resolve(&mut self, world: &World<'_>) -> Resolved {
        self.certificates.begin();
        let policies = Policies::new(world, &mut self.certificates);
        if !policies.same_claims(&self.policies) || self.grants != world.objects.grants {
            self.judged = JudgedRoutes::default();
            self.grants.clone_from(&world.objects.grants);
        }
        self.policies = policies;
        let mut judge = Judge {
            world,
            policies: &self.policies,
            patterns: Patterns::default(),
            before: std::mem::take(&mut self.judged),
            now: JudgedRoutes::default(),
        };
        let mut resolved = pass(world, &mut self.certificates, &mut judge);
        self.judged = judge.now;
        self.keep_listeners(&mut resolved.gateways);
        self.served.clone_from(&resolved.gateways);
        resolved
    }

    /// Replaces listeners by those that were served, if they are equal.
    fn keep_listeners(&self, ports: &mut BTreeMap<GatewayPort, PortListeners>) {
        for (port, now) in ports {
            let Some(before) = self.served.get(port) else {
                continue;
            };
            let before = before.listeners.iter();
            let before: HashMap<&str, _> = before.map(|one| (&*one.hostname, one)).collect();
            for listener in &mut now.listeners {
                if let Some(known) = before.get(&*listener.hostname)
                    && *known == listener
                {
                    *listener = Arc::clone(known);
                }
            }
        }
    }
}

/// Judges routes, in the order of their age.
pub(super) struct Judge<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) policies: &'a Policies,
    patterns: Patterns,
    before: JudgedRoutes,
    now: JudgedRoutes,
}

impl Judge<'_> {
    pub(super) fn http(&mut self, route: &Arc<HttpRoute>) -> Arc<Judged> {
        let known = self.before.http.remove(&route.meta.name);
        let judged = self.known(known, route, &route.meta.name.namespace);
        let judged = judged.unwrap_or_else(|| {
            let patterns = &mut self.patterns;
            Arc::new(http::judge(self.world, self.policies, patterns, route))
        });
        let entry = (route.clone(), judged.clone());
        self.now.http.insert(route.meta.name.clone(), entry);
        judged
    }

    pub(super) fn grpc(&mut self, route: &Arc<GrpcRoute>) -> Arc<Judged> {
        let known = self.before.grpc.remove(&route.meta.name);
        let judged = self.known(known, route, &route.meta.name.namespace);
        let judged = judged.unwrap_or_else(|| {
            let patterns = &mut self.patterns;
            Arc::new(grpc::judge(self.world, self.policies, patterns, route))
        });
        let entry = (route.clone(), judged.clone());
        self.now.grpc.insert(route.meta.name.clone(), entry);
        judged
    }

    /// The verdict about a route, if neither it nor its Services have changed.
    fn known<R>(
        &mut self,
        known: Option<(Arc<R>, Arc<Judged>)>,
        route: &Arc<R>,
        namespace: &str,
    ) -> Option<Arc<Judged>> {
        let (before, judged) = known?;
        let mut services = judged.services.iter();
        let is_same = Arc::ptr_eq(&before, route)
            && services.all(|(name, service)| self.world.services.get(name) == service.as_ref())
            && self.patterns.admits_again(namespace, &judged.patterns);
        is_same.then_some(judged)
    }
}
