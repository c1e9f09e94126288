//! Ingress: the routes of a proxy, made from Kubernetes objects.
//!
//! [`routes()`] is a pure function of [`Objects`], as [`contribution()`](crate::contribution) is of
//! a Service: it returns which requests go to which backend, under which [`Policy`], with which
//! certificates. [`endpoints()`] returns the current endpoints of a backend. Invalid fields are
//! refused by object and field. An invalid guard closes the routes that it should guard.

mod alias;
mod annotations;
mod auth;
mod canary;
mod candidate;
mod certificates;
mod class;
mod client_certificates;
mod cookie_path;
mod endpoints;
mod guests;
mod object;
mod owners;
mod passthrough;
pub mod path;
mod pattern;
mod policy;
mod reach;
mod routes;
mod rules;
mod template;
mod tls;

pub use annotations::{
    ANNOTATIONS, Annotation, Controller, DIFFERENT, FOREIGN, Foreign, NGINX, OWN, Support,
    is_settings, other_controller, setting, support,
};
pub use auth::{
    ApiKey, Auth, Basic, Claims, ClientCertificates, External, Hidden, Hmac, Introspection, Jwt,
    JwtKeys, Ldap, LdapEntry, Oidc, Paseto, PasetoKey, Server, Verify,
};
pub use class::{IngressOptions, serves};
pub use endpoints::endpoints;
pub use object::{
    Ingress, IngressBackend, IngressClass, IngressPath, IngressRule, IngressTls, Objects, PathType,
    PortName, Secret, UpstreamPort, UpstreamService,
};
pub use pattern::Pattern;
pub use policy::{
    Balance, Cors, ErrorPages, HashBy, HeaderEdit, Limits, Mirror, Origin, OutlierPolicy, Policy,
    Probe, Rate, Redirect, Retry, Rewrite, Sources, Sticky, Timeouts, UpstreamPolicy,
    UpstreamProtocol, UpstreamTls,
};
pub use reach::is_of_every_node;
pub use routes::{
    Canary, CanaryRule, Certificate, Condition, Host, PathMatch, Route, Routes, Target, Text,
    UpstreamKey, for_host,
};
pub use rules::routes;
pub use template::{Template, Variable};
