//! The Kubernetes API: watches that list again after 410 Gone and reconnect with back-off, as
//! `kube_runtime::watcher` does.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, future::join_all};
use headgate_model::NamespacedName;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Node, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    convert::{self, Object, SKIPPED_SECRETS},
    event::{Event, Interest},
};

/// A watch that failed and goes on says so only when something changes. If it fails no more for this
/// long it goes on: attempts are at most half of it apart, and take as long at most.
const QUIET: Duration = Duration::from_secs(70);

/// A receiver that is gone ends a watch.
struct Closed;

/// Tells what the API server says of Services, EndpointSlices and the node of this name, now and
/// after each change, until the receiver is gone.
pub async fn follow(client: Client, node: &str, events: mpsc::Sender<Event>) {
    let source = Source::new(Interest::Services, events);
    let node = watcher::Config::default().fields(&format!("metadata.name={node}"));
    futures::join!(
        source.watch(vec![Api::<Service>::all(client.clone())], any()),
        source.watch(vec![Api::<EndpointSlice>::all(client.clone())], any()),
        source.watch(vec![Api::<Node>::all(client)], node),
    );
}

/// Tells what the API server says of Ingresses, their classes, and of Services, EndpointSlices and
/// Secrets, now and after each change, until the receiver is gone. If namespaces are given, of those
/// alone, and nothing is asked about others.
pub async fn follow_ingresses(
    client: Client,
    namespaces: &BTreeSet<String>,
    events: mpsc::Sender<Event>,
) {
    let source = Source::new(Interest::Ingress, events);
    let wanted = SKIPPED_SECRETS.map(|type_| format!("type!={type_}"));
    let secrets = watcher::Config::default().fields(&wanted.join(","));
    futures::join!(
        source.watch(apis::<Ingress>(&client, namespaces), any()),
        source.watch(vec![Api::<IngressClass>::all(client.clone())], any()),
        source.watch(apis::<Service>(&client, namespaces), any()),
        source.watch(apis::<EndpointSlice>(&client, namespaces), any()),
        source.watch(apis::<Secret>(&client, namespaces), secrets),
    );
}

fn any() -> watcher::Config {
    watcher::Config::default()
}

/// One for each namespace; one for all if none is named.
pub(crate) fn apis<K>(client: &Client, namespaces: &BTreeSet<String>) -> Vec<Api<K>>
where
    K: Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    if namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    let namespaces = namespaces.iter();
    namespaces
        .map(|namespace| Api::namespaced(client.clone(), namespace))
        .collect()
}

struct Source {
    interest: Interest,
    events: mpsc::Sender<Event>,
    /// Watches whose list failed, be it that they may not ask for it.
    failing: AtomicUsize,
}

impl Source {
    fn new(interest: Interest, events: mpsc::Sender<Event>) -> Self {
        Self {
            interest,
            events,
            failing: AtomicUsize::new(0),
        }
    }

    /// Watches a kind in several places.
    async fn watch<K: Object>(&self, apis: Vec<Api<K>>, config: watcher::Config) {
        let unlisted = AtomicUsize::new(apis.len());
        let watches = apis
            .into_iter()
            .map(|api| self.watch_one(api, config.clone(), &unlisted));
        // They end when the receiver is gone, all of them.
        join_all(watches).await;
    }

    async fn watch_one<K: Object>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        unlisted: &AtomicUsize,
    ) -> Result<(), Closed> {
        let kind = K::KIND;
        let mut stream = watcher(api, config).default_backoff().boxed();
        // Names told so far, and those of the list that is being read.
        let mut known = BTreeSet::new();
        let mut listed = BTreeSet::new();
        let mut is_connected = true;
        let mut is_failing = false;
        let mut is_listed = false;
        loop {
            // A list says when it is there, even of nothing.
            let next = match is_connected || is_failing {
                true => stream.try_next().await,
                false => match timeout(QUIET, stream.try_next()).await {
                    Ok(next) => next,
                    Err(_elapsed) => {
                        is_connected = true;
                        self.tell_connected().await?;
                        continue;
                    }
                },
            };
            let event = match next {
                // It is about to list, and nobody has answered yet.
                Ok(Some(watcher::Event::Init)) => {
                    listed.clear();
                    continue;
                }
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(error) => {
                    if is_connected {
                        let reason = format!("{kind:?}: {error}");
                        self.send(Event::Connected(Err(reason))).await?;
                    }
                    is_connected = false;
                    let is_list = matches!(error, watcher::Error::InitialListFailed(_));
                    if is_list && !std::mem::replace(&mut is_failing, true) {
                        self.failing.fetch_add(1, Ordering::Relaxed);
                    }
                    continue;
                }
            };
            if std::mem::replace(&mut is_failing, false) {
                self.failing.fetch_sub(1, Ordering::Relaxed);
            }
            if !std::mem::replace(&mut is_connected, true) {
                self.tell_connected().await?;
            }
            match event {
                watcher::Event::Init => {}
                watcher::Event::InitApply(object) => {
                    let name = self.tell(&object).await?;
                    listed.insert(name.clone());
                    known.insert(name);
                }
                watcher::Event::Apply(object) => {
                    known.insert(self.tell(&object).await?);
                }
                watcher::Event::Delete(object) => {
                    let name = convert::name(&object);
                    known.remove(&name);
                    self.send(Event::Refused(kind.object(&name), Vec::new()))
                        .await?;
                    self.send(kind.gone(name)).await?;
                }
                watcher::Event::InitDone => {
                    // What went away while nobody watched.
                    for name in known.difference(&listed) {
                        self.send(Event::Refused(kind.object(name), Vec::new()))
                            .await?;
                        self.send(kind.gone(name.clone())).await?;
                    }
                    known = std::mem::take(&mut listed);
                    let is_first = !std::mem::replace(&mut is_listed, true);
                    if is_first && unlisted.fetch_sub(1, Ordering::Relaxed) == 1 {
                        self.send(Event::Listed(kind)).await?;
                    }
                }
            }
        }
    }

    /// Says that the server can be reached, unless it still refuses something.
    async fn tell_connected(&self) -> Result<(), Closed> {
        match self.failing.load(Ordering::Relaxed) {
            0 => self.send(Event::Connected(Ok(()))).await,
            _ => Ok(()),
        }
    }

    /// Tells what an object says, and returns its name.
    async fn tell<K: Object>(&self, object: &K) -> Result<NamespacedName, Closed> {
        let name = convert::name(object);
        for event in convert::events(object, name.clone(), self.interest) {
            self.send(event).await?;
        }
        Ok(name)
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_gone| Closed)
    }
}
