//! A proxy in front of a backend.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Json, Router};
use bytes::Bytes;
use headgate_model::{
    NamespacedName,
    edge::{
        Auth, Certificate, Edge, Host, Listener, PathMatch, Policy, Route, RouteOrigin, Target,
        UpstreamKey, WeightedTarget,
    },
};
use headgate_proxy::{Proxy, Scheme, Settings};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        sign::{CertifiedKey, SingleCertAndKey},
    },
};

/// Hosts of the proxy: the first has the policy under test, the second no authentication.
pub(crate) const HOSTS: [&str; 2] = ["shop.example", "open.example"];

/// A proxy and the number of requests that reached its backend.
pub(crate) struct Setup {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) hits: Arc<AtomicUsize>,
    pub(crate) refusals: usize,
    proxy: Arc<Proxy>,
    edge: Edge,
    pub(crate) roots: RootCertStore,
}

/// Certificate chain and key of a client.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Setup {
    pub(crate) async fn new(auth: Auth) -> Self {
        let policy = Policy {
            auth: vec![auth],
            ..Policy::default()
        };
        Self::with(policy, Listener::default()).await
    }

    pub(crate) async fn with(policy: Policy, listener: Listener) -> Self {
        let hits = Arc::<AtomicUsize>::default();
        let backend = backend(hits.clone()).await;
        let key = UpstreamKey {
            service: NamespacedName::new("shop", "web"),
            port: 80,
            policy: Arc::default(),
        };
        let made = rcgen::generate_simple_self_signed(HOSTS.map(String::from)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let certificate = Arc::new(Certificate {
            secret: NamespacedName::new("shop", "tls"),
            chain: made.cert.pem().into(),
            key: made.signing_key.serialize_pem().into(),
        });
        let edge = Edge::from(Listener {
            hosts: hosts(policy, &key),
            certificates: HOSTS.map(|host| (host.into(), certificate.clone())).into(),
            ..listener
        });
        // The OpenID provider is on loopback, as are the clients.
        let loopback = vec!["127.0.0.0/8".parse().unwrap()];
        let settings = Settings {
            auth_local: loopback.clone(),
            trusted: loopback,
            ..Settings::default()
        };
        let proxy = Arc::new(Proxy::new(settings).unwrap());
        let refusals = proxy.serve(&edge).len();
        for key in edge.upstreams() {
            proxy.place(key, &[(backend, 1)].into());
        }
        Self {
            http: listen(&proxy, Scheme::Http).await,
            https: listen(&proxy, Scheme::Https).await,
            hits,
            refusals,
            proxy,
            edge,
            roots,
        }
    }

    /// Serves the same routes again.
    pub(crate) fn reload(&self) {
        self.proxy.serve(&self.edge);
    }

    /// Sends a request over TLS with this server name; the request may name another host.
    pub(crate) async fn send(
        &self,
        name: &str,
        identity: Option<&Identity>,
        request: Request<Empty<Bytes>>,
    ) -> Response<Bytes> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let config = match identity {
            // Not `with_client_auth_cert`, which refuses certificates of X.509 version 1.
            Some((chain, key)) => {
                let key = aws_lc_rs::sign::any_supported_type(key).unwrap();
                let own = CertifiedKey::new(chain.clone(), key);
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.https).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        exchange(connector.connect(name, stream).await.unwrap(), request).await
    }

    /// Sends a request over TLS with the server name of its `Host`.
    pub(crate) async fn get(&self, request: http::request::Builder) -> Response<Bytes> {
        let request = request.body(Empty::new()).unwrap();
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        self.send(&host, None, request).await
    }

    pub(crate) async fn plain(&self, request: http::request::Builder) -> Response<Bytes> {
        let stream = TcpStream::connect(self.http).await.unwrap();
        exchange(stream, request.body(Empty::new()).unwrap()).await
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn hosts(policy: Policy, key: &UpstreamKey) -> BTreeMap<String, Host> {
    let is_certificate = |auth: &Auth| matches!(auth, Auth::Certificate(_));
    let asks_certificate = policy.auth.iter().any(is_certificate);
    let host = |policy, asks_certificate| Host {
        asks_certificate,
        routes: vec![Arc::new(Route {
            origin: RouteOrigin::ingress(NamespacedName::new("shop", "web")),
            path: PathMatch::Prefix(String::new()),
            conditions: Vec::new(),
            targets: WeightedTarget::only(Target::Upstream(key.clone())),
            canary: None,
            policy: Arc::new(policy),
        })],
    };
    let [guarded, open] = HOSTS.map(String::from);
    BTreeMap::from([
        (guarded, host(policy, asks_certificate)),
        (open, host(Policy::default(), false)),
    ])
}

async fn listen(proxy: &Arc<Proxy>, scheme: Scheme) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = proxy.clone();
    tokio::spawn(async move { proxy.listen(listener, scheme, std::future::pending()).await });
    address
}

/// Responds with the request headers as JSON.
async fn backend(hits: Arc<AtomicUsize>) -> SocketAddr {
    let answer = move |headers: HeaderMap| {
        hits.fetch_add(1, Ordering::SeqCst);
        let pairs = headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        });
        let headers: BTreeMap<String, String> = pairs.collect();
        async move { Json(headers) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

async fn exchange(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Response<Bytes> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

pub(crate) fn request(path: &str) -> http::request::Builder {
    Request::get(path).header("host", HOSTS[0])
}

/// The request headers that the backend received.
pub(crate) fn echoed(response: &Response<Bytes>) -> BTreeMap<String, String> {
    serde_json::from_slice(response.body()).unwrap()
}

/// A certificate authority.
pub(crate) struct Authority {
    pub(crate) pem: Vec<u8>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (params, key) = authority(name);
        let made = params.self_signed(&key).unwrap();
        Self {
            pem: made.pem().into(),
            der: made.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An intermediate authority of this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let (params, key) = authority(name);
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: made.pem().into(),
            der: made.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn identity(&self, name: &str, others: &[&Authority]) -> Identity {
        self.sign(params(name), others)
    }

    pub(crate) fn sign(&self, params: CertificateParams, others: &[&Authority]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.issuer).unwrap();
        let others = others.iter().map(|other| other.der.clone());
        let chain = std::iter::once(own.der().clone()).chain(others).collect();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        (chain, key)
    }
}

pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Shop, Inc.");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    (params, KeyPair::generate().unwrap())
}
