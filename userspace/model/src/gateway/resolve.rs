//! From objects to what a proxy serves and what statuses say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Holder, L4Backend, L4Listener, L4Target, Listener, Problem, RouteKind, World,
    attach::{Attacher, Attachment, Candidate, Place, target},
    backend_tls::JudgedTarget,
    candidates::{AnyRoute, candidates},
    certificates::Certificates,
    l4,
    object::{Age, GROUP, ParentRef, TargetKind},
    ports::target_ports,
    resolver::Judge,
    route_policies::RoutePolicies,
    rules::{Judged, Rank},
    served::{close, scheme, served, shown, shown_by},
    site::Sites,
    status::{
        ClassVerdict, GatewayVerdict, ListenerSetVerdict, PolicyVerdict, RouteVerdict, Verdict,
    },
    streams::{self, JudgedStream},
    verdicts,
};
use crate::{
    NamespacedName,
    edge::{GatewayPort, PortListeners, Route, Stream},
};

/// What a proxy serves of Gateways, and what the statuses of all objects say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// What a proxy serves.
    pub gateways: BTreeMap<GatewayPort, PortListeners>,
    /// What TCP and UDP listeners ask for.
    pub l4: BTreeMap<L4Listener, L4Target>,
    /// Verdicts about our GatewayClasses.
    pub classes: BTreeMap<String, ClassVerdict>,
    /// Verdicts about our Gateways.
    pub verdicts: BTreeMap<NamespacedName, GatewayVerdict>,
    /// Verdicts about ListenerSets of our Gateways.
    pub listener_sets: BTreeMap<NamespacedName, ListenerSetVerdict>,
    /// Verdicts about all routes. Routes without a parent of ours have an empty one.
    pub routes: BTreeMap<(RouteKind, NamespacedName), RouteVerdict>,
    /// Verdicts about all BackendTLSPolicies. Those that no Gateway of ours uses have an empty one.
    pub backend_tls: BTreeMap<NamespacedName, PolicyVerdict>,
    /// Verdicts about all RoutePolicies. Those that concern no Gateway of ours have an empty one.
    pub route_policies: BTreeMap<NamespacedName, PolicyVerdict>,
}

/// Judges all objects once.
pub(super) fn pass(
    world: &World<'_>,
    certificates: &mut Certificates,
    judge: &mut Judge<'_>,
) -> Resolved {
    let mut sites = Sites::new(world, certificates);
    let target_ports = give_ports(world, &mut sites);
    let mut pass = Pass {
        sites: &sites,
        judge,
        attacher: Attacher::default(),
        attached: BTreeMap::new(),
        hosts: BTreeMap::new(),
        streams: BTreeMap::new(),
        l4: l4_listeners(&sites),
        routes: BTreeMap::new(),
        users: BTreeMap::new(),
        route_policies: RoutePolicies::new(world),
        gateways_of: BTreeMap::new(),
    };
    for route in candidates(world) {
        pass.add(world, route);
    }
    let gateways = pass.gateways(&target_ports);
    let backend_tls = pass.policies();
    let route_policies = pass
        .route_policies
        .verdicts(world, &sites.sets, &pass.gateways_of);
    let Pass {
        attached,
        routes,
        l4,
        ..
    } = pass;
    let numbers = |name: &NamespacedName| attached.get(name).map_or(&[][..], Vec::as_slice);
    let classes = world.objects.classes.iter();
    let classes = classes.filter(|(_, class)| world.options.owns(class));
    let listener_sets = sites
        .sets
        .iter()
        .filter_map(|(name, (gateway, is_allowed))| {
            let site = sites.sites.get(gateway)?;
            let attached = numbers(gateway);
            let verdict = verdicts::listener_set(world, site, name, *is_allowed, attached);
            Some((name.clone(), verdict))
        });
    let verdicts = sites.sites.iter().map(|(name, site)| {
        let verdict = verdicts::gateway(world, &sites, site, numbers(name));
        (name.clone(), verdict)
    });
    Resolved {
        gateways,
        l4,
        classes: classes
            .map(|(name, class)| (name.clone(), verdicts::class(world, class)))
            .collect(),
        verdicts: verdicts.collect(),
        listener_sets: listener_sets.collect(),
        routes,
        backend_tls,
        route_policies,
    }
}

