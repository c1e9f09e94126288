//! The proxy beside nginx, configured as ingress-nginx configures it: the same Ingresses, the same
//! requests, and what both answer and what their backends saw, compared field by field.
//!
//! `cases.yaml` has the Ingresses and requests, `differences.yaml` the differences that are meant, each
//! with its reason.

mod backend;
mod case;
mod client;
mod compare;
mod nginx;

pub use backend::{AUTH_PORT, BACKEND_PORT, serve};
pub use case::{Case, Rule, cases, manifests, requests};
pub use client::{Request, exchange};
pub use compare::{Differences, Seen};
pub use nginx::{NOT_COMPARED, configuration};

/// The address of nginx.
pub const NGINX: &str = "10.99.1.1";
/// The address of Headgate's proxy.
pub const HEADGATE: &str = "10.99.1.2";
/// The address of the client.
pub const CLIENT: &str = "10.99.2.3";
/// The address of the backend, and of the service that `auth-url` names.
pub const BACKEND: &str = "10.99.2.1";
