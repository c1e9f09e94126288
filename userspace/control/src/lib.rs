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

mod convert;
mod event;
mod ingress;
mod ingress_status;
pub mod kube;
pub mod manifests;
mod reconcile;
mod report;

pub use event::{Event, Interest, Kind, NodeState};
pub use ingress::{Endpoints, IngressStatus, Serve, run_ingress};
pub use ingress_status::{Address, Publish, publish};
pub use reconcile::{Failure, Inputs, Outputs, Pass, Reconciler, Status, run};
pub use report::{Complain, report};
