//! The calls of the loop to a server, and their order.

use std::collections::BTreeMap;

use headgate_control::{Event, IngressStatus, Interest, Kind, run_ingress};
use headgate_model::{
    Endpoint, EndpointPort, EndpointSlice, NamespacedName, Protocol,
    edge::{PortName, Secret, UpstreamPort, UpstreamService},
    ingress::{
        Ingress, IngressBackend, IngressClass, IngressOptions, IngressPath, IngressRule, PathType,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::server::{PATIENCE, Received, Server};

/// A loop that gets events one by one.
struct Loop {
    events: mpsc::Sender<Event>,
    received: watch::Receiver<Received>,
    status: watch::Receiver<IngressStatus>,
    sent: BTreeMap<Kind, u64>,
}

impl Loop {
    fn start() -> Self {
        let (events, receiver) = mpsc::channel(64);
        let (sender, received) = watch::channel(Received::default());
        let (status_sender, status) = watch::channel(IngressStatus::default());
        tokio::spawn(run_ingress(
            receiver,
            IngressOptions::default().into(),
            Server(sender),
            status_sender,
            std::future::pending(),
        ));
        Self {
            events,
            received,
            status,
            sent: BTreeMap::new(),
        }
    }

    /// A loop after the lists: Service `web`, and an Ingress that names it.
    async fn listed() -> Self {
        let mut this = Self::start();
        this.send(class()).await;
        this.send(ingress("shop", "a.example", "web")).await;
        this.send(service("web", 80, "")).await;
        this.send(slice("web-1", "web", &[2])).await;
        for kind in Interest::Ingress.kinds() {
            this.events.send(Event::Listed(*kind)).await.unwrap();
        }
        let is_synced = this.status.wait_for(|status| status.is_synced);
        timeout(PATIENCE, is_synced).await.unwrap().unwrap();
        let first = ["place default/web:80 [10.244.1.2:8080]", "serve a.example"];
        assert_eq!(this.calls(), first);
        this
    }

    /// Sends an event, and waits until the loop has handled it.
    async fn send(&mut self, event: Event) {
        let kind = match &event {
            Event::Upstream(..) => Kind::Service,
            Event::Slice(..) => Kind::EndpointSlice,
            Event::Ingress(..) => Kind::Ingress,
            Event::IngressClass(..) => Kind::IngressClass,
            Event::Secret(..) => Kind::Secret,
            other => panic!("{other:?}"),
        };
        *self.sent.entry(kind).or_default() += 1;
        self.events.send(event).await.unwrap();
        let is_taken = |status: &IngressStatus| status.source.events == self.sent;
        let taken = timeout(PATIENCE, self.status.wait_for(is_taken)).await;
        assert!(taken.is_ok());
    }

    /// The calls of the server so far.
    fn calls(&self) -> Vec<String> {
        self.received.borrow().calls.clone()
    }
}

fn name(name: &str) -> NamespacedName {
    NamespacedName::new("default", name)
}

fn class() -> Event {
    let class = IngressClass {
        controller: "headgate.io/ingress".into(),
        is_default: true,
        parameters: None,
    };
    Event::IngressClass("headgate".into(), Some(class))
}

fn ingress(ingress: &str, host: &str, service: &str) -> Event {
    let path = IngressPath {
        path: "/".into(),
        path_type: PathType::Prefix,
        backend: IngressBackend::Service {
            name: service.into(),
            port: PortName::Number(80),
        },
    };
    let ingress = Ingress {
        name: name(ingress),
        created_s: None,
        annotations: BTreeMap::new(),
        class: None,
        default_backend: None,
        rules: vec![IngressRule {
            host: host.into(),
            paths: vec![path],
        }],
        tls: Vec::new(),
    };
    Event::Ingress(ingress.name.clone(), Some(ingress))
}

/// A Service with a port of this name.
fn service(service: &str, port: u16, port_name: &str) -> Event {
    let of_service = UpstreamService {
        uid: String::new(),
        ports: vec![UpstreamPort {
            name: port_name.into(),
            port,
            app_protocol: None,
        }],
        udp_ports: Vec::new(),
        cluster_ips: Vec::new(),
        is_external: false,
    };
    Event::Upstream(name(service), Some(of_service))
}

/// A slice with a port without name and a port `other`.
fn slice(slice: &str, service: &str, hosts: &[u8]) -> Event {
    let port = |name: &str, port| EndpointPort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port,
    };
    let endpoints = hosts.iter().map(|host| Endpoint {
        address: [10, 244, 1, *host].into(),
        node: None,
        ready: true,
        serving: true,
        terminating: false,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    });
    let content = EndpointSlice {
        service: name(service),
        ports: vec![port("", 8080), port("other", 9090)],
        endpoints: endpoints.collect(),
        triggered: None,
    };
    Event::Slice(name(slice), Some(content))
}

#[tokio::test]
async fn l52_nothing_is_served_before_every_kind_is_listed() {
    let kinds = Interest::Ingress.kinds();
    for last in kinds {
        let mut this = Loop::start();
        for kind in kinds.iter().filter(|kind| *kind != last) {
            this.events.send(Event::Listed(*kind)).await.unwrap();
        }
        this.send(class()).await;
        this.send(ingress("shop", "a.example", "web")).await;
        assert_eq!(this.calls(), Vec::<String>::new(), "{last:?} is missing");
        assert!(!this.status.borrow().is_synced);
        this.events.send(Event::Listed(*last)).await.unwrap();
        let is_served = this
            .received
            .wait_for(|received| !received.calls.is_empty());
        assert!(timeout(PATIENCE, is_served).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn l52_a_kind_that_is_never_listed_is_not_awaited_forever() {
    let mut this = Loop::start();
    this.send(class()).await;
    this.send(ingress("shop", "a.example", "web")).await;
    let is_synced = this.status.wait_for(|status| status.is_synced);
    // The clock is paused: it jumps to the next timer.
    timeout(PATIENCE * 10, is_synced).await.unwrap().unwrap();
    assert_eq!(this.calls(), ["serve a.example"]);
}

#[tokio::test]
async fn l52_changed_endpoints_are_placed_without_new_routes() {
    let mut this = Loop::listed().await;
    let before = this.calls().len();
    this.send(slice("web-1", "web", &[2, 3])).await;
    this.send(slice("web-2", "web", &[4])).await;
    this.send(slice("other-1", "other", &[5])).await;
    this.send(slice("web-2", "web", &[4])).await;
    this.send(slice("web-2", "other", &[4])).await;
    this.send(Event::Slice(name("web-1"), None)).await;
    assert_eq!(
        this.calls()[before..],
        [
            "place default/web:80 [10.244.1.2:8080 10.244.1.3:8080]",
            "place default/web:80 [10.244.1.2:8080 10.244.1.3:8080 10.244.1.4:8080]",
            "place default/web:80 [10.244.1.2:8080 10.244.1.3:8080]",
            "place default/web:80 []",
        ]
    );
}

#[tokio::test]
async fn l52_a_service_that_changes_its_port_moves_its_endpoints() {
    let mut this = Loop::listed().await;
    let before = this.calls().len();
    this.send(service("web", 80, "other")).await;
    this.send(service("web", 81, "other")).await;
    assert_eq!(
        this.calls()[before..],
        [
            "place default/web:80 [10.244.1.2:9090]",
            "place default/web:80 []",
            "serve a.example",
        ]
    );
    assert_eq!(this.received.borrow().dump(), "a.example / Unavailable\n");
}

#[tokio::test]
async fn l52_backends_are_placed_before_routes_name_them() {
    let mut this = Loop::listed().await;
    let before = this.calls().len();
    this.send(slice("api-1", "api", &[7])).await;
    this.send(service("api", 80, "")).await;
    this.send(ingress("api", "b.example", "api")).await;
    // Deleted and created again: the earlier placement does not count.
    this.send(Event::Ingress(name("api"), None)).await;
    this.send(ingress("api", "b.example", "api")).await;
    assert_eq!(
        this.calls()[before..],
        [
            "place default/api:80 [10.244.1.7:8080]",
            "serve a.example b.example",
            "serve a.example",
            "place default/api:80 [10.244.1.7:8080]",
            "serve a.example b.example",
        ]
    );
}

#[tokio::test]
async fn l52_changes_without_effect_are_not_served_again() {
    let mut this = Loop::listed().await;
    let before = this.calls().len();
    let secret = Secret {
        type_: "Opaque".into(),
        data: BTreeMap::new(),
    };
    this.send(class()).await;
    this.send(ingress("shop", "a.example", "web")).await;
    this.send(service("web", 80, "")).await;
    this.send(service("unused", 80, "")).await;
    this.send(Event::Secret(name("unused"), Some(secret))).await;
    this.send(Event::Secret(name("unused"), None)).await;
    assert_eq!(this.calls()[before..], Vec::<String>::new());
}

#[tokio::test]
async fn l52_a_burst_of_events_is_one_pass() {
    let mut this = Loop::listed().await;
    let before = this.calls().len();
    // All events are queued before the loop runs: the test has one thread.
    for host in ["b.example", "c.example", "d.example"] {
        let event = ingress(host, host, "web");
        this.events.try_send(event).unwrap();
    }
    let is_served = this
        .received
        .wait_for(|received| received.calls.len() > before);
    assert!(timeout(PATIENCE, is_served).await.is_ok());
    let all = ["serve a.example b.example c.example d.example"];
    assert_eq!(this.calls()[before..], all);
}
