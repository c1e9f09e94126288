//! Serves what [`Routes`](headgate_model::ingress::Routes) say: an HTTP proxy that knows neither
//! Kubernetes nor BPF.
//!
//! ```text
//! client ─► server (TLS, PROXY protocol) ─► forward ─► upstream (balancing, connections) ─► endpoint
//!                                              │
//!                    index, guard, limits, canary, prepare, mirror, cors, compress
//! ```
//!
//! A request sees one configuration from its start to its end. New routes take effect with the next
//! request and touch no connection.
#![forbid(unsafe_code)]

// A connection of a client.
mod activity;
mod proxy;
mod proxy_protocol;
mod server;
mod serving;
mod stream;
mod tls;

// A request, in the order of its steps.
mod call;
mod message;
mod path;

mod forward;

mod index;

mod guard;

mod auth;
mod cors;
mod limits;

mod canary;
mod headers;
mod prepare;

mod mirror;
mod send;
mod upstream;

mod answer;
mod compress;

// Bodies.
mod body;
mod held;
mod observed;
mod upload;

// What operators see.
mod access_log;
mod explain;
mod stats;
mod table;
mod trace;
mod words;

// Other services.
mod fetch;

pub use access_log::{AccessLog, LogFormat};
pub use body::{Body, BodyError};
pub use explain::{AnswerRow, ExplainRequest, Explanation, HostMatch, PassedRow};
pub use proxy::{Proxy, Settings};
pub use server::Scheme;
pub use serving::Endpoints;
pub use stats::{Answers, BUCKETS};
pub use table::{AnswersRow, BackendRow, CertificateRow, EndpointRow, RouteRow, Table};
pub use tls::facts::CertificateKind;
pub use trace::{SpanCounts, TraceSettings, Tracer};
pub use upstream::{
    EndpointHealth, EndpointState, ErrorKind, NoEndpoint, Pick, PickInput, Reply, SendError,
    Upstream, UpstreamState, Upstreams,
};
