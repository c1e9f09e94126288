//! From objects to what a proxy serves and what statuses say.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Listener, RouteKind, World,
    attach::{Attacher, Candidate, Place},
    grpc, http,
    object::{Age, Meta, ParentRef},
    ports::target_ports,
    rules::{Judged, Rank},
    site::{Site, Sites},
    status::{ClassVerdict, GatewayVerdict, ListenerSetVerdict, RouteVerdict, Verdict},
    verdicts,
};
use crate::{
    NamespacedName,
    edge::{self, GatewayPort, HostMode, PortListeners, Route, Scheme},
};

/// What a proxy serves of Gateways, and what the statuses of all objects say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// What a proxy serves.
    pub gateways: BTreeMap<GatewayPort, PortListeners>,
    /// Verdicts about our GatewayClasses.
    pub classes: BTreeMap<String, ClassVerdict>,
    /// Verdicts about our Gateways.
    pub verdicts: BTreeMap<NamespacedName, GatewayVerdict>,
    /// Verdicts about ListenerSets of our Gateways.
    pub listener_sets: BTreeMap<NamespacedName, ListenerSetVerdict>,
    /// Verdicts about all routes. Routes without a parent of ours have an empty one.
    pub routes: BTreeMap<(RouteKind, NamespacedName), RouteVerdict>,
}

/// Judges all objects. The same input gives the same output.
pub fn resolve(world: &World<'_>) -> Resolved {
    let sites = Sites::new(world);
    let mut resolver = Resolver {
        world,
        sites: &sites,
        attacher: Attacher::default(),
        attached: BTreeMap::new(),
        hosts: BTreeMap::new(),
        routes: BTreeMap::new(),
    };
    for route in candidates(world) {
        resolver.add(route);
    }
    let gateways = resolver.gateways();
    let Resolver {
        attached, routes, ..
    } = resolver;
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
        classes: classes
            .map(|(name, class)| (name.clone(), verdicts::class(world, class)))
            .collect(),
        verdicts: verdicts.collect(),
        listener_sets: listener_sets.collect(),
        routes,
    }
}

/// A route of any kind.
struct AnyRoute<'a> {
    kind: RouteKind,
    meta: &'a Meta,
    parents: &'a [ParentRef],
    hostnames: &'a [String],
    judged: Judged,
}

/// All routes, older ones first.
fn candidates<'a>(world: &World<'a>) -> Vec<AnyRoute<'a>> {
    let objects = world.objects;
    let http = objects.http_routes.values().map(|route| AnyRoute {
        kind: RouteKind::Http,
        meta: &route.meta,
        parents: &route.spec.parent_refs,
        hostnames: &route.spec.hostnames,
        judged: http::judge(world, route),
    });
    let grpc = objects.grpc_routes.values().map(|route| AnyRoute {
        kind: RouteKind::Grpc,
        meta: &route.meta,
        parents: &route.spec.parent_refs,
        hostnames: &route.spec.hostnames,
        judged: grpc::judge(world, route),
    });
    let tls = objects.tls_routes.values().map(|route| AnyRoute {
        kind: RouteKind::Tls,
        meta: &route.meta,
        parents: &route.spec.parent_refs,
        hostnames: &route.spec.hostnames,
        judged: Judged::default(),
    });
    let tcp = objects
        .tcp_routes
        .values()
        .map(|route| (RouteKind::Tcp, route));
    let udp = objects
        .udp_routes
        .values()
        .map(|route| (RouteKind::Udp, route));
    let l4 = tcp.chain(udp).map(|(kind, route)| AnyRoute {
        kind,
        meta: &route.meta,
        parents: &route.spec.parent_refs,
        hostnames: &[],
        judged: Judged::default(),
    });
    let mut all: Vec<AnyRoute<'a>> = http.chain(grpc).chain(tls).chain(l4).collect();
    all.sort_by_cached_key(|route| (route.meta.age(), route.kind));
    all
}

/// Routes of a host of a listener, with their order.
type Ranked = Vec<(Rank, Arc<Route>)>;

struct Resolver<'a> {
    world: &'a World<'a>,
    sites: &'a Sites<'a>,
    attacher: Attacher,
    /// Number of attached routes, by Gateway and listener.
    attached: BTreeMap<NamespacedName, Vec<usize>>,
    /// Routes by Gateway, listener and host.
    hosts: BTreeMap<NamespacedName, BTreeMap<usize, BTreeMap<String, Ranked>>>,
    routes: BTreeMap<(RouteKind, NamespacedName), RouteVerdict>,
}

