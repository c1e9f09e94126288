//! The Kubernetes API as a source: watches that list again after 410 Gone and reconnect with
//! back-off, as `kube::runtime::watcher` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::join_all,
    stream::{self, BoxStream},
};
use headgate_model::NamespacedName;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ConfigMap, Namespace, Node, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};
use tower::service_fn;
use tracing::{instrument, warn};

use crate::source::{
    convert::{self, Custom, CustomKind, HEADLESS, Object, PROXY_NAME, SKIPPED_SECRETS},
    event::{Event, Interest, Kind, Served},
};

/// A failing watch counts as recovered this long after a successful response without a new error.
const SETTLED: Duration = Duration::from_secs(1);
/// Time between two questions for the version of the Gateway API.
const VERSION_INTERVAL: Duration = Duration::from_secs(60);

/// The receiver of the events is gone; ends a watch.
struct Closed;

/// Sends what the API server has of the Services in `served`, their EndpointSlices and the Node `node`, with
/// [`Interest::Listeners`] also of TCP and UDP listeners of Gateways, now and after each change. Returns when the
/// receiver is gone.
pub async fn follow(
    client: Client,
    node: &str,
    served: &Served,
    interest: Interest,
    events: mpsc::Sender<Event>,
) {
    let source = Source {
        served: served.clone(),
        ..Source::new(interest, events)
    };
    let node = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let namespaces = &served.namespaces;
    let has_listeners = interest == Interest::Listeners;
    let services = if has_listeners {
        any()
    } else {
        balanced(served)
    };
    let listeners = async {
        if has_listeners {
            source.watch_listeners(&client, namespaces).await;
        }
    };
    futures::join!(
        source.watch(&client, apis::<Service>(namespaces), services.clone()),
        source.watch(&client, apis::<EndpointSlice>(namespaces), services),
        source.watch(&client, vec![Api::<Node>::all], node),
        listeners,
    );
}

/// Sends what the API server has of Ingresses, IngressClasses, Services, EndpointSlices and Secrets, with
/// [`Interest::Gateways`] also of the Gateway API, now and after each change. Returns when the receiver is
/// gone. If `namespaces` is not empty, sends no request about objects of other namespaces.
pub async fn follow_ingresses(
    client: Client,
    namespaces: &BTreeSet<String>,
    interest: Interest,
    events: mpsc::Sender<Event>,
) {
    let source = Source::new(interest, events);
    let gateways = async {
        if interest == Interest::Gateways {
            source.watch_gateways(&client, namespaces).await;
        }
    };
    futures::join!(
        source.watch(&client, apis::<Ingress>(namespaces), any()),
        source.watch(&client, vec![Api::<IngressClass>::all], any()),
        source.watch(&client, apis::<Service>(namespaces), any()),
        source.watch(&client, apis::<EndpointSlice>(namespaces), any()),
        source.watch(&client, apis::<Secret>(namespaces), useful_secrets()),
        gateways,
    );
}

/// Sends what the API server has of the Gateway API, and of the Services and Secrets that it names, now and after
/// each change. Returns when the receiver is gone.
pub async fn follow_verdicts(client: Client, events: mpsc::Sender<Event>) {
    let source = Source::new(Interest::Verdicts, events);
    let all = BTreeSet::new();
    futures::join!(
        source.watch(&client, apis::<Service>(&all), any()),
        source.watch(&client, apis::<Secret>(&all), useful_secrets()),
        source.watch_gateways(&client, &all),
    );
}

/// Keeps `version` equal to the version of the installed CRDs of the Gateway API, `None` if it is not known. Sends after
/// the first answer, whatever it is. Asks once a minute, because CRDs seldom change. Ends with the receivers.
pub async fn follow_bundle_version(client: Client, version: watch::Sender<Option<String>>) {
    const CRD: &str = "gateways.gateway.networking.k8s.io";
    const ANNOTATION: &str = "gateway.networking.k8s.io/bundle-version";
    let api = Api::<CustomResourceDefinition>::all(client);
    let mut is_first = true;
    while !version.is_closed() {
        match api.get_metadata_opt(CRD).await {
            Ok(found) => {
                let found = found.and_then(|crd| crd.annotations().get(ANNOTATION).cloned());
                version.send_if_modified(|known| {
                    let is_other = *known != found;
                    *known = found;
                    is_other || is_first
                });
            }
            Err(error) => {
                warn!(name = CRD, %error, "cannot read the version of the Gateway API");
                if is_first {
                    version.send_replace(None);
                }
            }
        }
        is_first = false;
        sleep(VERSION_INTERVAL).await;
    }
}

