//! A proxy with ports of Gateways, and its backends.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use headgate_model::{
    NamespacedName,
    edge::{
        Certificate, Condition, Edge, GatewayPort, Host, HostMode, Listener, PathMatch, Policy,
        PortListeners, Route, RouteKind, RouteOrigin, Scheme, Target, UpstreamKey, UpstreamPolicy,
        WeightedTarget,
    },
};
use headgate_proxy::{Proxy, Settings};
use http::{Request, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The Gateway of most tests.
pub(crate) const GATEWAY: &str = "main";

/// Target and headers of a request that a backend got.
pub(crate) type Seen = (String, Vec<(String, String)>);

/// A backend: its name, and the requests that it got.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    name: Arc<str>,
    pub(crate) hits: Arc<AtomicUsize>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

/// A proxy and its backends.
pub(crate) struct Setup {
    pub(crate) proxy: Arc<Proxy>,
    ports: HashMap<u16, SocketAddr>,
    backends: BTreeMap<String, (SocketAddr, Backend)>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) edge: Edge,
}

impl Setup {
    /// Serves listeners at port 80 of a Gateway.
    pub(crate) async fn http(listeners: Vec<Listener>) -> Self {
        let mut setup = Self::new();
        setup.add_port(GATEWAY, 80, Scheme::Http, listeners);
        setup.serve().await;
        setup
    }

