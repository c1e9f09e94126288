//! The Kubernetes API: watches that list again after 410 Gone and reconnect with back-off, as
//! `kube_runtime::watcher` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, TryStreamExt, future::join_all};
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
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};
use tower::service_fn;

use crate::source::{
    convert::{self, Object, SKIPPED_SECRETS},
    event::{Event, Interest},
};

/// A watch that failed is told to go on when an answer is this old and nothing was wrong with it.
const SETTLED: Duration = Duration::from_secs(1);

/// A receiver that is gone ends a watch.
struct Closed;

/// Tells what the API server says of Services, EndpointSlices and the node of this name, now and
/// after each change, until the receiver is gone.
pub async fn follow(client: Client, node: &str, events: mpsc::Sender<Event>) {
    let source = Source::new(Interest::Services, events);
    let node = watcher::Config::default().fields(&format!("metadata.name={node}"));
    futures::join!(
        source.watch(&client, vec![Api::<Service>::all], any()),
        source.watch(&client, vec![Api::<EndpointSlice>::all], any()),
        source.watch(&client, vec![Api::<Node>::all], node),
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
        source.watch(&client, apis::<Ingress>(namespaces), any()),
        source.watch(&client, vec![Api::<IngressClass>::all], any()),
        source.watch(&client, apis::<Service>(namespaces), any()),
        source.watch(&client, apis::<EndpointSlice>(namespaces), any()),
        source.watch(&client, apis::<Secret>(namespaces), secrets),
    );
}

fn any() -> watcher::Config {
    watcher::Config::default()
}

/// One for each namespace; one for all if none is named.
pub(crate) fn apis<K>(namespaces: &BTreeSet<String>) -> Vec<impl Fn(Client) -> Api<K>>
where
    K: Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    let all = namespaces.is_empty().then_some(None);
    let places = all.into_iter().chain(namespaces.iter().map(Some));
    let apis = places.map(|place| {
        move |client| match place {
            None => Api::all(client),
            Some(namespace) => Api::namespaced(client, namespace),
        }
    });
    apis.collect()
}

/// The client, which notifies of each answer that is a success.
fn observed(client: Client, answered: Arc<Notify>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let send = move |request| {
        let (client, answered) = (client.clone(), Arc::clone(&answered));
        async move {
            let response = client.send(request).await?;
            if response.status().is_success() {
                answered.notify_one();
            }
            Ok::<_, kube::Error>(response)
        }
    };
    Client::new(service_fn(send), namespace)
}

struct Source {
    interest: Interest,
    events: mpsc::Sender<Event>,
    /// Why watches do not go on, be it that they may not ask, by what they ask for.
    failing: Mutex<BTreeMap<String, String>>,
}

impl Source {
    fn new(interest: Interest, events: mpsc::Sender<Event>) -> Self {
        Self {
            interest,
            events,
            failing: Mutex::default(),
        }
    }

    /// Watches a kind in several places.
    async fn watch<K: Object>(
        &self,
        client: &Client,
        apis: Vec<impl Fn(Client) -> Api<K>>,
        config: watcher::Config,
    ) {
        let unlisted = AtomicUsize::new(apis.len());
        let watches = apis.into_iter().map(|api| {
            let answered = Arc::new(Notify::new());
            let api = api(observed(client.clone(), Arc::clone(&answered)));
            self.watch_one(api, answered, config.clone(), &unlisted)
        });
        // They end when the receiver is gone, all of them.
        join_all(watches).await;
    }

    async fn watch_one<K: Object>(
        &self,
        api: Api<K>,
        answered: Arc<Notify>,
        config: watcher::Config,
        unlisted: &AtomicUsize,
    ) -> Result<(), Closed> {
        let kind = K::KIND;
        let asked = api.resource_url().to_owned();
        let mut stream = watcher(api, config).default_backoff().boxed();
        // Names told so far, and those of the list that is being read.
        let mut known = BTreeSet::new();
        let mut listed = BTreeSet::new();
        let mut is_failing = false;
        let mut is_listed = false;
        loop {
            // A watch of which nothing changes has no event to say that it goes on.
            let settled = async {
                answered.notified().await;
                sleep(SETTLED).await;
            };
            let next = tokio::select! {
                next = stream.try_next() => Some(next),
                () = settled, if is_failing => None,
            };
            let event = match next {
                // It is about to list, and nobody has answered yet.
                Some(Ok(Some(watcher::Event::Init))) => {
                    listed.clear();
                    continue;
                }
                Some(Ok(Some(event))) => Some(event),
                Some(Ok(None)) => return Ok(()),
                Some(Err(error)) => {
                    // What it answered before it failed is no sign.
                    answered.notified().now_or_never();
                    if !std::mem::replace(&mut is_failing, true) {
                        let reason = format!("{kind:?}: {error}");
                        self.tell_connected(&asked, Some(reason)).await?;
                    }
                    continue;
                }
                None => None,
            };
            if std::mem::replace(&mut is_failing, false) {
                self.tell_connected(&asked, None).await?;
            }
            let Some(event) = event else { continue };
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

    /// Tells that a watch fails, or what still fails when it goes on.
    async fn tell_connected(&self, asked: &str, reason: Option<String>) -> Result<(), Closed> {
        let reason = {
            let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            match &reason {
                Some(reason) => failing.insert(asked.to_owned(), reason.clone()),
                None => failing.remove(asked),
            };
            reason.or_else(|| failing.values().next().cloned())
        };
        self.send(Event::Connected(reason.map_or(Ok(()), Err)))
            .await
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
