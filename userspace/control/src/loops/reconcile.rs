//! The loop: events into the planner, what they touch into changes, changes into the dataplane.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::{Duration, SystemTime},
};

use headgate_model::{
    Actual, Change, Dataplane, HealthCheck, NamespacedName, Node, ObjectName, Planner, Refusal,
    Restored, Sweep, Touched, diff,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::source::event::{Event, Interest, Kind, NodeState};

/// After this long a loop goes on without what it can do without.
pub(crate) const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait before changes that failed are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the maps are compared with what was written.
const AUDIT: Duration = Duration::from_secs(60);

/// A change that the dataplane refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The Service it was for, if it was for one alone.
    pub service: Option<NamespacedName>,
    /// What it was about.
    pub object: String,
    /// Why it failed.
    pub reason: String,
    /// When it failed first.
    pub since: SystemTime,
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Raised by each pass.
    pub revision: u64,
    /// Whether the maps were written from a full list.
    pub is_synced: bool,
    /// Services, backends and frontends in the maps.
    pub services: usize,
    /// See `services`.
    pub backends: usize,
    /// See `services`.
    pub frontends: usize,
    /// What was asked for and is not done.
    pub refusals: Vec<Refusal>,
    /// What should have been done and failed.
    pub failures: Vec<Failure>,
    /// Why the source cannot be reached.
    pub disconnected: Option<String>,
    /// What load balancers are told.
    pub health_checks: BTreeMap<NamespacedName, HealthCheck>,
    /// What the API says of this node.
    pub node: NodeState,
    /// Entries that an audit found changed by somebody else and put right.
    pub repaired: u64,
    /// Events taken up, by kind.
    pub events: BTreeMap<Kind, u64>,
    /// When the last pass ended, and how long it took.
    pub last_pass: Option<(SystemTime, Duration)>,
}

/// One pass of the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How long it took.
    pub took: Duration,
    /// For each change of endpoints that it brought into the maps: how long ago that happened.
    pub latencies: Vec<Duration>,
    /// Changes that failed.
    pub failures: usize,
    /// How far the work is that follows changes.
    pub sweep: Sweep,
}

/// State of the loop.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    planner: Planner,
    actual: Actual,
    missing: BTreeSet<Kind>,
    /// Whether every key is to be compared, and not those alone that were touched.
    is_full: bool,
    refused: BTreeMap<ObjectName, Vec<Refusal>>,
    started: SystemTime,
    /// When the changes happened that the next pass takes up.
    triggers: Vec<SystemTime>,
    status: Status,
}

impl<D: Dataplane> Reconciler<D> {
    /// Starts from what the dataplane holds.
    pub fn new(mut dataplane: D, node: Node) -> Result<Self, D::Error> {
        let Restored { actual, .. } = dataplane.restore()?;
        Ok(Self {
            dataplane,
            planner: Planner::new(node),
            actual,
            missing: BTreeSet::from_iter(Interest::Services.kinds().iter().copied()),
            is_full: true,
            refused: BTreeMap::new(),
            started: SystemTime::now(),
            triggers: Vec::new(),
            status: Status::default(),
        })
    }

    /// How things are.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Takes up what a source told.
    pub fn note(&mut self, event: Event) {
        let mut count = |kind| *self.status.events.entry(kind).or_default() += 1;
        match event {
            Event::Service(name, service) => {
                count(Kind::Service);
                self.planner.set_service(&name, service);
            }
            Event::Slice(name, slice) => {
                count(Kind::EndpointSlice);
                let before = self.planner.slice(&name).and_then(|slice| slice.triggered);
                let trigger = slice.as_ref().and_then(|slice| slice.triggered);
                let is_new = |at: &SystemTime| Some(*at) != before && *at > self.started;
                self.triggers.extend(trigger.filter(is_new));
                self.planner.set_slice(&name, slice);
            }
            Event::Node(state) => {
                count(Kind::Node);
                let mut node = self.planner.node().clone();
                node.zone.clone_from(&state.zone);
                self.planner.set_node(node);
                self.status.node = state;
            }
            // Nobody tells these to an agent.
            Event::Ingress(..) | Event::IngressClass(..) | Event::Secret(..) => {}
            Event::Listed(kind) => {
                self.missing.remove(&kind);
            }
            Event::Refused(object, refusals) => {
                let before = match refusals.is_empty() {
                    true => self.refused.remove(&object),
                    false => self.refused.insert(object, refusals.clone()),
                };
                let before = before.unwrap_or_default();
                for refusal in refusals.iter().filter(|refusal| !before.contains(refusal)) {
                    warn!("{refusal}");
                }
            }
            Event::Connected(Ok(())) => {
                info!("connected");
                self.status.disconnected = None;
            }
            Event::Connected(Err(reason)) => {
                warn!("disconnected: {reason}");
                self.status.disconnected = Some(reason);
            }
        }
    }

    /// Takes up new addresses of this node. Its zone is the API's to say.
    pub fn note_node(&mut self, node: Node) {
        let zone = self.status.node.zone.clone();
        self.planner.set_node(Node { zone, ..node });
    }

