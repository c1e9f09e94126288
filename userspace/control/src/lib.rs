//! Watches Services, EndpointSlices and the own Node, and keeps a dataplane in step with them; and
//! Ingresses with what belongs to them, and keeps a proxy in step.
//!
//! ```text
//! manifests ─┐            ┌─► Planner ─► diff ─► Dataplane
//!            ├─► Event ───┤
//! kube ──────┘            └─► Objects ─► routes, endpoints ─► Serve
//! ```
//!
//! This crate knows Kubernetes and no BPF.
#![forbid(unsafe_code)]

mod loops;
mod publish;
mod source;

pub use loops::{
    ingress::{Endpoints, Serve, run_ingress},
    reconcile::{Inputs, Outputs, Reconciler, run},
    status::{Failure, IngressStatus, Pass, SourceStatus, Status},
};
pub use publish::{
    events::{Complain, report},
    ingress_status::{Address, Publish, publish},
};
pub use source::{
    event::{Event, Interest, Kind, NodeState},
    kube, manifests,
};
