//! The controller of Gateways: one process of the cluster that writes statuses, and makes a Service with
//! EndpointSlices for each Gateway.
//!
//! ```text
//! kube ──► Event ──► State ──► plan ──► writes ──► API
//! watches of Services, EndpointSlices, pods of proxies ──┘   └─► ControllerStatus
//! ```
//!
//! [`run_controller`] compares what is there with what the model says should be there, and writes the
//! difference, if this replica leads ([`lead`]). Proxies decide what they serve without it, by the same
//! functions of the model.

mod lease;
mod made;
mod plan;
mod proxies;
mod run;
mod servers;
mod store;
mod write;

use std::collections::BTreeMap;

use headgate_model::gateway::GatewayOptions;

pub use lease::lead;
pub use run::run_controller;

use crate::loops::status::SourceStatus;

/// Which Gateways have a controller, and what it makes for them.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Options of Gateways.
    pub gateways: GatewayOptions,
    /// Namespace of the proxies' pods.
    pub proxy_namespace: String,
    /// Selects the proxies' pods by label.
    pub proxy_selector: String,
    /// Selects the agents' pods, in the same namespace. `None` if agents do not run in pods: then they are taken to
    /// serve Gateways.
    pub agent_selector: Option<String>,
}

/// State of the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerStatus {
    /// Whether all objects were listed.
    pub is_synced: bool,
    /// Number of Gateways of ours.
    pub gateways: usize,
    /// Number of objects that are to be written; those that are being written are included.
    pub pending: usize,
    /// Number of writes, by kind of object and result: `written`, `conflict`, `gone` or `failed`.
    pub writes: BTreeMap<(&'static str, &'static str), u64>,
    /// Number of objects whose last write failed.
    pub failing: usize,
    /// State of the source.
    pub source: SourceStatus,
}
