//! What the loops report.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use headgate_model::{HealthCheck, NamespacedName, Refusal, Sweep};

use super::listeners::ServedListener;
use crate::source::event::{Kind, NodeState};

/// State of a loop's source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// Why the source cannot be reached; `None` if it can.
    pub disconnected: Option<String>,
    /// Number of events of objects that the loop has handled, by kind.
    pub events: BTreeMap<Kind, u64>,
}

/// State of the loop that programs the dataplane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Number of the last pass; 0 before the first.
    pub revision: u64,
    /// Whether the maps were written from complete lists.
    pub is_synced: bool,
    /// Number of services in the maps.
    pub services: usize,
    /// Number of backends in the maps.
    pub backends: usize,
    /// Number of frontends in the maps.
    pub frontends: usize,
    /// TCP and UDP listeners of Gateways.
    pub listeners: Vec<ServedListener>,
    /// Fields of objects that are not served as written.
    pub refusals: Vec<Refusal>,
    /// Changes that the dataplane refused in the last pass.
    pub failures: Vec<Failure>,
    /// State of the source.
    pub source: SourceStatus,
    /// Answers to load balancers, by Service.
    pub health_checks: BTreeMap<NamespacedName, HealthCheck>,
    /// What the API says of this node.
    pub node: NodeState,
    /// Number of map entries that another process changed and an audit repaired.
    pub repaired: u64,
    /// When the last pass ended, and how long it took.
    pub last_pass: Option<(SystemTime, Duration)>,
    /// Since when the maps cannot be written, whatever the change; `None` if they can.
    pub unwritten_since: Option<Instant>,
    /// When the loop shows its next sign of life, at the latest.
    pub beat: Option<Instant>,
}

/// How long the maps may be out of date because they cannot be written, until the node asks load
/// balancers for no more traffic.
const UNWRITTEN: Duration = Duration::from_secs(10);
/// How late a sign of life may be: a first pass with a hundred thousand Services takes seconds.
const LATE: Duration = Duration::from_secs(60);

impl Status {
    /// Returns whether the maps follow the source. One change that fails is no reason to say no: the
    /// others are programmed.
    pub fn is_followed(&self, now: Instant) -> bool {
        let is_late = |since| now.saturating_duration_since(since) >= UNWRITTEN;
        self.is_synced && !self.unwritten_since.is_some_and(is_late)
    }

    /// Returns whether the loop runs.
    pub fn is_alive(&self, now: Instant) -> bool {
        let is_late = |beat| now.saturating_duration_since(beat) >= LATE;
        !self.beat.is_some_and(is_late)
    }
}

/// A change that the dataplane refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The Service, if the change is for a single one.
    pub service: Option<NamespacedName>,
    /// Service, frontend, backend or address that the change is for.
    pub object: String,
    /// The error.
    pub reason: String,
    /// When this change first failed for this reason.
    pub since: SystemTime,
}

/// One pass of the loop that programs the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How long it took.
    pub took: Duration,
    /// For each change of endpoints that the pass programmed: the time since that change happened.
    pub latencies: Vec<Duration>,
    /// Number of changes that failed.
    pub failures: usize,
    /// Whether work is left for [`Reconciler::step_sweep`](crate::Reconciler::step_sweep).
    pub sweep: Sweep,
}

/// State of the loop that routes a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressStatus {
    /// Number of the last pass; 0 before the first.
    pub revision: u64,
    /// Whether routes were made from complete lists, or `LIST_TIMEOUT` has
    /// passed.
    pub is_synced: bool,
    /// Ingresses that are served.
    pub ingresses: Vec<NamespacedName>,
    /// Fields of objects that are not served as written.
    pub refusals: Vec<Refusal>,
    /// State of the source.
    pub source: SourceStatus,
    /// When the last pass ended, and how long it took.
    pub last_pass: Option<(SystemTime, Duration)>,
}
