//! The one form of all that a proxy serves, made of Ingresses and of Gateways.
//!
//! It knows neither of them: [`ingress`](crate::ingress) makes a [`Listener`] of Ingresses, and
//! Gateways have listeners of their own. An [`Edge`] has all listeners. [`endpoints()`] returns the
//! current endpoints of a backend.

mod auth;
mod cors;
mod endpoints;
mod host;
mod listener;
pub mod path;
mod pattern;
mod policy;
mod route;
mod service;
mod stream;
mod target;
mod template;

pub use auth::{
    ApiKey, Auth, Basic, Claims, ClientCertificates, External, Hidden, Hmac, Introspection, Jwt,
    JwtKeys, Ldap, LdapEntry, Oidc, Paseto, PasetoKey, Server, Verify,
};
pub use cors::{Cors, CorsList, CorsOrigin, CorsOrigins};
pub(crate) use endpoints::upstream;
pub use endpoints::{Services, Slices, endpoints};
pub use host::{HostMode, for_host};
pub use listener::{
    Certificate, ClientCheck, Edge, GatewayPort, Host, Listener, PortListeners, Scheme,
};
pub use pattern::Pattern;
pub(crate) use policy::is_framing;
pub use policy::{
    ErrorPages, HeaderEdit, Limits, Mirror, PathChange, Policy, Rate, Redirect, RedirectParts,
    Resend, Retry, Rewrite, Share, Sources, Timeouts,
};
pub use route::{
    Canary, CanaryRule, Condition, PathMatch, Route, RouteKind, RouteOrigin, Text, WeightedTarget,
};
pub use service::{PortName, Secret, UpstreamPort, UpstreamService};
pub use stream::{Stream, Streams};
pub use target::{
    Balance, HashBy, OutlierPolicy, Probe, Sticky, SubjectName, Target, Trust, UpstreamKey,
    UpstreamPolicy, UpstreamProtocol, UpstreamTls,
};
pub use template::{Template, Variable};
