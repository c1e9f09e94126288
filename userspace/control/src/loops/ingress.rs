//! The loop that routes a proxy: events into objects, objects into routes and endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    time::SystemTime,
};

use headgate_model::{
    EndpointSlice, NamespacedName, ObjectName, Refusal,
    edge::{Edge, GatewayPort, PortListeners, UpstreamKey, UpstreamService, endpoints},
    gateway::{self, Addresses, GatewayOptions, Resolver, Servers, World, object::Difference},
    ingress::{IngressOptions, Objects, routes, serves},
    put,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, instrument, warn};

use super::{
    LIST_TIMEOUT,
    intake::{Intake, log_new},
    status::IngressStatus,
};
use crate::source::event::{Event, Interest, Kind};

/// Addresses of a backend, with their weights.
pub type Endpoints = BTreeMap<SocketAddr, u32>;

/// A proxy, as the loop sees it.
pub trait Serve {
    /// Replaces what is served. Backends that it does not name are no longer used. Returns
    /// what it refuses, by object and field, for example an invalid certificate.
    fn serve(&mut self, edge: Edge) -> Vec<Refusal>;

    /// Replaces the endpoints of a backend. A new backend gets its endpoints before routes name it,
    /// so that no request finds it empty.
    fn place(&mut self, key: &UpstreamKey, endpoints: Endpoints);
}

/// What a proxy serves.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// Options of Ingresses.
    pub ingress: IngressOptions,
    /// Options of Gateways; `None` if they are not served. Then the source need not send their objects.
    pub gateways: Option<GatewayOptions>,
}

impl From<IngressOptions> for EdgeOptions {
    /// Ingresses alone.
    fn from(ingress: IngressOptions) -> Self {
        Self {
            ingress,
            gateways: None,
        }
    }
}

impl EdgeOptions {
    /// Returns which objects are needed.
    pub fn interest(&self) -> Interest {
        match self.gateways {
            Some(_) => Interest::Gateways,
            None => Interest::Ingress,
        }
    }
}

/// Runs until `shutdown`, or until the source is gone. Events that arrive together are handled in
/// one pass.
pub async fn run_ingress(
    mut events: mpsc::Receiver<Event>,
    options: EdgeOptions,
    server: impl Serve,
    status: watch::Sender<IngressStatus>,
    shutdown: impl Future<Output = ()>,
) {
    let mut router = Router::new(server, options);
    let mut shutdown = std::pin::pin!(shutdown);
    let give_up = Instant::now() + LIST_TIMEOUT;
    loop {
        let is_listed = router.intake.missing.is_empty();
        tokio::select! {
            () = &mut shutdown => return,
            event = events.recv() => {
                let Some(event) = event else { return };
                router.note(event);
                while let Ok(event) = events.try_recv() {
                    router.note(event);
                }
            }
            () = sleep_until(give_up), if !is_listed => router.stop_waiting(),
        }
        if router.intake.missing.is_empty() {
            router.pass();
        }
        // While lists are awaited too: the status shows why they are missing.
        status.send_replace(router.status.clone());
    }
}

/// State of the loop.
struct Router<S> {
    server: S,
    options: EdgeOptions,
    objects: Objects,
    gateway_objects: gateway::Objects,
    resolver: Resolver,
    /// The Service of each slice.
    slices: BTreeMap<NamespacedName, NamespacedName>,
    intake: Intake,
    /// Whether something changed that routes are made from.
    is_stale: bool,
    /// Whether something changed that routes of Ingresses are made from.
    is_ingress_stale: bool,
    /// Services whose endpoints may have changed.
    touched: BTreeSet<NamespacedName>,
    /// What is served; `None` before the first.
    served: Option<Edge>,
    /// What Ingresses cannot have.
    refusals: Vec<Refusal>,
    /// The endpoints that the server has, by Service and backend.
    placed: BTreeMap<NamespacedName, BTreeMap<UpstreamKey, Endpoints>>,
    /// What the server refused.
    unserved: Vec<Refusal>,
    status: IngressStatus,
}

impl<S: Serve> Router<S> {
    fn new(server: S, options: EdgeOptions) -> Self {
        Self {
            server,
            intake: Intake::new(options.interest()),
            options,
            objects: Objects::default(),
            gateway_objects: gateway::Objects::default(),
            resolver: Resolver::default(),
            slices: BTreeMap::new(),
            is_stale: true,
            is_ingress_stale: true,
            touched: BTreeSet::new(),
            served: None,
            refusals: Vec::new(),
            placed: BTreeMap::new(),
            unserved: Vec::new(),
            status: IngressStatus::default(),
        }
    }

    /// Handles an event of the source.
    fn note(&mut self, event: Event) {
        let was_stale = std::mem::take(&mut self.is_stale);
        if matches!(event, Event::Listed(Kind::RoutePolicy)) {
            self.is_stale |= std::mem::take(&mut self.gateway_objects.lacks_policies);
        }
        let event = self.intake.note(event, &mut self.status.source);
        let is_of_gateway = matches!(event, Some(Event::Gateway(_)));
        self.apply(event);
        self.is_ingress_stale |= self.is_stale && !is_of_gateway;
        self.is_stale |= was_stale;
    }

