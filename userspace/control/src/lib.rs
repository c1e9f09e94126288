//! Reads Services and Ingresses from a source, and keeps a dataplane and a proxy up to date with
//! them.
//!
//! ```text
//! source/                  loops/                                        publish/
//!
//! manifests ─┐          ┌─► Reconciler: Planner ─► diff ─► Dataplane
//!            ├─► Event ─┤     └─► Status ─────────────────────────────► Events
//! kube ──────┘          └─► Router: Objects ─► Edge, endpoints ─► Serve
//!                             └─► IngressStatus ──────────────────────► Events, Ingress status
//! ```
//!
//! - `source`: [`manifests`] and [`kube`] read objects; `convert` makes [`Event`]s of the model
//!   from them.
//! - `loops`: [`run`] programs a dataplane, [`run_ingress`] routes a proxy. Events that arrive
//!   together are one pass.
//! - `controller`: [`run_controller`] writes statuses of Gateways, and makes Services for them.
//! - `publish`: [`report`] writes Events, [`publish()`] the status of Ingresses.
//!
//! This crate knows Kubernetes and no BPF.
//!
//! ```
//! use headgate_control::{Event, Interest, manifests};
//! use headgate_model::{Node, Planner};
//!
//! let folder = tempfile::tempdir()?;
//! let web = "{kind: Service, metadata: {name: web}, \
//!             spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}";
//! std::fs::write(folder.path().join("web.yaml"), web)?;
//! let mut planner = Planner::new(Node::default());
//! for event in manifests::read(folder.path(), Interest::Services, "node-a") {
//!     if let Event::Service(name, service) = event {
//!         planner.set_service(&name, service);
//!     }
//! }
//! planner.update();
//! let frontends = planner.desired().frontends.keys();
//! assert_eq!(frontends.map(ToString::to_string).collect::<Vec<_>>(), ["tcp 10.96.0.10:80"]);
//! # Ok::<(), std::io::Error>(())
//! ```
#![forbid(unsafe_code)]

mod controller;
mod loops;
mod publish;
mod source;

pub use controller::{ControllerOptions, ControllerStatus, lead, run_controller};
pub use loops::{
    ingress::{EdgeOptions, Endpoints, Serve, run_ingress},
    listeners::ServedListener,
    reconcile::{Inputs, Outputs, Reconciler, run},
    status::{Failure, IngressStatus, Pass, SourceStatus, Status},
};
pub use publish::{
    events::{Complain, report},
    ingress_status::{Address, Publish, publish},
};
pub use source::{
    event::{Event, Interest, Kind, NodeState, Served},
    kube, manifests,
    pods::follow_opted_out,
    ranges::follow_service_ranges,
};
