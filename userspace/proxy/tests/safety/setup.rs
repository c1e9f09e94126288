//! A proxy under test.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use headgate_model::{
    NamespacedName, Refusal,
    edge::{Edge, PortName, Secret, UpstreamPort, UpstreamService},
    ingress::{
        Ingress, IngressBackend, IngressOptions, IngressPath, IngressRule, IngressTls, Objects,
        PathType, routes,
    },
};
use headgate_proxy::{Proxy, Scheme, Settings};
use tokio::net::TcpListener;

use crate::{backend::Backend, client::Client};

/// The host of all rules.
pub(crate) const HOST: &str = "a.test";

/// A proxy for [`HOST`] with two backends: `admin` below `/admin`, and `web`.
pub(crate) struct Setup {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) web: Backend,
    pub(crate) admin: Backend,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default(), &objects(&[])).await
    }

    pub(crate) async fn with(settings: Settings, objects: &Objects) -> Self {
        let proxy = Arc::new(Proxy::new(settings).unwrap());
        let setup = Self {
            http: listen(&proxy, Scheme::Http).await,
            https: listen(&proxy, Scheme::Https).await,
            proxy,
            web: Backend::start().await,
            admin: Backend::start().await,
        };
        setup.serve(objects);
        setup
    }

    /// Serves these objects. Returns what model and proxy refuse.
    pub(crate) fn serve(&self, objects: &Objects) -> Vec<Refusal> {
        let options = IngressOptions {
            without_class: true,
            auth_local: vec!["127.0.0.0/8".parse().unwrap()],
            ..IngressOptions::default()
        };
        let routes = routes(objects, &options);
        let mut refusals = routes.refusals.clone();
        let edge = Edge::from(routes.listener);
        refusals.extend(self.proxy.serve(&edge));
        for key in edge.upstreams() {
            let backend = match key.service.name.as_str() {
                "admin" => &self.admin,
                _ => &self.web,
            };
            self.proxy
                .place(key, &BTreeMap::from([(backend.address, 1)]));
        }
        refusals
    }

    /// Sets one endpoint for all backends.
    pub(crate) fn place_all(&self, address: SocketAddr) {
        for state in self.proxy.upstreams() {
            self.proxy
                .place(&state.key, &BTreeMap::from([(address, 1)]));
        }
    }

    /// Checks that another client is served, and that its request arrives unchanged.
    pub(crate) async fn serves_others(&self) {
        let mut client = Client::connect(self.http).await;
        client
            .send("GET /other HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
            .await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let last = self.web.seen().pop().unwrap();
        assert_eq!((last.target.as_str(), last.is_whole), ("/other", true));
    }
}

async fn listen(proxy: &Arc<Proxy>, scheme: Scheme) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = proxy.clone();
    tokio::spawn(async move {
        proxy.listen(listener, scheme, std::future::pending()).await;
    });
    address
}

pub(crate) fn name(text: &str) -> NamespacedName {
    NamespacedName::new("default", text)
}

/// An Ingress for [`HOST`] with these annotations, and its Services.
pub(crate) fn objects(annotations: &[(&str, &str)]) -> Objects {
    let mut objects = Objects::default();
    for service in ["web", "admin"] {
        objects.services.insert(name(service), self::service());
    }
    let path = |path: &str, service: &str| IngressPath {
        path: path.into(),
        path_type: PathType::Prefix,
        backend: IngressBackend::Service {
            name: service.into(),
            port: PortName::Number(80),
        },
    };
    let ingress = Ingress {
        name: name("main"),
        created_s: Some(1),
        annotations: annotations
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        class: None,
        default_backend: None,
        rules: vec![IngressRule {
            host: HOST.into(),
            paths: vec![path("/admin", "admin"), path("/", "web")],
        }],
        tls: Vec::new(),
    };
    objects.ingresses.insert(ingress.name.clone(), ingress);
    objects
}

fn service() -> UpstreamService {
    UpstreamService {
        uid: String::new(),
        ports: vec![UpstreamPort {
            name: "http".into(),
            port: 80,
            app_protocol: None,
        }],
        udp_ports: Vec::new(),
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        is_external: false,
    }
}

/// Sets the Secret of a host.
pub(crate) fn add_tls(objects: &mut Objects, host: &str, secret: &str) {
    let ingress = objects.ingresses.get_mut(&name("main")).unwrap();
    ingress.tls.push(IngressTls {
        hosts: vec![host.into()],
        secret: Some(secret.into()),
    });
}

/// A Secret with certificate and key.
pub(crate) fn add_secret(objects: &mut Objects, secret: &str, chain: &str, key: &str) {
    let data = [("tls.crt", chain), ("tls.key", key)];
    let data = data.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
    let type_ = "kubernetes.io/tls".into();
    let data = data.into();
    objects.secrets.insert(name(secret), Secret { type_, data });
}

/// Waits until a condition holds, while other tasks run.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = tokio::time::timeout(Duration::from_secs(60), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("never: {what}"));
}