/// Gives target ports to the ports of proxies, also to those that are not served now: a Service may still send
/// connections there. Listeners of a port that gets none are refused.
fn give_ports(world: &World<'_>, sites: &mut Sites<'_>) -> BTreeMap<GatewayPort, u16> {
    let mut ages: BTreeMap<GatewayPort, Age> = BTreeMap::new();
    for (name, site) in &sites.sites {
        let listeners = site.listeners.iter();
        for listener in listeners.filter(|one| scheme(one).is_some()) {
            let port = GatewayPort {
                gateway: name.clone(),
                port: listener.port,
            };
            // A young ListenerSet takes no port from an older Gateway.
            let set = match &listener.holder {
                Holder::Gateway(_) => None,
                Holder::ListenerSet(name) => world.objects.listener_sets.get(name),
            };
            let age = set.map_or_else(|| site.gateway.meta.age(), |set| set.meta.age());
            let known = ages.entry(port).or_insert_with(|| age.clone());
            *known = age.min(known.clone());
        }
    }
    let reserved = &world.options.reserved_ports;
    let ports = target_ports(&ages, reserved);
    for port in ages.keys().filter(|port| !ports.contains_key(port)) {
        let message = "all ports of the nodes that Gateways can have are in use";
        let problem = Problem::new("PortUnavailable", message);
        if let Some(site) = sites.sites.get_mut(&port.gateway) {
            site.refuse_port(port.port, &problem);
        }
    }
    ports
}

/// The listeners of TCP and UDP that are served.
fn l4_listeners(sites: &Sites<'_>) -> BTreeMap<L4Listener, L4Target> {
    let mut listeners = BTreeMap::new();
    for (name, site) in &sites.sites {
        let served = site.listeners.iter().filter(|one| site.serves(one));
        listeners.extend(served.filter_map(|one| {
            let target = L4Target {
                listener: one.label(),
                ..L4Target::default()
            };
            Some((l4_listener(name, one)?, target))
        }));
    }
    listeners
}

fn l4_listener(gateway: &NamespacedName, listener: &Listener<'_>) -> Option<L4Listener> {
    Some(L4Listener {
        gateway: gateway.clone(),
        port: listener.port,
        protocol: listener.l4_protocol()?,
    })
}

/// Routes of a host of a listener, with their order.
pub(super) type Ranked = Vec<(Rank, Arc<Route>)>;

struct Pass<'a, 'b> {
    sites: &'a Sites<'a>,
    judge: &'a mut Judge<'b>,
    attacher: Attacher,
    /// Number of attached routes, by Gateway and listener.
    attached: BTreeMap<NamespacedName, Vec<usize>>,
    /// Routes by Gateway, listener and host.
    hosts: BTreeMap<NamespacedName, BTreeMap<usize, BTreeMap<String, Ranked>>>,
    /// TLSRoutes in the same way; of several for a host the oldest.
    streams: BTreeMap<NamespacedName, BTreeMap<usize, BTreeMap<String, Arc<Stream>>>>,
    l4: BTreeMap<L4Listener, L4Target>,
    routes: BTreeMap<(RouteKind, NamespacedName), RouteVerdict>,
    /// Gateways whose routes use a Service with a BackendTLSPolicy.
    users: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    route_policies: RoutePolicies,
    /// Gateways that are parents of routes with a RoutePolicy.
    gateways_of: BTreeMap<(TargetKind, NamespacedName), BTreeSet<NamespacedName>>,
}

/// A route, judged.
enum Outcome {
    Requests(Arc<Judged>),
    Stream(JudgedStream),
    L4(Vec<L4Backend>, Option<Problem>),
}

impl Outcome {
    /// The first reference that is not valid where connections are decrypted, or are not.
    fn unresolved(&self, is_decrypted: bool) -> Option<&Problem> {
        match self {
            Self::Requests(judged) => judged.unresolved.as_ref(),
            Self::Stream(judged) => judged.carrying(is_decrypted).unresolved.as_ref(),
            Self::L4(_, unresolved) => unresolved.as_ref(),
        }
    }

    fn requests(&self) -> Option<&Judged> {
        match self {
            Self::Requests(judged) => Some(judged),
            Self::Stream(_) | Self::L4(..) => None,
        }
    }

    /// Services that the route names and BackendTLSPolicies apply to.
    fn services(&self, is_decrypted: bool) -> Vec<&NamespacedName> {
        match self {
            Self::Requests(judged) => judged.services.keys().collect(),
            Self::Stream(judged) if is_decrypted => judged.services.iter().collect(),
            Self::Stream(_) | Self::L4(..) => Vec::new(),
        }
    }
}

