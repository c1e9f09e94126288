//! A proxy and its backend.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use headgate_model::{
    NamespacedName,
    edge::{Edge, PortName, UpstreamPort, UpstreamService},
    ingress::{
        Ingress, IngressBackend, IngressOptions, IngressPath, IngressRule, Objects, PathType,
        routes,
    },
};
use headgate_proxy::{Proxy, Scheme, Settings};
use tokio::net::TcpListener;

use super::backend::Backend;

pub(super) struct Setup {
    pub(super) backend: Backend,
    /// HTTP, HTTP behind the PROXY protocol, and TLS.
    pub(super) listeners: [SocketAddr; 3],
    proxies: Vec<Arc<Proxy>>,
}

impl Setup {
    pub(super) async fn new() -> Result<Self> {
        let backend = Backend::start().await?;
        let times = Settings {
            head_timeout: Duration::from_secs(2),
            body_timeout: Duration::from_secs(2),
            ..Settings::default()
        };
        let behind = Settings {
            proxy_protocol: vec![IpAddr::from([127, 0, 0, 1]).into()],
            ..times.clone()
        };
        let proxies = vec![Arc::new(Proxy::new(times)?), Arc::new(Proxy::new(behind)?)];
        let routes = routes(
            &objects(),
            &IngressOptions {
                without_class: true,
                ..IngressOptions::default()
            },
        );
        assert_eq!(routes.refusals, []);
        let edge = Edge::from(routes.listener);
        for proxy in &proxies {
            proxy.serve(&edge);
            for key in edge.upstreams() {
                proxy.place(key, &BTreeMap::from([(backend.address, 1)]));
            }
        }
        let listeners = [
            listen(&proxies[0], Scheme::Http).await?,
            listen(&proxies[1], Scheme::Http).await?,
            listen(&proxies[0], Scheme::Https).await?,
        ];
        Ok(Self {
            backend,
            listeners,
            proxies,
        })
    }

    /// Requests that the proxy meant to send to the backend so far.
    pub(super) fn sent(&self) -> u64 {
        let upstreams = self.proxies.iter().flat_map(|proxy| proxy.upstreams());
        let endpoints = upstreams.flat_map(|upstream| upstream.endpoints);
        endpoints.map(|endpoint| endpoint.requests).sum()
    }
}

async fn listen(proxy: &Arc<Proxy>, scheme: Scheme) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let proxy = proxy.clone();
    tokio::spawn(async move { proxy.listen(listener, scheme, std::future::pending()).await });
    Ok(address)
}

/// A host that the proxy serves, and one with TLS passthrough.
fn objects() -> Objects {
    let name = |text: &str| NamespacedName::new("default", text);
    let service = UpstreamService {
        uid: String::new(),
        ports: vec![UpstreamPort {
            name: "http".into(),
            port: 80,
            app_protocol: None,
        }],
        udp_ports: Vec::new(),
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        is_external: false,
    };
    let ingress = |text: &str, host: &str, annotations: &[(&str, &str)]| Ingress {
        name: name(text),
        created_s: Some(1),
        annotations: annotations
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        class: None,
        default_backend: None,
        rules: vec![IngressRule {
            host: host.into(),
            paths: vec![IngressPath {
                path: "/".into(),
                path_type: PathType::Prefix,
                backend: IngressBackend::Service {
                    name: "web".into(),
                    port: PortName::Number(80),
                },
            }],
        }],
        tls: Vec::new(),
    };
    let mut objects = Objects::default();
    objects.services.insert(name("web"), service);
    let passed = [("headgate.io/ssl-passthrough", "true")];
    for ingress in [
        ingress("main", "a.test", &[]),
        ingress("passed", "passed.test", &passed),
    ] {
        objects.ingresses.insert(ingress.name.clone(), ingress);
    }
    objects
}
