//! The proxy beside nginx, configured as ingress-nginx configures it: the same Ingresses, the same
//! requests, and what both answer and what their backends saw, compared field by field.
//!
//! `cases.yaml` has the Ingresses and requests, `differences.yaml` the differences that are meant, each
//! with its reason.

mod backend;
mod case;
mod client;
mod compare;
mod hash;
mod http2;
mod nginx;

pub use backend::{AUTH_PORT, BACKEND_PORT, serve, serve_named};
pub use case::{Case, Rule, cases, manifests, requests};
pub use client::{Request, Transport, ask, exchange, hold};
pub use compare::{Differences, Seen};
pub use hash::{HASHED, hash_requests};
pub use nginx::{NOT_COMPARED, configuration};

/// The address of nginx.
pub const NGINX: &str = "10.99.1.1";
/// The address of nginx for HTTP/2 without TLS, which it does not serve beside HTTP/1.1 on one port.
pub const NGINX_HTTP2: &str = "10.99.1.3";
/// The address of Headgate's proxy.
pub const HEADGATE: &str = "10.99.1.2";
/// The address of the client.
pub const CLIENT: &str = "10.99.2.3";
/// The address of the backend, and of the service that `auth-url` names.
pub const BACKEND: &str = "10.99.2.1";
/// The addresses of the backends of which one is chosen by a hash.
pub const MANY: [&str; 6] = [
    "10.99.2.11",
    "10.99.2.12",
    "10.99.2.13",
    "10.99.2.14",
    "10.99.2.15",
    "10.99.2.16",
];
