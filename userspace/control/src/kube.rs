//! The Kubernetes API: watches that list again after 410 Gone and reconnect with back-off, as
//! `kube_runtime::watcher` does.

use std::{collections::BTreeSet, fmt::Debug};

use futures::{StreamExt, TryStreamExt};
use headgate_model::{Refusal, ServiceName};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
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

/// Tells what the API server says, now and after each change, until the receiver is gone.
pub async fn follow(client: Client, events: mpsc::Sender<Event>) {
    let services = watch(
        Api::<Service>::all(client.clone()),
        Kind::Service,
        events.clone(),
        |object, refusals| {
            Event::Service(convert::name(object), convert::service(object, refusals))
        },
    );
    let slices = watch(
        Api::<EndpointSlice>::all(client),
        Kind::EndpointSlice,
        events,
        |object, refusals| Event::Slice(convert::name(object), convert::slice(object, refusals)),
    );
    let _closed = futures::join!(services, slices);
}

async fn watch<K>(
    api: Api<K>,
    kind: Kind,
    events: mpsc::Sender<Event>,
    convert: impl Fn(&K, &mut Refusals) -> Event,
) -> Result<(), Closed>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let send = async |event: Event| events.send(event).await.map_err(|_gone| Closed);
    let mut stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
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
                let mut refusals = Refusals::new(format!("{kind:?} {name}"));
                send(convert(&object, &mut refusals)).await?;
                send(refused(kind, &name, refusals.list)).await?;
                listed.insert(name.clone());
                known.insert(name);
            }
            watcher::Event::Delete(object) => {
                let name = convert::name(&object);
                known.remove(&name);
                listed.remove(&name);
                send(gone(kind, name.clone())).await?;
                send(refused(kind, &name, Vec::new())).await?;
            }
            watcher::Event::InitDone => {
                // What went away while nobody watched.
                for name in known.difference(&listed) {
                    send(gone(kind, name.clone())).await?;
                    send(refused(kind, name, Vec::new())).await?;
                }
                known.clone_from(&listed);
                send(Event::Listed(kind)).await?;
            }
        }
    }
}

fn gone(kind: Kind, name: ServiceName) -> Event {
    match kind {
        Kind::Service => Event::Service(name, None),
        Kind::EndpointSlice => Event::Slice(name, None),
    }
}

fn refused(kind: Kind, name: &ServiceName, refusals: Vec<Refusal>) -> Event {
    Event::Refused(format!("{kind:?} {name}"), refusals)
}