    /// Whether every kind was listed. Before that a list may lack what the maps rightly hold.
    pub fn is_listed(&self) -> bool {
        self.missing.is_empty()
    }

    /// Goes on without what the API says of this node, if that is all that was not listed. Services and
    /// their endpoints are waited for, however long: what the maps hold of them stays.
    pub fn stop_waiting(&mut self) {
        if self.missing.remove(&Kind::Node) {
            warn!("the node was not listed: going on without its zone");
        }
        for kind in &self.missing {
            error!("{kind:?} is not listed yet: the maps stay as they are");
        }
    }

    /// Compares the maps with what was written. The next pass repairs what somebody else changed.
    pub fn audit(&mut self) -> Result<(), D::Error> {
        let Restored {
            actual: found,
            repairs,
        } = self.dataplane.restore()?;
        let differing = differences(&found, &self.actual) + repairs;
        if differing > 0 {
            warn!(
                entries = differing,
                "somebody else wrote to the maps: repaired"
            );
            self.status.repaired += differing as u64;
            self.actual.replace(found);
            self.is_full = true;
        }
        Ok(())
    }

    /// Brings the dataplane in step. What failed should be tried again.
    pub fn reconcile(&mut self) -> Pass {
        let start = Instant::now();
        let mut touched = self.planner.update();
        if std::mem::take(&mut self.is_full) {
            touched = Touched::everything(&self.actual, self.planner.desired());
        }
        self.actual.end_quarantine(start.into_std());
        let changes = diff(&self.actual, self.planner.desired(), &touched);
        let planned = start.elapsed();
        let (mut failures, sweep) = self.apply(&changes);
        for failure in &mut failures {
            let mut before = self.status.failures.iter();
            let same =
                |old: &&Failure| (&old.object, &old.reason) == (&failure.object, &failure.reason);
            match before.find(same) {
                Some(old) => failure.since = old.since,
                None => error!("{}: {}", failure.object, failure.reason),
            }
        }
        let lost = self.planner.refusals();
        for refusal in lost
            .iter()
            .filter(|new| !self.status.refusals.contains(new))
        {
            warn!("{refusal}");
        }
        let told = self.refused.values().flatten().cloned();
        self.status.refusals = told.chain(lost).collect();
        self.status.revision += 1;
        // The first pass is told even if the maps were as they should be.
        if !changes.is_empty() || !self.status.is_synced {
            info!(
                revision = self.status.revision,
                changes = changes.len(),
                failed = failures.len(),
                services = self.actual.services.len(),
                backends = self.actual.backends.len(),
                frontends = self.actual.frontends.len(),
                planned_us = planned.as_micros(),
                took_us = start.elapsed().as_micros(),
                "programmed"
            );
        }
        self.status.is_synced = self.is_listed();
        self.status.services = self.actual.services.len();
        self.status.backends = self.actual.backends.len();
        self.status.frontends = self.actual.frontends.len();
        let health_checks = &self.planner.desired().health_checks;
        self.status.health_checks.clone_from(health_checks);
        let (now, took) = (SystemTime::now(), start.elapsed());
        self.status.last_pass = Some((now, took));
        self.status.failures = failures;
        self.is_full = !self.status.failures.is_empty();
        let mut triggers = std::mem::take(&mut self.triggers);
        if self.is_full {
            // Nobody knows whose changes failed.
            triggers.clear();
        }
        let latency = |at| now.duration_since(at).unwrap_or_default();
        Pass {
            took,
            latencies: triggers.into_iter().map(latency).collect(),
            failures: self.status.failures.len(),
            sweep,
        }
    }

    /// Does some more of the work that follows changes.
    ///
    /// # Errors
    ///
    /// Those of [`Dataplane::step_sweep`].
    pub fn step_sweep(&mut self) -> Result<Sweep, D::Error> {
        self.dataplane.step_sweep()
    }

    /// Makes the changes that can be made: one that failed holds up those that build on it, and no
    /// others.
    fn apply(&mut self, changes: &[Change]) -> (Vec<Failure>, Sweep) {
        let mut failures = Vec::new();
        for change in changes {
            let result = match !failures.is_empty() && !is_possible(&self.actual, change) {
                true => Err("waits for what it refers to".to_owned()),
                false => self
                    .dataplane
                    .apply(change)
                    .map_err(|error| error.to_string()),
            };
            match result {
                Ok(()) => self.actual.record(change, Instant::now().into_std()),
                Err(reason) => failures.push(failure(change, reason)),
            }
        }
        let sweep = self.dataplane.step_sweep().unwrap_or_else(|error| {
            failures.push(Failure {
                service: None,
                object: "connections".into(),
                reason: error.to_string(),
                since: SystemTime::now(),
            });
            Sweep::Done
        });
        (failures, sweep)
    }
}

