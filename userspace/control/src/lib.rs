//! Watches Services and EndpointSlices and keeps a dataplane in step with them.
//!
//! ```text
//! manifests ─┐
//!            ├─► Event ─► Model ─► desired ─► diff ─► Dataplane
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

pub use event::{Event, Kind};
pub use reconcile::{Failure, Reconciler, Status, run};