    /// Serves routes for all hosts at port 80 of a Gateway.
    pub(crate) async fn routes(routes: Vec<Route>) -> Self {
        Self::http(vec![listener("", [("", routes)])]).await
    }

    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self {
            proxy: Arc::new(Proxy::new(settings).unwrap()),
            ports: HashMap::new(),
            backends: BTreeMap::new(),
            roots: Vec::new(),
            edge: Edge::default(),
        }
    }

    pub(crate) fn add_port(
        &mut self,
        gateway: &str,
        port: u16,
        scheme: Scheme,
        listeners: Vec<Listener>,
    ) {
        let port = GatewayPort {
            gateway: NamespacedName::new("infra", gateway),
            port,
        };
        let listeners = PortListeners {
            target_port: port.port,
            scheme,
            listeners: listeners.into_iter().map(Arc::new).collect(),
        };
        self.edge.gateways.insert(port, listeners);
    }

    /// A certificate for hosts that clients trust.
    pub(crate) fn certificate(&mut self, hosts: &[&str]) -> Arc<Certificate> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).into()).collect();
        let made = rcgen::generate_simple_self_signed(hosts).unwrap();
        self.roots.push(made.cert.der().clone());
        let number = self.roots.len();
        Arc::new(Certificate {
            secret: NamespacedName::new("infra", &format!("tls-{number}")),
            chain: made.cert.pem().into(),
            key: made.signing_key.serialize_pem().into(),
        })
    }

    /// Serves what was added: starts backends that are named, and listens at ports that are new.
    pub(crate) async fn serve(&mut self) {
        assert_eq!(self.proxy.serve(&self.edge), []);
        let keys: Vec<UpstreamKey> = self.edge.upstreams().cloned().collect();
        for key in keys {
            let name = key.service.name.clone();
            let place = match name.as_str() {
                "empty" => continue,
                // A port at which nothing listens.
                "dead" => "127.0.0.1:1".parse().unwrap(),
                _ => self.backend(&name).await,
            };
            self.proxy.place(&key, &[(place, 1)].into());
        }
        for port in self.edge.gateways.keys().cloned().collect::<Vec<_>>() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let number = port.port;
            if self.ports.contains_key(&number) {
                continue;
            }
            self.ports.insert(number, listener.local_addr().unwrap());
            let proxy = self.proxy.clone();
            tokio::spawn(async move {
                proxy
                    .listen_for(listener, port, std::future::pending())
                    .await;
            });
        }
    }

    async fn backend(&mut self, name: &str) -> SocketAddr {
        if let Some((address, _)) = self.backends.get(name) {
            return *address;
        }
        let backend = Backend {
            name: name.into(),
            hits: Arc::default(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(answer_all(listener, backend.clone()));
        self.backends.insert(name.into(), (address, backend));
        address
    }

    /// The address of a port.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        self.ports[&port]
    }

    /// Number of requests that a backend got.
    pub(crate) fn hits(&self, backend: &str) -> usize {
        let (_, backend) = &self.backends[backend];
        backend.hits.load(Ordering::SeqCst)
    }

    /// Number of connections that a backend got.
    pub(crate) fn connections(&self, backend: &str) -> usize {
        let (_, backend) = &self.backends[backend];
        backend.connections.load(Ordering::SeqCst)
    }

    /// Waits until a backend has got this number of requests, and returns them: target and headers.
    pub(crate) async fn seen(&self, backend: &str, count: usize) -> Vec<Seen> {
        let (_, backend) = &self.backends[backend];
        loop {
            let seen = backend.seen.lock().unwrap().clone();
            if seen.len() >= count {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Serves HTTP/1.1 and HTTP/2.
async fn answer_all(listener: TcpListener, backend: Backend) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        backend.connections.fetch_add(1, Ordering::SeqCst);
        let backend = backend.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answered = answer(backend.clone(), request.map(Body::new));
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let rules = auto::Builder::new(TokioExecutor::new());
        tokio::spawn(async move {
            // Fails if the proxy leaves.
            drop(rules.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Answers with what was received. Paths choose other answers: `/status/CODE`, `/flaky/CODE/N` with this
/// status for the first N requests, `/silent` with none, `/slow` with half of a body.
async fn answer(backend: Backend, request: Request<Body>) -> Response {
    let number = backend.hits.fetch_add(1, Ordering::SeqCst);
    let target = request.uri().path_and_query().unwrap().to_string();
    let path: Vec<String> = request.uri().path().split('/').map(Into::into).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let headers = request.headers().iter();
    let mut headers: Vec<(String, String)> = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    // HTTP/2 has it in the target.
    if let Some(authority) = request.uri().authority() {
        headers.push(("host".into(), authority.to_string()));
    }
    let seen = (target.clone(), headers.clone());
    backend.seen.lock().unwrap().push(seen);
    let status = |code: &str| StatusCode::from_bytes(code.as_bytes()).unwrap();
    match &path[..] {
        ["", "status", code] => return status(code).into_response(),
        ["", "flaky", code, count] if number < count.parse().unwrap() => {
            return status(code).into_response();
        }
        ["", "silent"] => std::future::pending().await,
        ["", "slow"] => {
            let some = futures::stream::iter([Ok::<_, std::io::Error>("half")]);
            let some = futures::StreamExt::chain(some, futures::stream::pending());
            return Body::from_stream(some).into_response();
        }
        ["", "late", count] if number < count.parse().unwrap() => std::future::pending().await,
        _ => {}
    }
    let echo = serde_json::json!({
        "backend": &*backend.name,
        "method": request.method().as_str(),
        "target": target,
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    let own = [
        ("x-own", "backend"),
        ("x-gone", "1"),
        ("access-control-allow-origin", "https://backend"),
    ];
    (own, echo.to_string()).into_response()
}

/// A listener with routes by host.
pub(crate) fn listener<'a>(
    hostname: &str,
    hosts: impl IntoIterator<Item = (&'a str, Vec<Route>)>,
) -> Listener {
    let hosts = hosts.into_iter().map(|(name, routes)| {
        let routes = routes.into_iter().map(Arc::new).collect();
        let host = Host {
            asks_certificate: false,
            routes,
        };
        (name.to_owned(), host)
    });
    Listener {
        name: format!("for-{hostname}"),
        hostname: hostname.into(),
        mode: HostMode::Suffix,
        hosts: hosts.collect(),
        ..Listener::default()
    }
}

/// A backend by name.
pub(crate) fn to(name: &str) -> Target {
    with(name, UpstreamPolicy::default())
}

/// A backend by name, with a policy.
pub(crate) fn with(name: &str, policy: UpstreamPolicy) -> Target {
    Target::Upstream(UpstreamKey {
        service: NamespacedName::new("shop", name),
        port: 80,
        policy: Arc::new(policy),
    })
}

/// One of the targets of a route.
pub(crate) fn weighted(weight: u32, target: Target) -> WeightedTarget {
    WeightedTarget {
        weight,
        ..WeightedTarget::only(target).remove(0)
    }
}

/// A route for everything to a backend.
pub(crate) fn route(backend: &str) -> Route {
    Route {
        origin: RouteOrigin {
            kind: RouteKind::HttpRoute,
            name: NamespacedName::new("shop", backend),
            rule: Some("0".into()),
        },
        path: PathMatch::Prefix(String::new()),
        conditions: Vec::new(),
        targets: WeightedTarget::only(to(backend)),
        canary: None,
        policy: Arc::new(Policy::neutral()),
    }
}

/// Changes to a route.
pub(crate) trait RouteExt: Sized {
    fn at(self, path: PathMatch) -> Self;
    fn if_(self, condition: Condition) -> Self;
    fn policy(self, change: impl FnOnce(&mut Policy)) -> Self;
    fn targets(self, targets: Vec<WeightedTarget>) -> Self;
}

impl RouteExt for Route {
    fn at(mut self, path: PathMatch) -> Self {
        self.path = path;
        self
    }

    fn if_(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(Arc::make_mut(&mut self.policy));
        self
    }

    fn targets(mut self, targets: Vec<WeightedTarget>) -> Self {
        self.targets = targets;
        self
    }
}

pub(crate) fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

pub(crate) fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}
