//! Serves an [`Edge`](headgate_model::edge::Edge): an HTTP proxy that knows neither
//! Kubernetes nor BPF.
//!
//! ```text
//! client ─► server (TLS, PROXY protocol) ─► forward ─► upstream (balancing, connections) ─► endpoint
//!                                              │
//!                    index, guard, limits, choice, prepare, mirror, cors, compress
//! ```
//!
//! A request sees one configuration from its start to its end. New routes take effect with the next
//! request and touch no connection.
//!
//! A proxy with one route:
//!
//! ```
//! use std::{collections::BTreeMap, future, sync::Arc};
//!
//! use headgate_model::{
//!     NamespacedName,
//!     edge::{
//!         Edge, Host, Listener, PathMatch, Policy, Route, RouteOrigin, Target, UpstreamKey,
//!         WeightedTarget,
//!     },
//! };
//! use headgate_proxy::{Proxy, Scheme, Settings};
//! use tokio::net::TcpListener;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = UpstreamKey {
//!     service: NamespacedName::new("shop", "web"),
//!     port: 80,
//!     policy: Arc::default(),
//! };
//! let route = Route {
//!     origin: RouteOrigin::ingress(NamespacedName::new("shop", "main")),
//!     path: PathMatch::Prefix("/shop".into()),
//!     conditions: Vec::new(),
//!     targets: WeightedTarget::only(Target::Upstream(backend.clone())),
//!     canary: None,
//!     policy: Arc::new(Policy::default()),
//! };
//! let host = Host {
//!     asks_certificate: false,
//!     routes: vec![Arc::new(route)],
//! };
//! let edge = Edge::from(Listener {
//!     hosts: [("shop.example.com".into(), host)].into(),
//!     ..Listener::default()
//! });
//!
//! let proxy = Arc::new(Proxy::new(Settings::default())?);
//! let refusals = proxy.serve(&edge);
//! assert!(refusals.is_empty());
//! proxy.place(&backend, &BTreeMap::from([("127.0.0.1:8080".parse()?, 1)]));
//!
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let stop = future::ready(()); // Usually a signal.
//! proxy.listen(listener, Scheme::Http, stop).await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

// Connections of clients.
mod activity;
mod client;
mod connection;
mod handshake;
mod http1;
mod opened;
mod proxy_protocol;
mod relay;
mod server;
mod stream;
mod tls;
mod worker;

// Settings, routes and endpoints.
mod index;
mod proxy;
mod serving;

// A request: `forward` composes the steps guard, prepare, mirror, send and answer.
mod answer;
mod auth;
mod call;
mod choice;
mod compress;
mod cors;
mod direct;
mod error_pages;
mod fields;
mod forward;
mod guard;
mod headers;
mod limits;
mod message;
mod mirror;
mod origin;
mod prepare;
mod rewrite;
mod routing;
mod send;
mod spelling;
mod upstream;
mod variables;

// Bodies.
mod body;
mod budget;
mod held;
mod observed;
mod received;
mod upload;

// What operators see.
mod access_log;
mod explain;
mod stats;
mod table;
mod trace;
mod words;

// Requests to other services.
mod fetch;
mod reach;

pub use access_log::{AccessLog, LogFormat};
pub use body::{Body, BodyError};
pub use explain::{AnswerRow, ExplainRequest, Explanation, HostMatch, PassedRow};
pub use headgate_model::edge::Scheme;
pub use proxy::{Proxy, Settings};
pub use serving::Endpoints;
pub use stats::{Answers, BUCKETS, Counted};
pub use stream::Tunnel;
pub use table::{AnswersRow, BackendRow, CertificateRow, EndpointRow, RouteRow, Table};
pub use tls::{
    facts::CertificateKind,
    store::{check_authorities, check_certificate},
};
pub use trace::{SpanCounts, TraceSettings, Tracer};
pub use upstream::{
    EndpointHealth, EndpointState, ErrorKind, NoEndpoint, Pick, PickInput, Reply, SendError,
    Upstream, UpstreamState, Upstreams,
};
pub use worker::work;
