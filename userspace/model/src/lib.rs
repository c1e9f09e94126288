//! Services, endpoints and nodes, without Kubernetes and without BPF.
//!
//! [`Model`] is what exists, [`Desired`] what the maps should hold, [`Actual`] what they do hold, and
//! [`diff()`] the ordered list of [`Change`]s from one to the other. Nothing here does I/O.
#![forbid(unsafe_code)]

mod desired;
mod diff;
mod frontend;
mod plan;
mod service;

pub use desired::{Refusal, desired};
pub use diff::diff;
pub use frontend::{
    Backend, Family, Frontend, FrontendKind, ParseKeyError, Protocol, Scope, ServiceKey,
    ServiceName,
};
pub use plan::{
    Actual, BackendId, BackendSpec, Change, Dataplane, Desired, FrontendSpec, ServiceId,
    ServiceSpec,
};
pub use service::{Endpoint, EndpointPort, EndpointSlice, Model, Node, Service, ServicePort};