    fn apply(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Ingress(name, ingress)) => {
                self.is_stale |= put(&mut self.objects.ingresses, &name, ingress);
            }
            Some(Event::IngressClass(name, class)) => {
                self.is_stale |= put(&mut self.objects.classes, &name, class);
            }
            Some(Event::Secret(name, secret)) => {
                self.is_stale |= put(&mut self.objects.secrets, &name, secret);
            }
            Some(Event::Gateway(change)) => {
                self.is_stale |= self.gateway_objects.apply(*change) == Difference::Asked;
            }
            Some(Event::Upstream(name, service)) => self.set_service(name, service),
            Some(Event::Slice(name, slice)) => self.set_slice(name, slice),
            // Sources send other objects to an agent only.
            _ => {}
        }
    }

    fn set_service(&mut self, name: NamespacedName, service: Option<UpstreamService>) {
        if put(&mut self.objects.services, &name, service) {
            self.is_stale = true;
            self.touched.insert(name);
        }
    }

    /// A slice may move from one Service to another.
    fn set_slice(&mut self, name: NamespacedName, slice: Option<EndpointSlice>) {
        let owner = slice.as_ref().map(|slice| slice.service.clone());
        let before = match &owner {
            Some(owner) => self.slices.insert(name.clone(), owner.clone()),
            None => self.slices.remove(&name),
        };
        if let Some(before) = before.filter(|before| Some(before) != owner.as_ref()) {
            if let Some(slices) = self.objects.slices.get_mut(&before) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.objects.slices.remove(&before);
                }
            }
            self.touched.insert(before);
        }
        if let Some(slice) = slice {
            let slices = self.objects.slices.entry(slice.service.clone());
            self.touched.insert(slice.service.clone());
            slices.or_default().insert(name, slice);
        }
    }

    /// Serves without the lists that are missing.
    fn stop_waiting(&mut self) {
        for kind in std::mem::take(&mut self.intake.missing) {
            if kind == Kind::RoutePolicy {
                warn!(timeout = ?LIST_TIMEOUT, "RoutePolicies are not listed in time: routes of Gateways are closed");
                self.gateway_objects.lacks_policies = true;
                continue;
            }
            warn!(?kind, timeout = ?LIST_TIMEOUT, "not listed in time; continuing without it");
        }
    }

    /// Runs one pass: gives the server what has changed since the last one.
    #[instrument(skip_all, fields(revision = self.status.revision + 1))]
    fn pass(&mut self) {
        let start = Instant::now();
        for service in std::mem::take(&mut self.touched) {
            let keys = self.placed.get(&service).into_iter().flatten();
            let keys: Vec<UpstreamKey> = keys.map(|(key, _)| key.clone()).collect();
            for key in &keys {
                self.place(key);
            }
        }
        if std::mem::take(&mut self.is_stale) {
            self.route();
        }
        self.status.revision += 1;
        self.status.is_synced = true;
        self.set_refusals();
        self.status.last_pass = Some((SystemTime::now(), start.elapsed()));
    }

    fn route(&mut self) {
        let is_ingress_stale = std::mem::take(&mut self.is_ingress_stale);
        let ingress = match self.served.as_ref().filter(|_| !is_ingress_stale) {
            Some(served) => served.ingress.clone(),
            None => {
                let routes = routes(&self.objects, &self.options.ingress);
                self.status.ingresses = routes.served;
                self.refusals = routes.refusals;
                routes.listener
            }
        };
        let edge = Edge {
            ingress,
            gateways: self.gateways(),
        };
        if self.served.as_ref() == Some(&edge) {
            return;
        }
        let keys: BTreeSet<&UpstreamKey> = edge.upstreams().collect();
        for key in &keys {
            // Those that are placed follow their Services and slices.
            if !self.is_placed(key) {
                self.place(key);
            }
        }
        self.unserved = self.server.serve(edge.clone());
        for placed in self.placed.values_mut() {
            placed.retain(|key, _| keys.contains(key));
        }
        self.placed.retain(|_, placed| !placed.is_empty());
        info!(
            ingresses = self.status.ingresses.len(),
            hosts = edge.ingress.hosts.len(),
            gateway_ports = edge.gateways.len(),
            backends = keys.len(),
            refusals = self.refusals.len() + self.unserved.len(),
            "routed"
        );
        self.served = Some(edge);
    }

    /// The listeners of Gateways.
    fn gateways(&mut self) -> BTreeMap<GatewayPort, PortListeners> {
        let Some(options) = &self.options.gateways else {
            return BTreeMap::new();
        };
        let world = World {
            objects: &self.gateway_objects,
            secrets: &self.objects.secrets,
            services: &self.objects.services,
            addresses: &Addresses::default(),
            servers: &Servers::default(),
            options,
        };
        self.resolver.resolve(&world).gateways
    }

    fn is_placed(&self, key: &UpstreamKey) -> bool {
        let placed = self.placed.get(&key.service);
        placed.is_some_and(|placed| placed.contains_key(key))
    }

    /// Gives the server the endpoints of a backend, unless it has them.
    fn place(&mut self, key: &UpstreamKey) {
        let now = endpoints(&self.objects.services, &self.objects.slices, key);
        let placed = self.placed.entry(key.service.clone()).or_default();
        if placed.get(key) != Some(&now) {
            placed.insert(key.clone(), now.clone());
            self.server.place(key, now);
        }
    }

    fn set_refusals(&mut self) {
        let objects = self.intake.refused.iter();
        let refused = objects.filter(|(object, _)| self.is_ours(object));
        let refused = refused.flat_map(|(_, refusals)| refusals);
        let refusals = refused.chain(&self.refusals);
        let refusals = refusals.chain(&self.unserved).cloned();
        let refusals: Vec<Refusal> = refusals.collect();
        log_new(&refusals, &self.status.refusals);
        self.status.refusals = refusals;
    }

    /// Whether refusals of an object are reported: not those of another controller's Ingress.
    fn is_ours(&self, object: &ObjectName) -> bool {
        let ObjectName::Ingress(name) = object else {
            return true;
        };
        let ingress = self.objects.ingresses.get(name);
        ingress.is_some_and(|ingress| serves(ingress, &self.objects.classes, &self.options.ingress))
    }
}
