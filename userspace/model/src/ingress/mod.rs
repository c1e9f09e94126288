//! Ingress: what the objects mean for a proxy.
//!
//! [`routes()`] is a pure function of [`Objects`], as [`share()`](crate::share) is of a Service:
//! which requests go where, under which [`Policy`], with which certificates. [`endpoints()`] says
//! where the backend of a route is right now. What cannot be taken is refused by object and field; a
//! guard that cannot be read closes what it should guard.

mod alias;
mod annotations;
mod auth;
mod canary;
mod candidate;
mod class;
mod client_certificates;
mod endpoints;
mod object;
mod passthrough;
mod pattern;
mod policy;
mod routes;
mod rules;
mod tls;

pub use annotations::{
    ANNOTATIONS, Annotation, DIFFERENT, FOREIGN, Fate, Foreign, NGINX, OWN, fates, setting,
};
pub use auth::{
    ApiKey, Auth, Basic, Claims, ClientCertificates, External, Hidden, Hmac, Introspection, Jwt,
    JwtKeys, Ldap, LdapEntry, Oidc, Paseto, PasetoKey, Server, Verify,
};
pub use class::{IngressOptions, serves};
pub use endpoints::endpoints;
pub use object::{
    Ingress, IngressBackend, IngressClass, IngressPath, IngressRule, IngressTls, Objects, PathType,
    PortName, Secret,
};
pub use pattern::Pattern;
pub use policy::{
    Balance, Cors, HashBy, HeaderEdit, Limits, Mirror, Origin, OutlierPolicy, Policy, Probe, Rate,
    Redirect, Retry, Sources, Sticky, Timeouts, UpstreamPolicy, UpstreamProtocol, UpstreamTls,
};
pub use routes::{
    Canary, CanaryRule, Certificate, Condition, Host, PathMatch, Route, Routes, Target, Text,
    UpstreamKey, for_host,
};
pub use rules::routes;
