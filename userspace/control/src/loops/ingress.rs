//! The loop of the proxy: events into objects, objects into routes and endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use headgate_model::{
    EndpointSlice, NamespacedName, ObjectName, Refusal, Service,
    ingress::{IngressOptions, Objects, Routes, UpstreamKey, endpoints, routes, serves},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{
    loops::reconcile::LIST_TIMEOUT,
    source::event::{Event, Interest, Kind},
};

/// Where a backend is, and the weight of each place.
pub type Endpoints = BTreeMap<SocketAddr, u32>;

/// A proxy, as the loop sees it.
pub trait Serve {
    /// From now on requests are routed so. Backends that the routes do not name are used no more.
    /// Says what it cannot take of it, by object and field: a certificate that is none.
    fn serve(&mut self, routes: Routes) -> Vec<Refusal>;

    /// From now on a backend is here. Before routes name a new one it was placed, so that no request
    /// finds it empty which is not.
    fn place(&mut self, key: &UpstreamKey, endpoints: Endpoints);
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressStatus {
    /// Raised by each pass.
    pub revision: u64,
    /// Whether routes were made from a full list.
    pub is_synced: bool,
    /// Ingresses that are served.
    pub ingresses: Vec<NamespacedName>,
    /// What was asked for and is not done.
    pub refusals: Vec<Refusal>,
    /// Why the source cannot be reached.
    pub disconnected: Option<String>,
    /// Events taken up, by kind.
    pub events: BTreeMap<Kind, u64>,
    /// When the last pass ended, and how long it took.
    pub last_pass: Option<(SystemTime, Duration)>,
}

/// Runs until `shutdown`: events that come together are one pass.
pub async fn run_ingress(
    mut events: mpsc::Receiver<Event>,
    options: IngressOptions,
    server: impl Serve,
    status: watch::Sender<IngressStatus>,
    shutdown: impl Future<Output = ()>,
) {
    let mut router = Router::new(server, options);
    let mut shutdown = std::pin::pin!(shutdown);
    let give_up = Instant::now() + LIST_TIMEOUT;
    loop {
        let is_listed = router.missing.is_empty();
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
        if router.missing.is_empty() {
            router.pass();
        }
        // While the list is awaited as well: why it does not come is to be seen.
        status.send_replace(router.status.clone());
    }
}

/// State of the loop.
struct Router<S> {
    server: S,
    options: IngressOptions,
    objects: Objects,
    /// The Service that each slice is of.
    slices: BTreeMap<NamespacedName, NamespacedName>,
    missing: BTreeSet<Kind>,
    /// Whether something changed that routes are made from.
    is_stale: bool,
    /// Services whose endpoints may have changed.
    touched: BTreeSet<NamespacedName>,
    /// What is served, once anything is.
    routes: Option<Routes>,
    /// What the server was told of backends, by Service.
    placed: BTreeMap<NamespacedName, BTreeMap<UpstreamKey, Endpoints>>,
    /// What the source refused.
    refused: BTreeMap<ObjectName, Vec<Refusal>>,
    /// What the server refused.
    unserved: Vec<Refusal>,
    status: IngressStatus,
}

impl<S: Serve> Router<S> {
    fn new(server: S, options: IngressOptions) -> Self {
        Self {
            server,
            options,
            objects: Objects::default(),
            slices: BTreeMap::new(),
            missing: Interest::Ingress.kinds().iter().copied().collect(),
            is_stale: true,
            touched: BTreeSet::new(),
            routes: None,
            placed: BTreeMap::new(),
            refused: BTreeMap::new(),
            unserved: Vec::new(),
            status: IngressStatus::default(),
        }
    }

