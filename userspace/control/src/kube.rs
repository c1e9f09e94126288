//! The Kubernetes API: watches that list again after 410 Gone and reconnect with back-off, as
//! `kube_runtime::watcher` does.

use std::{collections::BTreeSet, fmt::Debug};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::{
    convert::{self, Refusals},
    event::{Event, Kind},
};

/// A receiver that is gone ends a watch.
struct Closed;

/// Tells what the API server says of Services, EndpointSlices and the node of this name, now and
/// after each change, until the receiver is gone.
pub async fn follow(client: Client, node: &str, events: mpsc::Sender<Event>) {
    let services = watch(
        Api::<Service>::all(client.clone()),
        watcher::Config::default(),
        Kind::Service,
        events.clone(),
        |object, refusals| {
            Event::Service(convert::name(object), convert::service(object, refusals))
        },
    );
    let slices = watch(
        Api::<EndpointSlice>::all(client.clone()),
        watcher::Config::default(),
        Kind::EndpointSlice,
        events.clone(),
        |object, refusals| Event::Slice(convert::name(object), convert::slice(object, refusals)),
    );
    let nodes = watch(
        Api::<Node>::all(client),
        watcher::Config::default().fields(&format!("metadata.name={node}")),
        Kind::Node,
        events,
        |object, _| Event::Node(convert::node(object)),
    );
    let _closed = futures::join!(services, slices, nodes);
}

async fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: Kind,
    events: mpsc::Sender<Event>,
    convert: impl Fn(&K, &mut Refusals) -> Event,
) -> Result<(), Closed>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let send = async |event: Event| events.send(event).await.map_err(|_gone| Closed);
    let mut stream = watcher(api, config).default_backoff().boxed();
    // Names told so far, and those of the list that is being read.
    let mut known = BTreeSet::new();
    let mut listed = BTreeSet::new();
    let mut is_connected = true;
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(()),
            Err(error) => {
                if is_connected {
                    send(Event::Connected(Err(format!("{kind:?}: {error}")))).await?;
                }
                is_connected = false;
                continue;
            }
        };
        if !is_connected {
            send(Event::Connected(Ok(()))).await?;
            is_connected = true;
        }
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let name = convert::name(&object);
                let mut refusals = Refusals::new(kind.object(&name));
                send(convert(&object, &mut refusals)).await?;
                send(Event::Refused(kind.object(&name), refusals.list)).await?;
                listed.insert(name.clone());
                known.insert(name);
            }
            watcher::Event::Delete(object) => {
                let name = convert::name(&object);
                known.remove(&name);
                listed.remove(&name);
                send(Event::Refused(kind.object(&name), Vec::new())).await?;
                send(kind.gone(name)).await?;
            }
            watcher::Event::InitDone => {
                // What went away while nobody watched.
                for name in known.difference(&listed) {
                    send(Event::Refused(kind.object(name), Vec::new())).await?;
                    send(kind.gone(name.clone())).await?;
                }
                known.clone_from(&listed);
                send(Event::Listed(kind)).await?;
            }
        }
    }
}