impl Resolver<'_> {
    fn add(&mut self, route: AnyRoute<'_>) {
        let judged = route.judged;
        let candidate = Candidate {
            kind: route.kind,
            meta: route.meta,
            parents: route.parents,
            hostnames: route.hostnames,
            refusal: judged.refusal.clone(),
        };
        let attachments = self.attacher.attach(self.world, self.sites, &candidate);
        // Whether the route is accepted there.
        let mut places: BTreeMap<&Place, bool> = BTreeMap::new();
        let mut verdict = RouteVerdict::default();
        for attachment in &attachments {
            let mut conditions = vec![
                Verdict::of("Accepted", attachment.result.as_ref().err()),
                Verdict::of("ResolvedRefs", judged.unresolved.as_ref()),
            ];
            for place in &attachment.places {
                *places.entry(place).or_default() |= attachment.result.is_ok();
            }
            if attachment.result.is_ok() {
                // Only while it holds.
                conditions.extend(judged.partial.iter().map(|problem| Verdict {
                    is_true: true,
                    ..Verdict::no("PartiallyInvalid", problem)
                }));
            }
            verdict
                .parents
                .push((attachment.parent.clone(), conditions));
        }
        for (place, is_accepted) in places {
            let listeners = self.sites.listeners(&place.gateway).len();
            let attached = self.attached.entry(place.gateway.clone());
            let attached = attached.or_insert_with(|| vec![0; listeners]);
            attached[place.listener] += usize::from(is_accepted);
            let hosts = self.hosts.entry(place.gateway.clone()).or_default();
            let hosts = hosts.entry(place.listener).or_default();
            for hostname in &place.hostnames {
                let ranked = hosts.entry(hostname.clone()).or_default();
                ranked.extend(judged.routes.iter().cloned());
            }
        }
        let key = (route.kind, route.meta.name.clone());
        self.routes.insert(key, verdict);
    }

    /// What a proxy serves.
    fn gateways(&mut self) -> BTreeMap<GatewayPort, PortListeners> {
        let mut ports: BTreeMap<GatewayPort, PortListeners> = BTreeMap::new();
        let mut ages: BTreeMap<GatewayPort, Age> = BTreeMap::new();
        for (name, site) in &self.sites.sites {
            let mut hosts = self.hosts.remove(name).unwrap_or_default();
            for (index, listener) in site.listeners.iter().enumerate() {
                let Some(scheme) = scheme(site, listener) else {
                    continue;
                };
                let port = GatewayPort {
                    gateway: name.clone(),
                    port: listener.port,
                };
                ages.insert(port.clone(), site.gateway.meta.age());
                let entry = ports.entry(port).or_insert_with(|| PortListeners {
                    target_port: 0,
                    scheme,
                    listeners: Vec::new(),
                });
                let hosts = hosts.remove(&index).unwrap_or_default();
                entry.listeners.push(served(listener, hosts));
            }
        }
        let targets = target_ports(&ages, self.world.target_ports);
        // More ports than there are target ports are not served.
        ports.retain(|port, entry| match targets.get(port) {
            Some(target) => {
                entry.target_port = *target;
                true
            }
            None => false,
        });
        ports
    }
}

/// The protocol of a listener that a proxy serves.
fn scheme(site: &Site<'_>, listener: &Listener<'_>) -> Option<Scheme> {
    let is_http =
        listener.kinds.contains(&RouteKind::Http) || listener.kinds.contains(&RouteKind::Grpc);
    let scheme = match listener.terminates_tls() {
        true => Scheme::Https,
        false => Scheme::Http,
    };
    (is_http && site.serves(listener)).then_some(scheme)
}

/// A listener with its hosts.
fn served(listener: &Listener<'_>, hosts: BTreeMap<String, Ranked>) -> edge::Listener {
    let hosts = hosts.into_iter().map(|(name, mut routes)| {
        routes.sort_by(|(one, _), (other, _)| one.cmp(other));
        let host = edge::Host {
            asks_certificate: false,
            routes: routes.into_iter().map(|(_, route)| route).collect(),
        };
        (name, host)
    });
    edge::Listener {
        name: listener.label(),
        hostname: listener.hostname.clone(),
        mode: HostMode::Suffix,
        hosts: hosts.collect(),
        default_certificate: listener.certificates.first().cloned(),
        ..edge::Listener::default()
    }
}