/// Without Secrets that no proxy uses.
fn useful_secrets() -> watcher::Config {
    let wanted = SKIPPED_SECRETS.map(|type_| format!("type!={type_}"));
    watcher::Config::default().fields(&wanted.join(","))
}

/// Without headless Services, and those of other proxies: the same as kube-proxy asks for.
fn balanced(served: &Served) -> watcher::Config {
    let ours = match &served.proxy_name {
        None => format!("!{PROXY_NAME}"),
        Some(name) => format!("{PROXY_NAME}={name}"),
    };
    watcher::Config::default().labels(&format!("!{HEADLESS},{ours}"))
}

fn any() -> watcher::Config {
    watcher::Config::default()
}

/// One API for each namespace; a single one for all namespaces if `namespaces` is empty.
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

/// Watches objects as the API has them, in several namespaces. Logs errors and tries again.
pub(crate) fn watch_objects<K>(
    apis: Vec<Api<K>>,
    config: watcher::Config,
) -> BoxStream<'static, watcher::Event<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let streams = apis.into_iter().map(|api| {
        let stream = watcher(api, config.clone()).default_backoff();
        let kind = K::kind(&());
        let stream = stream.inspect_err(move |error| warn!(%kind, %error, "watch failed"));
        stream.filter_map(async |event| event.ok()).boxed()
    });
    stream::select_all(streams).boxed()
}

/// The client; notifies `answered` of each successful response.
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
    /// Services that an agent balances.
    served: Served,
    events: mpsc::Sender<Event>,
    /// Last error of each failing watch (for example 403), by the resource's URL path.
    failing: Mutex<BTreeMap<String, String>>,
}

impl Source {
    fn new(interest: Interest, events: mpsc::Sender<Event>) -> Self {
        Self {
            interest,
            served: Served::default(),
            events,
            failing: Mutex::default(),
        }
    }

    /// Watches what only the Gateway API uses.
    async fn watch_gateways(&self, client: &Client, namespaces: &BTreeSet<String>) {
        futures::join!(
            self.watch_listeners(client, namespaces),
            self.watch(client, apis::<ConfigMap>(namespaces), any()),
            self.watch_custom::<convert::HttpRoute>(client, namespaces),
            self.watch_custom::<convert::GrpcRoute>(client, namespaces),
            self.watch_custom::<convert::TlsRoute>(client, namespaces),
            self.watch_custom::<convert::BackendTlsPolicy>(client, namespaces),
            self.watch_custom::<convert::RoutePolicy>(client, namespaces),
        );
    }

    /// Watches what TCP and UDP listeners are made from.
    async fn watch_listeners(&self, client: &Client, namespaces: &BTreeSet<String>) {
        let classes = vec![Api::<Custom<convert::GatewayClass>>::all];
        futures::join!(
            self.watch(client, classes, any()),
            self.watch(client, vec![Api::<Namespace>::all], any()),
            self.watch_custom::<convert::Gateway>(client, namespaces),
            self.watch_custom::<convert::ListenerSet>(client, namespaces),
            self.watch_custom::<convert::TcpRoute>(client, namespaces),
            self.watch_custom::<convert::UdpRoute>(client, namespaces),
            self.watch_custom::<convert::ReferenceGrant>(client, namespaces),
        );
    }

    /// Watches a kind of custom resource with namespaces.
    async fn watch_custom<K>(&self, client: &Client, namespaces: &BTreeSet<String>)
    where
        K: CustomKind<Scope = NamespaceResourceScope>,
    {
        self.watch(client, apis::<Custom<K>>(namespaces), any())
            .await;
    }

    /// Watches a kind in several namespaces.
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
            let watch = Watch {
                source: self,
                resource: api.resource_url().to_owned(),
                answered,
                unlisted: &unlisted,
                known: BTreeSet::new(),
                listed: BTreeSet::new(),
                is_listed: false,
                is_failing: false,
            };
            watch.run(api, config.clone())
        });
        // All of them end when the receiver is gone.
        join_all(watches).await;
    }

    /// Reports the error of a watch or its recovery; after a recovery, an error that another watch
    /// still has.
    async fn report(&self, resource: &str, error: Option<String>) -> Result<(), Closed> {
        let error = {
            let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            match &error {
                Some(error) => failing.insert(resource.to_owned(), error.clone()),
                None => failing.remove(resource),
            };
            error.or_else(|| failing.values().next().cloned())
        };
        self.send(Event::Connected(error.map_or(Ok(()), Err))).await
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_gone| Closed)
    }
}

