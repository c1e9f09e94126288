//! Ingress: the routes of a proxy, made from Kubernetes objects.
//!
//! [`routes()`] is a pure function of [`Objects`], as [`contribution()`](crate::contribution) is of
//! a Service: it returns which requests go to which backend, under which
//! [`Policy`](crate::edge::Policy), with which certificates. Invalid fields are refused by object and
//! field. An invalid guard closes the routes that it should guard.

mod alias;
mod annotations;
mod canary;
mod candidate;
mod certificates;
mod class;
mod client_certificates;
mod cookie_path;
mod guests;
mod migration;
mod object;
mod owners;
mod passthrough;
mod reach;
mod routes;
mod rules;
mod tls;

pub use annotations::{
    ANNOTATIONS, Annotation, Controller, DIFFERENT, FOREIGN, Foreign, NGINX, OWN, Support,
    is_settings, other_controller, setting, support,
};
pub(crate) use annotations::{Context, Given, Settings, read_given};
pub use class::{IngressOptions, serves};
pub(crate) use cookie_path::with_cookie_path;
pub use migration::{Migration, Note, to_gateway};
pub use object::{
    Ingress, IngressBackend, IngressClass, IngressPath, IngressRule, IngressTls, Objects, PathType,
};
pub use reach::is_of_every_node;
pub use routes::Routes;
pub use rules::routes;
