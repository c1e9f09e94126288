//! Watches Services, EndpointSlices and the own Node, and keeps a dataplane in step with them.
//!
//! ```text
//! manifests ─┐
//!            ├─► Event ─► Planner ─► diff ─► Dataplane
//! kube ──────┘
//! ```
//!
//! This crate knows Kubernetes and no BPF.
#![forbid(unsafe_code)]

mod convert;
mod event;
pub mod kube;
pub mod manifests;
mod reconcile;
mod report;

pub use event::{Event, Kind, NodeState};
pub use reconcile::{Failure, Inputs, Outputs, Pass, Reconciler, Status, run};
pub use report::report;
