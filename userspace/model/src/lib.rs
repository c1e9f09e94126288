//! Services, endpoints and nodes, without Kubernetes and without BPF.
//!
//! [`contribution()`] is what one Service adds, and [`Planner`] combines all Services: [`Desired`]
//! is what the maps should hold, [`Actual`] what they hold, and [`diff()`] the ordered list of
//! [`Change`]s from one to the other. [`edge`] is what a proxy serves, and [`ingress`] makes it of
//! Ingresses. Nothing here does I/O.
#![forbid(unsafe_code)]

mod desired;
mod diff;
pub mod edge;
mod frontend;
pub mod gateway;
mod ids;
pub mod ingress;
mod plan;
mod planner;
mod put;
mod refusal;
mod routed;
mod service;
mod share;

pub use desired::{Contribution, Ownership, contribution};
pub use diff::diff;
pub use frontend::{
    Backend, Family, Frontend, FrontendKind, KeyParts, Location, NameParts, NamespacedName,
    ParseKeyError, Protocol, Scope, ServiceKey, Shared,
};
pub use ids::{Ids, QUARANTINE};
pub use plan::{
    Actual, AddressKind, AddressSpec, BackendId, Change, Dataplane, Desired, FrontendSpec,
    HealthCheck, Restored, ServiceId, ServiceSpec, Sweep,
};
pub use planner::{Planner, Touched};
pub use put::put;
pub use refusal::{ObjectName, Refusal, RefusalKind};
pub use routed::{Routed, Share};
pub use service::{Endpoint, EndpointPort, EndpointSlice, Node, Service, ServicePort};
pub use share::Limits;