impl Pass<'_, '_> {
    fn add(&mut self, world: &World<'_>, route: AnyRoute<'_>) {
        let (kind, meta) = (route.kind(), route.meta());
        let key = (kind, meta.name.clone());
        let parents = route.parents().iter();
        let gateways = parents.filter_map(|parent| Some(target(self.sites, meta, parent)?.0));
        let gateways: BTreeSet<NamespacedName> = gateways.collect();
        // Other routes are not read: they belong to other controllers.
        if gateways.is_empty() {
            self.routes.insert(key, RouteVerdict::default());
            return;
        }
        let policy_kind = match kind {
            RouteKind::Http => Some(TargetKind::HttpRoute),
            RouteKind::Grpc => Some(TargetKind::GrpcRoute),
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => None,
        };
        if let Some(kind) = policy_kind.filter(|kind| self.route_policies.names(*kind, &meta.name))
        {
            self.gateways_of.insert((kind, meta.name.clone()), gateways);
        }
        let outcome = self.outcome(route);
        let candidate = Candidate {
            kind,
            meta,
            parents: route.parents(),
            hostnames: route.hostnames(),
            refusal: outcome.requests().and_then(|judged| judged.refusal.clone()),
        };
        let attachments = self.attacher.attach(world, self.sites, &candidate);
        // Whether the route is accepted there.
        let mut places: BTreeMap<&Place, bool> = BTreeMap::new();
        let mut verdict = RouteVerdict::default();
        for attachment in &attachments {
            for place in &attachment.places {
                *places.entry(place).or_default() |= attachment.result.is_ok();
            }
            let conditions = conditions(self.sites, attachment, &outcome);
            verdict
                .parents
                .push((attachment.parent.clone(), conditions));
        }
        for (place, is_accepted) in places {
            let listeners = self.sites.listeners(&place.gateway).len();
            let attached = self.attached.entry(place.gateway.clone());
            let attached = attached.or_insert_with(|| vec![0; listeners]);
            attached[place.listener] += usize::from(is_accepted);
            if is_accepted {
                self.note_users(place, &outcome);
            }
            self.place(place, &outcome, is_accepted, &meta.name);
        }
        self.routes.insert(key, verdict);
    }

    fn outcome(&mut self, route: AnyRoute<'_>) -> Outcome {
        let (world, policies) = (self.judge.world, self.judge.policies);
        match route {
            AnyRoute::Http(route) => Outcome::Requests(self.judge.http(route)),
            AnyRoute::Grpc(route) => Outcome::Requests(self.judge.grpc(route)),
            AnyRoute::Tls(route) => Outcome::Stream(streams::judge(world, policies, route)),
            AnyRoute::L4(route, protocol) => {
                let (backends, unresolved) = l4::judge(world, policies, route, protocol);
                Outcome::L4(backends, unresolved)
            }
        }
    }

    /// Serves a route at a listener.
    fn place(
        &mut self,
        place: &Place,
        outcome: &Outcome,
        is_accepted: bool,
        name: &NamespacedName,
    ) {
        let Some(site) = self.sites.sites.get(&place.gateway) else {
            return;
        };
        let Some(listener) = site.listeners.get(place.listener) else {
            return;
        };
        match outcome {
            // Also of a refused route: its requests must not get to others.
            Outcome::Requests(judged) => {
                let hosts = self.hosts.entry(place.gateway.clone()).or_default();
                let hosts = hosts.entry(place.listener).or_default();
                for hostname in &place.hostnames {
                    let ranked = hosts.entry(hostname.clone()).or_default();
                    let routes = judged.routes.iter();
                    ranked.extend(routes.map(|(rank, route)| {
                        let route = shown(site, route);
                        let policies = &self.route_policies;
                        let applied = policies.applied(&place.gateway, listener, route);
                        (rank.clone(), applied)
                    }));
                }
            }
            Outcome::Stream(judged) => {
                let is_decrypted = listener.terminates_tls();
                let stream = &judged.carrying(is_decrypted).stream;
                let stream = match is_decrypted {
                    true => shown_by(site, stream),
                    false => stream.clone(),
                };
                let hosts = self.streams.entry(place.gateway.clone()).or_default();
                let hosts = hosts.entry(place.listener).or_default();
                for hostname in &place.hostnames {
                    let host = hosts.entry(hostname.clone());
                    host.or_insert_with(|| stream.clone());
                }
            }
            Outcome::L4(backends, _) if is_accepted => {
                let key = l4_listener(&place.gateway, listener);
                let target = key.and_then(|key| self.l4.get_mut(&key));
                // The first route is the oldest.
                if let Some(target) = target.filter(|target| target.route.is_none()) {
                    target.route = Some(name.clone());
                    target.backends.clone_from(backends);
                }
            }
            Outcome::L4(..) => {}
        }
    }