/// Whether everything is there that a change refers to, or nothing is that refers to what it
/// removes.
fn is_possible(actual: &Actual, change: &Change) -> bool {
    match change {
        Change::PutService { spec, .. } => spec
            .backends
            .iter()
            .all(|backend| actual.backends.contains_key(backend)),
        Change::PutFrontend { spec, .. } => [&spec.inside, &spec.outside]
            .into_iter()
            .all(|key| actual.services.contains_key(key)),
        Change::DeleteService { key, .. } => !actual
            .frontends
            .values()
            .any(|spec| spec.inside == *key || spec.outside == *key),
        Change::DeleteBackend { backend, .. } => !actual
            .services
            .values()
            .any(|(_, spec)| spec.backends.contains(backend)),
        Change::PutBackend { .. }
        | Change::PutAddress { .. }
        | Change::DeleteAddress { .. }
        | Change::DeleteFrontend { .. } => true,
    }
}

/// Number of keys that differ.
fn differences(a: &Actual, b: &Actual) -> usize {
    fn of<K: Ord, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> usize {
        let missing = b.keys().filter(|key| !a.contains_key(key)).count();
        missing
            + a.iter()
                .filter(|(key, value)| b.get(key) != Some(value))
                .count()
    }
    of(&a.services, &b.services)
        + of(&a.backends, &b.backends)
        + of(&a.frontends, &b.frontends)
        + of(&a.addresses, &b.addresses)
}

fn failure(change: &Change, reason: String) -> Failure {
    let (service, object) = match change {
        Change::PutBackend { backend, .. } | Change::DeleteBackend { backend, .. } => {
            (None, format!("backend {backend}"))
        }
        Change::PutService { key, .. } | Change::DeleteService { key, .. } => {
            (Some(key.service.clone()), format!("Service {key}"))
        }
        Change::PutFrontend { frontend, spec, .. } => {
            let service = &spec.inside.service;
            (
                Some(service.clone()),
                format!("Service {service}, frontend {frontend}"),
            )
        }
        Change::DeleteFrontend { frontend } => (None, format!("frontend {frontend}")),
        Change::PutAddress { address, .. } | Change::DeleteAddress { address } => {
            (None, format!("address {address}"))
        }
    };
    Failure {
        service,
        object,
        reason,
        since: SystemTime::now(),
    }
}

/// What the loop listens to.
#[derive(Debug)]
pub struct Inputs {
    /// What the source tells.
    pub events: mpsc::Receiver<Event>,
    /// What the node is like.
    pub nodes: watch::Receiver<Node>,
    /// Asks for an audit now.
    pub audits: mpsc::Receiver<()>,
}

/// Whom the loop tells.
#[derive(Debug)]
pub struct Outputs {
    /// How things are.
    pub status: watch::Sender<Status>,
    /// Each pass.
    pub passes: mpsc::UnboundedSender<Pass>,
}

/// When to continue a sweep.
fn time_of(sweep: Sweep) -> Option<Instant> {
    match sweep {
        Sweep::Done => None,
        Sweep::Again(after) => Some(Instant::now() + after),
    }
}

/// Runs until `shutdown`: events that come together are one pass.
pub async fn run<D: Dataplane>(
    mut reconciler: Reconciler<D>,
    inputs: Inputs,
    outputs: Outputs,
    shutdown: impl Future<Output = ()>,
) {
    let Inputs {
        mut events,
        mut nodes,
        mut audits,
    } = inputs;
    let mut shutdown = std::pin::pin!(shutdown);
    let mut give_up = Some(Instant::now() + LIST_TIMEOUT);
    let mut next_audit = Instant::now() + AUDIT;
    let mut retry = None;
    let mut sweep = None;
    loop {
        let is_listed = reconciler.is_listed();
        let wake = if is_listed { retry } else { give_up };
        let mut is_audit = false;
        tokio::select! {
            () = &mut shutdown => return,
            event = events.recv() => {
                let Some(event) = event else { return };
                reconciler.note(event);
                while let Ok(event) = events.try_recv() {
                    reconciler.note(event);
                }
            }
            Ok(()) = nodes.changed() => reconciler.note_node(nodes.borrow_and_update().clone()),
            () = sleep_until(wake.unwrap_or(next_audit)), if wake.is_some() => {
                if !is_listed {
                    give_up = None;
                    reconciler.stop_waiting();
                }
            }
            () = sleep_until(sweep.unwrap_or(next_audit)), if sweep.is_some() => {
                if let Ok(next) = reconciler.step_sweep() {
                    sweep = time_of(next);
                    continue;
                }
                // The pass that follows tries again, and tells what fails.
            }
            Some(()) = audits.recv() => is_audit = true,
            () = sleep_until(next_audit) => is_audit = true,
        }
        if is_audit {
            next_audit = Instant::now() + AUDIT;
            if let Err(error) = reconciler.audit() {
                error!("audit: {error}");
            }
        }
        if reconciler.is_listed() {
            let pass = reconciler.reconcile();
            retry = (pass.failures > 0).then(|| Instant::now() + RETRY);
            sweep = time_of(pass.sweep);
            // Whoever counts passes may be gone.
            let _uncounted = outputs.passes.send(pass);
        }
        // While lists are awaited as well: why they do not come is to be seen.
        outputs.status.send_replace(reconciler.status().clone());
    }
}