/// One watch: a kind, in one namespace or in all.
///
/// Not a `kube::runtime::reflector`: its store would hold every object a second time, and reports
/// neither which objects a new list lacks nor that a watch without changes has recovered.
struct Watch<'a> {
    source: &'a Source,
    /// URL path of the resource.
    resource: String,
    /// Notified of each successful response.
    answered: Arc<Notify>,
    /// Number of this kind's watches that have not listed yet.
    unlisted: &'a AtomicUsize,
    /// Names of the objects that were sent.
    known: BTreeSet<NamespacedName>,
    /// Names in the list that is being read.
    listed: BTreeSet<NamespacedName>,
    is_listed: bool,
    is_failing: bool,
}

impl Watch<'_> {
    #[instrument(name = "watch", skip_all, fields(resource = %self.resource))]
    async fn run<K: Object>(mut self, api: Api<K>, config: watcher::Config) -> Result<(), Closed> {
        let mut stream = watcher(api, config).default_backoff().boxed();
        loop {
            let next = tokio::select! {
                next = stream.try_next() => next,
                () = settled(&self.answered), if self.is_failing => {
                    self.recover().await?;
                    continue;
                }
            };
            match next {
                // The request for the list has not been sent yet.
                Ok(Some(watcher::Event::Init)) => self.listed.clear(),
                Ok(Some(event)) => {
                    self.recover().await?;
                    self.step(event).await?;
                }
                Ok(None) => return Ok(()),
                // The custom resource is not installed: an empty list, asked for again after the back-off.
                Err(error) if K::KIND.is_of_gateways() && is_absent(&error) => {
                    self.recover().await?;
                    self.listed.clear();
                    self.end_list(K::KIND).await?;
                }
                Err(error) => self.fail(K::KIND, &error).await?,
            }
        }
    }

    async fn step<K: Object>(&mut self, event: watcher::Event<K>) -> Result<(), Closed> {
        match event {
            watcher::Event::Init => {}
            watcher::Event::InitApply(object) => {
                let name = self.send(&object).await?;
                self.listed.insert(name.clone());
                self.known.insert(name);
            }
            watcher::Event::Apply(object) => {
                let name = self.send(&object).await?;
                self.known.insert(name);
            }
            watcher::Event::Delete(object) => {
                let name = convert::name(&object);
                self.known.remove(&name);
                self.delete(K::KIND, name).await?;
            }
            watcher::Event::InitDone => self.end_list(K::KIND).await?,
        }
        Ok(())
    }

    /// Deletes what the list does not have: it was deleted while the watch was interrupted.
    async fn end_list(&mut self, kind: Kind) -> Result<(), Closed> {
        let listed = std::mem::take(&mut self.listed);
        let known = std::mem::replace(&mut self.known, listed);
        for name in known.difference(&self.known) {
            self.delete(kind, name.clone()).await?;
        }
        let is_first = !std::mem::replace(&mut self.is_listed, true);
        if is_first && self.unlisted.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.source.send(Event::Listed(kind)).await?;
        }
        Ok(())
    }

    async fn fail(&mut self, kind: Kind, error: &watcher::Error) -> Result<(), Closed> {
        // A response before the error does not count as recovery.
        self.answered.notified().now_or_never();
        if std::mem::replace(&mut self.is_failing, true) {
            return Ok(());
        }
        let error = format!("{kind:?}: {error}");
        self.source.report(&self.resource, Some(error)).await
    }

    async fn recover(&mut self) -> Result<(), Closed> {
        match std::mem::replace(&mut self.is_failing, false) {
            true => self.source.report(&self.resource, None).await,
            false => Ok(()),
        }
    }

    /// Sends the events of an object; returns its name.
    async fn send<K: Object>(&self, object: &K) -> Result<NamespacedName, Closed> {
        let name = convert::name(object);
        for event in convert::events(
            object,
            name.clone(),
            self.source.interest,
            &self.source.served,
        ) {
            self.source.send(event).await?;
        }
        Ok(name)
    }

    /// Sends that an object is gone, and with it what was refused of it.
    async fn delete(&self, kind: Kind, name: NamespacedName) -> Result<(), Closed> {
        let refusals = Event::Refused(kind.object(&name), Vec::new());
        self.source.send(refusals).await?;
        for event in kind.gone(name, self.source.interest) {
            self.source.send(event).await?;
        }
        Ok(())
    }
}

/// Whether the API server does not know a kind.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Waits until the server has answered and [`SETTLED`] has passed: a watch without changes sends no
/// event that shows its recovery.
async fn settled(answered: &Notify) {
    answered.notified().await;
    sleep(SETTLED).await;
}