    fn note_users(&mut self, place: &Place, outcome: &Outcome) {
        let services = outcome
            .services(is_decrypted(self.sites, place))
            .into_iter();
        for service in services.filter(|service| self.judge.policies.has(service)) {
            let users = self.users.entry(service.clone()).or_default();
            users.insert(place.gateway.clone());
        }
    }

    /// The verdicts about policies.
    fn policies(&self) -> BTreeMap<NamespacedName, PolicyVerdict> {
        let judged = self.judge.policies.judged.iter();
        let verdicts = judged.map(|(name, policy)| {
            let mut gateways: BTreeMap<&NamespacedName, Vec<&JudgedTarget>> = BTreeMap::new();
            for target in &policy.targets {
                for gateway in self.users.get(&target.service).into_iter().flatten() {
                    gateways.entry(gateway).or_default().push(target);
                }
            }
            let ancestors = gateways.into_iter().map(|(gateway, targets)| {
                let refusal = policy.refusal_for(&targets);
                let conditions = vec![
                    Verdict::of("Accepted", refusal.as_ref()),
                    Verdict::of("ResolvedRefs", policy.unresolved.as_ref()),
                ];
                let parent = ParentRef {
                    group: GROUP.into(),
                    kind: "Gateway".into(),
                    namespace: Some(gateway.namespace.clone()),
                    name: gateway.name.clone(),
                    section_name: None,
                    port: None,
                };
                (parent, conditions)
            });
            let ancestors = ancestors.collect();
            (name.clone(), PolicyVerdict { ancestors })
        });
        verdicts.collect()
    }

    /// What a proxy serves.
    fn gateways(
        &mut self,
        target_ports: &BTreeMap<GatewayPort, u16>,
    ) -> BTreeMap<GatewayPort, PortListeners> {
        let mut ports: BTreeMap<GatewayPort, PortListeners> = BTreeMap::new();
        for (name, site) in &self.sites.sites {
            let mut hosts = self.hosts.remove(name).unwrap_or_default();
            let mut streams = self.streams.remove(name).unwrap_or_default();
            for (index, listener) in site.listeners.iter().enumerate() {
                let port = GatewayPort {
                    gateway: name.clone(),
                    port: listener.port,
                };
                let (Some(scheme), Some(target_port), true) = (
                    scheme(listener),
                    target_ports.get(&port),
                    site.serves(listener),
                ) else {
                    continue;
                };
                let entry = ports.entry(port).or_insert_with(|| PortListeners {
                    target_port: *target_port,
                    scheme,
                    listeners: Vec::new(),
                });
                let hosts = hosts.remove(&index).unwrap_or_default();
                let streams = streams.remove(&index).unwrap_or_default();
                let served = served(listener, hosts, streams);
                entry.listeners.push(Arc::new(served));
            }
        }
        for (name, site) in &self.sites.sites {
            close(name, site, &mut ports);
        }
        ports
    }
}

/// Whether a listener decrypts connections.
fn is_decrypted(sites: &Sites<'_>, place: &Place) -> bool {
    let listener = sites.listeners(&place.gateway).get(place.listener);
    listener.is_some_and(Listener::terminates_tls)
}

/// The conditions of a route at a parent.
fn conditions(sites: &Sites<'_>, attachment: &Attachment<'_>, outcome: &Outcome) -> Vec<Verdict> {
    let mut places = attachment.places.iter();
    let unresolved = match attachment.places.is_empty() {
        true => outcome.unresolved(false),
        false => places.find_map(|place| outcome.unresolved(is_decrypted(sites, place))),
    };
    let mut conditions = vec![
        Verdict::of("Accepted", attachment.result.as_ref().err()),
        Verdict::of("ResolvedRefs", unresolved),
    ];
    if attachment.result.is_ok() {
        // Only while it holds.
        let partial = outcome
            .requests()
            .and_then(|judged| judged.partial.as_ref());
        conditions.extend(partial.map(|problem| Verdict {
            is_true: true,
            ..Verdict::no("PartiallyInvalid", problem)
        }));
    }
    conditions
}
