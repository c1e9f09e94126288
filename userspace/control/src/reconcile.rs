//! The loop: events into the model, the model into changes, changes into the dataplane.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use headgate_model::{Actual, Change, Dataplane, Model, Node, Refusal, desired, diff};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::event::{Event, Kind};

/// After this long the maps are written although a source has not listed everything.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait before changes that failed are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A change that the dataplane refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it was about.
    pub object: String,
    /// Why it failed.
    pub reason: String,
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
}

/// State of the loop.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    model: Model,
    node: Node,
    actual: Actual,
    missing: BTreeSet<Kind>,
    refused: BTreeMap<String, Vec<Refusal>>,
    status: Status,
}

impl<D: Dataplane> Reconciler<D> {
    /// Starts from what the dataplane holds.
    pub fn new(mut dataplane: D, node: Node) -> Result<Self, D::Error> {
        let actual = dataplane.restore()?;
        Ok(Self {
            dataplane,
            model: Model::default(),
            node,
            actual,
            missing: BTreeSet::from([Kind::Service, Kind::EndpointSlice]),
            refused: BTreeMap::new(),
            status: Status::default(),
        })
    }

    /// How things are.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Takes up what a source told.
    pub fn note(&mut self, event: Event) {
        match event {
            Event::Service(name, Some(service)) => {
                self.model.services.insert(name, service);
            }
            Event::Service(name, None) => {
                self.model.services.remove(&name);
            }
            Event::Slice(name, Some(slice)) => {
                self.model.slices.insert(name, slice);
            }
            Event::Slice(name, None) => {
                self.model.slices.remove(&name);
            }
            Event::Listed(kind) => {
                self.missing.remove(&kind);
            }
            Event::Refused(object, refusals) => {
                let before = self
                    .refused
                    .insert(object, refusals.clone())
                    .unwrap_or_default();
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

    /// Takes up new addresses of this node.
    pub fn note_node(&mut self, node: Node) {
        self.node = node;
    }

    /// Whether every kind was listed. Before that a list may lack what the maps rightly hold.
    pub fn is_listed(&self) -> bool {
        self.missing.is_empty()
    }

    /// Writes although not everything was listed.
    pub fn stop_waiting(&mut self) {
        for kind in std::mem::take(&mut self.missing) {
            warn!(
                "{kind:?} was not listed within {} s: going on without",
                LIST_TIMEOUT.as_secs()
            );
        }
    }

    /// Brings the dataplane in step. False if something failed and should be tried again.
    pub fn reconcile(&mut self) -> bool {
        let (wanted, conflicts) = desired(&self.model, &self.node);
        let changes = diff(&self.actual, &wanted);
        let mut failures = Vec::new();
        for change in &changes {
            match self.dataplane.apply(change) {
                Ok(()) => self.actual.record(change),
                Err(reason) => failures.push(Failure {
                    object: object(change),
                    reason: reason.to_string(),
                }),
            }
        }
        if let Err(reason) = self.dataplane.finish() {
            failures.push(Failure {
                object: "connections".into(),
                reason: reason.to_string(),
            });
        }
        for failure in failures
            .iter()
            .filter(|failure| !self.status.failures.contains(failure))
        {
            error!("{}: {}", failure.object, failure.reason);
        }
        let refusals: Vec<Refusal> = self
            .refused
            .values()
            .flatten()
            .cloned()
            .chain(conflicts.clone())
            .collect();
        for conflict in conflicts
            .iter()
            .filter(|new| !self.status.refusals.contains(new))
        {
            warn!("{conflict}");
        }
        self.status.revision += 1;
        if !changes.is_empty() {
            info!(
                revision = self.status.revision,
                changes = changes.len(),
                failed = failures.len(),
                services = self.actual.services.len(),
                backends = self.actual.backends.len(),
                frontends = self.actual.frontends.len(),
                "programmed"
            );
        }
        self.status.is_synced = self.is_listed();
        self.status.services = self.actual.services.len();
        self.status.backends = self.actual.backends.len();
        self.status.frontends = self.actual.frontends.len();
        self.status.refusals = refusals;
        self.status.failures = failures;
        self.status.failures.is_empty()
    }
}

/// What a change is about.
fn object(change: &Change) -> String {
    match change {
        Change::PutBackend { backend, .. } | Change::DeleteBackend { backend, .. } => {
            format!("backend {backend}")
        }
        Change::PutService { key, .. } | Change::DeleteService { key, .. } => {
            format!("Service {key}")
        }
        Change::PutFrontend { frontend, spec, .. } => {
            format!("Service {}, frontend {frontend}", spec.inside.service)
        }
        Change::DeleteFrontend { frontend } => format!("frontend {frontend}"),
    }
}

/// Runs until `shutdown`: events that come together are one pass.
pub async fn run<D: Dataplane>(
    mut reconciler: Reconciler<D>,
    mut events: mpsc::Receiver<Event>,
    mut nodes: watch::Receiver<Node>,
    status: watch::Sender<Status>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = std::pin::pin!(shutdown);
    let give_up = Instant::now() + LIST_TIMEOUT;
    let mut retry = None;
    loop {
        let wake = if reconciler.is_listed() {
            retry
        } else {
            Some(give_up)
        };
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
            () = sleep_until(wake.unwrap_or(give_up)), if wake.is_some() => {
                reconciler.stop_waiting();
            }
        }
        if reconciler.is_listed() {
            let is_done = reconciler.reconcile();
            retry = (!is_done).then(|| Instant::now() + RETRY);
            status.send_replace(reconciler.status().clone());
        }
    }
}