    /// Takes up what a source told.
    fn note(&mut self, event: Event) {
        match event {
            Event::Ingress(name, ingress) => {
                self.count(Kind::Ingress);
                self.is_stale |= put(&mut self.objects.ingresses, name, ingress);
            }
            Event::IngressClass(name, class) => {
                self.count(Kind::IngressClass);
                self.is_stale |= put(&mut self.objects.classes, name, class);
            }
            Event::Secret(name, secret) => {
                self.count(Kind::Secret);
                self.is_stale |= put(&mut self.objects.secrets, name, secret);
            }
            Event::Service(name, service) => {
                self.count(Kind::Service);
                self.set_service(name, service);
            }
            Event::Slice(name, slice) => {
                self.count(Kind::EndpointSlice);
                self.set_slice(name, slice);
            }
            // Nobody tells a proxy of nodes.
            Event::Node(_) => {}
            Event::Listed(kind) => {
                self.missing.remove(&kind);
            }
            Event::Refused(object, refusals) if refusals.is_empty() => {
                self.refused.remove(&object);
            }
            Event::Refused(object, refusals) => {
                self.refused.insert(object, refusals);
            }
            Event::Connected(Ok(())) => {
                info!("connected");
                self.status.disconnected = None;
            }
            Event::Connected(Err(reason)) => {
                warn!("disconnected: {reason}");
                self.status.disconnected = Some(reason);
            }
        }
    }

    fn count(&mut self, kind: Kind) {
        *self.status.events.entry(kind).or_default() += 1;
    }

    fn set_service(&mut self, name: NamespacedName, service: Option<Service>) {
        if put(&mut self.objects.services, name.clone(), service) {
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

    /// Serves although not everything was listed.
    fn stop_waiting(&mut self) {
        for kind in std::mem::take(&mut self.missing) {
            warn!(
                "{kind:?} was not listed within {} s: going on without",
                LIST_TIMEOUT.as_secs()
            );
        }
    }

    /// Brings the server in step.
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
        self.tell_refusals();
        self.status.last_pass = Some((SystemTime::now(), start.elapsed()));
    }

    fn route(&mut self) {
        let routes = routes(&self.objects, &self.options);
        if self.routes.as_ref() == Some(&routes) {
            return;
        }
        let keys: BTreeSet<&UpstreamKey> = routes.upstreams().collect();
        for key in &keys {
            self.place(key);
        }
        self.unserved = self.server.serve(routes.clone());
        for placed in self.placed.values_mut() {
            placed.retain(|key, _| keys.contains(key));
        }
        self.placed.retain(|_, placed| !placed.is_empty());
        info!(
            ingresses = routes.served.len(),
            hosts = routes.hosts.len(),
            backends = keys.len(),
            refusals = routes.refusals.len() + self.unserved.len(),
            "routed"
        );
        self.status.ingresses.clone_from(&routes.served);
        self.routes = Some(routes);
    }

    /// Tells the server where a backend is, if it does not know.
    fn place(&mut self, key: &UpstreamKey) {
        let now = endpoints(&self.objects, key);
        let placed = self.placed.entry(key.service.clone()).or_default();
        if placed.get(key) != Some(&now) {
            placed.insert(key.clone(), now.clone());
            self.server.place(key, now);
        }
    }

    fn tell_refusals(&mut self) {
        let objects = self.refused.iter();
        let told = objects.filter(|(object, _)| self.is_ours(object));
        let told = told.flat_map(|(_, refusals)| refusals);
        let routes = self.routes.iter().flat_map(|routes| &routes.refusals);
        let refusals: Vec<Refusal> = told.chain(routes).chain(&self.unserved).cloned().collect();
        for refusal in &refusals {
            if !self.status.refusals.contains(refusal) {
                warn!("{refusal}");
            }
        }
        self.status.refusals = refusals;
    }

    /// What is wrong with an Ingress of somebody else is not ours to say.
    fn is_ours(&self, object: &ObjectName) -> bool {
        let ObjectName::Ingress(name) = object else {
            return true;
        };
        let ingress = self.objects.ingresses.get(name);
        ingress.is_some_and(|ingress| serves(ingress, &self.objects.classes, &self.options))
    }
}

/// Puts a value in its place or takes it away, and says whether that changed anything.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) if map.get(&key) == Some(&value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}
