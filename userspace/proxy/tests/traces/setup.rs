//! A proxy under test.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request as Asked};
use bytes::Bytes;
use headgate_model::{
    NamespacedName,
    edge::{
        Edge, Host, Listener, PathMatch, Policy, Route, RouteOrigin, Target, UpstreamKey,
        WeightedTarget,
    },
};
use headgate_proxy::{Proxy, Scheme, Settings, TraceSettings, Tracer};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::collector::Collector;

pub(crate) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub(crate) const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
pub(crate) const UNSAMPLED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);

type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// A proxy for `a.test`, with a rule for `/shop` and one backend with two endpoints.
pub(crate) struct Setup {
    pub(crate) address: SocketAddr,
    pub(crate) backends: Vec<SocketAddr>,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) collector: Collector,
    seen: Seen,
}

/// Returns settings that export all traces to a collector.
pub(crate) fn exporting_to(collector: &Collector) -> TraceSettings {
    let endpoint = format!("http://{}", collector.address);
    TraceSettings::new(endpoint.parse().unwrap(), "node-a")
}

impl Setup {
    pub(crate) async fn new(policy: Policy, collector: Collector) -> Self {
        let settings = exporting_to(&collector);
        Self::with(policy, collector, settings, Settings::default()).await
    }

    pub(crate) async fn with(
        policy: Policy,
        collector: Collector,
        traces: TraceSettings,
        settings: Settings,
    ) -> Self {
        let seen = Seen::default();
        let backends = vec![backend(&seen).await, backend(&seen).await];
        let settings = Settings {
            tracer: Some(Tracer::start(&traces).unwrap()),
            ..settings
        };
        let proxy = Arc::new(Proxy::new(settings).unwrap());
        let setup = Self {
            address: listen(&proxy).await,
            backends,
            proxy,
            collector,
            seen,
        };
        setup.proxy.serve(&routes(policy));
        setup.place(&setup.backends);
        setup
    }

    pub(crate) fn place(&self, endpoints: &[SocketAddr]) {
        let endpoints = endpoints.iter().map(|address| (*address, 1)).collect();
        self.proxy.place(&key(), &endpoints);
    }

    /// Returns the headers of all requests to backends.
    pub(crate) fn seen(&self) -> Vec<HeaderMap> {
        self.seen.lock().unwrap().clone()
    }

    /// Sends a `GET` with these headers, and returns what the backend received.
    pub(crate) async fn pass(&self, headers: &[(&str, &str)]) -> HeaderMap {
        let status = self.get("/shop/cart?secret=1", headers).await;
        assert_eq!(status, StatusCode::OK);
        self.seen().pop().unwrap()
    }

    pub(crate) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> StatusCode {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(target).header("host", "a.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response: Response<_> = sender.send_request(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    }

    /// Waits until the collector has this number of spans.
    pub(crate) async fn collected(&self, spans: usize) {
        let collected = async {
            // A span is exported only after the response was sent.
            while self.collector.spans().len() < spans {
                self.proxy.flush().await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let collected = tokio::time::timeout(LONGEST, collected).await;
        assert!(collected.is_ok(), "{:#?}", self.collector.spans());
        assert_eq!(self.collector.spans().len(), spans);
    }
}

fn key() -> UpstreamKey {
    UpstreamKey {
        service: NamespacedName::new("shop", "web"),
        port: 80,
        policy: Arc::default(),
    }
}

fn routes(policy: Policy) -> Edge {
    let route = Route {
        origin: RouteOrigin::ingress(NamespacedName::new("shop", "main")),
        path: PathMatch::Prefix("/shop".into()),
        conditions: Vec::new(),
        targets: WeightedTarget::only(Target::Upstream(key())),
        canary: None,
        policy: Arc::new(policy),
    };
    let host = Host {
        asks_certificate: false,
        routes: vec![Arc::new(route)],
    };
    Edge::from(Listener {
        hosts: [("a.test".into(), host)].into(),
        ..Listener::default()
    })
}

async fn listen(proxy: &Arc<Proxy>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = proxy.clone();
    tokio::spawn(async move {
        let forever = std::future::pending();
        proxy.listen(listener, Scheme::Http, forever).await;
    });
    address
}

/// Responds 503 to the first request for `/shop/flaky`, and 200 otherwise.
async fn backend(seen: &Seen) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = seen.clone();
    let app = Router::new().fallback(move |asked: Asked| async move {
        let mut seen = seen.lock().unwrap();
        seen.push(asked.headers().clone());
        match asked.uri().path() == "/shop/flaky" && seen.len() == 1 {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Waits until a condition holds, while other tasks run.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = tokio::time::timeout(LONGEST, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("never: {what}"));
}
