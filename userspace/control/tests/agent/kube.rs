//! The Kubernetes source against a server that speaks as much of the API's wire protocol as a watch
//! takes: list, watch, resource versions, 410 Gone.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use headgate_control::{Reconciler, Status, kube as source, run};
use headgate_model::Actual;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};

use crate::memory::{Memory, PATIENCE, dump, node};

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// Objects by path and name, and what happened to them.
#[derive(Default)]
struct Store {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    log: Vec<(u64, String, Value)>,
    /// Watches from before this version are told 410.
    oldest: u64,
    is_down: bool,
}

/// A server; `wake` carries how often watches were cut.
#[derive(Clone)]
struct Server {
    store: Arc<Mutex<Store>>,
    wake: watch::Sender<u64>,
}

impl Server {
    async fn start() -> (Self, SocketAddr) {
        let server = Self {
            store: Arc::default(),
            wake: watch::Sender::new(0),
        };
        let router = Router::new()
            .route(SERVICES, get(answer))
            .route(SLICES, get(answer))
            .with_state(server.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (server, address)
    }

    fn put(&self, path: &str, mut object: Value) {
        let store = &mut *self.store.lock().unwrap();
        store.version += 1;
        object["metadata"]["resourceVersion"] = store.version.to_string().into();
        object["metadata"]["namespace"] = "default".into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let old = store.objects.insert((path.into(), name), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        store.log.push((
            store.version,
            path.into(),
            json!({"type": kind, "object": object}),
        ));
        self.wake.send_modify(|_cuts| {});
    }

    fn delete(&self, path: &str, name: &str) {
        let store = &mut *self.store.lock().unwrap();
        store.version += 1;
        let mut object = store.objects.remove(&(path.into(), name.into())).unwrap();
        object["metadata"]["resourceVersion"] = store.version.to_string().into();
        store.log.push((
            store.version,
            path.into(),
            json!({"type": "DELETED", "object": object}),
        ));
        self.wake.send_modify(|_cuts| {});
    }

    /// Ends every watch; with `forget`, they cannot go on from where they were.
    fn cut(&self, forget: bool) {
        if forget {
            let store = &mut *self.store.lock().unwrap();
            store.oldest = store.version;
        }
        self.wake.send_modify(|cuts| *cuts += 1);
    }

    fn set_down(&self, is_down: bool) {
        self.store.lock().unwrap().is_down = is_down;
        self.cut(false);
    }
}

fn gone() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410})
}

async fn answer(
    State(server): State<Server>,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let store = server.store.lock().unwrap();
    let path = uri.path().to_owned();
    if store.is_down {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    if query.get("watch").is_none_or(|watch| watch == "false") {
        let of_path = store
            .objects
            .iter()
            .filter(|((other, _), _)| *other == path);
        let items: Vec<&Value> = of_path.map(|(_, object)| object).collect();
        let metadata = json!({"resourceVersion": store.version.to_string()});
        return Json(
            json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}),
        )
        .into_response();
    }
    let since: u64 = query["resourceVersion"].parse().unwrap();
    if since < store.oldest {
        let error = json!({"type": "ERROR", "object": gone()});
        return Body::from(format!("{error}\n")).into_response();
    }
    drop(store);
    let wake = server.wake.subscribe();
    let cuts = *wake.borrow();
    let events = stream::unfold((server, wake, since), move |(server, mut wake, since)| {
        let path = path.clone();
        async move {
            loop {
                if *wake.borrow_and_update() != cuts {
                    return None;
                }
                let (text, now) = {
                    let store = server.store.lock().unwrap();
                    let new = store
                        .log
                        .iter()
                        .filter(|(at, of, _)| *at > since && *of == path);
                    (
                        new.map(|(_, _, event)| format!("{event}\n"))
                            .collect::<String>(),
                        store.version,
                    )
                };
                if !text.is_empty() {
                    return Some((Ok::<_, Infallible>(Bytes::from(text)), (server, wake, now)));
                }
                wake.changed().await.ok()?;
            }
        }
    });
    Body::from_stream(events).into_response()
}

/// Runs the loop on a server, and returns its maps and its status.
async fn agent(address: SocketAddr) -> (watch::Receiver<Actual>, watch::Receiver<Status>) {
    let client =
        Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let (published, maps) = watch::channel(Actual::default());
    let memory = Memory {
        actual: Actual::default(),
        published,
    };
    let reconciler = Reconciler::new(memory, node()).unwrap();
    let (sender, events) = mpsc::channel(64);
    let (status_sender, status) = watch::channel(Status::default());
    tokio::spawn(source::follow(client, sender));
    tokio::spawn(async move {
        let (_nodes, nodes) = watch::channel(node());
        run(
            reconciler,
            events,
            nodes,
            status_sender,
            std::future::pending(),
        )
        .await;
    });
    (maps, status)
}

async fn until(maps: &mut watch::Receiver<Actual>, expected: &str) {
    let result = timeout(PATIENCE, maps.wait_for(|actual| dump(actual) == expected))
        .await
        .is_ok();
    assert!(result, "expected\n{expected}have\n{}", dump(&maps.borrow()));
}

fn service(name: &str, address: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]}})
}

fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": [address], "nodeName": "n1"}]})
}

fn line(frontend: &str, backend: &str) -> String {
    let backend = format!("{backend}:8080@here");
    format!("tcp {frontend}:80 ClusterIp in[{backend}] out[{backend}]\n")
}

#[tokio::test]
async fn maps_follow_the_api_through_cuts_and_410() {
    let (server, address) = Server::start().await;
    server.put(SERVICES, service("a", "10.96.0.1"));
    server.put(SLICES, slice("a-1", "a", "10.244.1.2"));
    let (mut maps, _status) = agent(address).await;
    until(&mut maps, &line("10.96.0.1", "10.244.1.2")).await;

    server.put(SLICES, slice("a-1", "a", "10.244.1.3"));
    until(&mut maps, &line("10.96.0.1", "10.244.1.3")).await;

    // Watches end, as they do every few minutes, and go on from where they were.
    server.cut(false);
    server.put(SERVICES, service("b", "10.96.0.2"));
    server.put(SLICES, slice("b-1", "b", "10.244.1.4"));
    let both = line("10.96.0.1", "10.244.1.3") + &line("10.96.0.2", "10.244.1.4");
    until(&mut maps, &both).await;

    // What was deleted while nobody watched, and the server forgot, is found by listing again.
    server.set_down(true);
    server.delete(SERVICES, "a");
    server.delete(SLICES, "a-1");
    server.put(SLICES, slice("b-1", "b", "10.244.1.5"));
    server.cut(true);
    server.set_down(false);
    until(&mut maps, &line("10.96.0.2", "10.244.1.5")).await;
}

#[tokio::test]
async fn absent_server_takes_nothing_away_and_is_told() {
    let (server, address) = Server::start().await;
    server.put(SERVICES, service("a", "10.96.0.1"));
    server.put(SLICES, slice("a-1", "a", "10.244.1.2"));
    let (mut maps, mut status) = agent(address).await;
    until(&mut maps, &line("10.96.0.1", "10.244.1.2")).await;
    server.set_down(true);
    let told = status.wait_for(|status| status.disconnected.is_some());
    assert!(timeout(PATIENCE, told).await.is_ok());
    assert_eq!(dump(&maps.borrow()), line("10.96.0.1", "10.244.1.2"));
    server.put(SLICES, slice("a-1", "a", "10.244.1.9"));
    server.set_down(false);
    until(&mut maps, &line("10.96.0.1", "10.244.1.9")).await;
    let told = status.wait_for(|status| status.disconnected.is_none());
    assert!(timeout(PATIENCE, told).await.is_ok());
}
