//! The loop that programs a dataplane: events into the planner, touched keys into changes, changes
//! into the dataplane.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, SystemTime},
};

use headgate_model::{
    Actual, Change, Dataplane, Node, Planner, Refusal, Restored, Sweep, Touched, diff,
    gateway::GatewayOptions,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{Span, debug, error, field::Empty, info, instrument, warn};

use super::{
    LIST_TIMEOUT,
    failed::{self, Key},
    intake::{Intake, log_new},
    listeners::Listeners,
    status::{Failure, Pass, Status},
};
use crate::source::event::{Event, Interest, Kind};

/// Delay before failed changes are tried again. It doubles up to [`LAST_RETRY`].
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(8);
/// Longest time between two signs of life.
const BEAT: Duration = Duration::from_secs(10);
/// Interval between two looks whether larger maps are ready.
const GROWTH: Duration = Duration::from_millis(50);
/// Interval between comparisons of the maps with what was written.
const AUDIT: Duration = Duration::from_secs(60);

/// State of the loop that programs a dataplane.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    planner: Planner,
    actual: Actual,
    intake: Intake,
    /// TCP and UDP listeners of Gateways; `None` if they are not served.
    listeners: Option<Listeners>,
    /// Whether the next pass compares every key, not only the touched ones.
    is_full: bool,
    /// Changes that were not made. Each pass tries them again.
    failed: BTreeMap<Key, Failure>,
    /// Whether larger maps are prepared.
    is_growing: bool,
    /// The earliest time to make the maps larger, after that has failed.
    next_growth: Option<Instant>,
    /// Begin of the first pass: all objects were known.
    listed: Option<Instant>,
    started: SystemTime,
    /// Times of the endpoint changes that the next pass programs.
    triggers: Vec<SystemTime>,
    status: Status,
}

impl<D: Dataplane> Reconciler<D> {
    /// Starts from what the dataplane holds.
    ///
    /// # Errors
    ///
    /// If the dataplane cannot be read.
    pub fn new(mut dataplane: D, node: Node) -> Result<Self, D::Error> {
        let Restored { actual, .. } = dataplane.restore()?;
        Ok(Self {
            planner: Planner::with_limits(node, dataplane.limits()),
            dataplane,
            actual,
            intake: Intake::new(Interest::Services),
            listeners: None,
            is_full: true,
            failed: BTreeMap::new(),
            is_growing: false,
            next_growth: None,
            listed: None,
            started: SystemTime::now(),
            triggers: Vec::new(),
            status: Status::default(),
        })
    }

    /// Serves TCP and UDP listeners of Gateways as well. The source sends what [`Interest::Listeners`] names.
    #[must_use]
    pub fn with_gateways(mut self, options: GatewayOptions) -> Self {
        self.intake = Intake::new(Interest::Listeners);
        self.listeners = Some(Listeners::new(options));
        self
    }

    /// The state of the loop.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Handles an event of the source. The next pass programs what it changes.
    pub fn note(&mut self, event: Event) {
        if matches!(event, Event::Upstream(..)) {
            // The same Service was counted already.
            return self.note_listeners(event);
        }
        match self.intake.note(event, &mut self.status.source) {
            Some(Event::Service(name, service)) => self.planner.set_service(&name, service),
            Some(Event::Slice(name, slice)) => {
                let before = self.planner.slice(&name).and_then(|slice| slice.triggered);
                let trigger = slice.as_ref().and_then(|slice| slice.triggered);
                let is_new = |at: &SystemTime| Some(*at) != before && *at > self.started;
                self.triggers.extend(trigger.filter(is_new));
                self.planner.set_slice(&name, slice);
            }
            Some(Event::Node(state)) => {
                let mut node = self.planner.node().clone();
                node.zone.clone_from(&state.zone);
                self.planner.set_node(node);
                self.status.node = state;
            }
            Some(event) => self.note_listeners(event),
            None => {}
        }
    }

    fn note_listeners(&mut self, event: Event) {
        if let Some(listeners) = &mut self.listeners {
            listeners.note(event);
        }
    }

    /// Sets the addresses of this node. Its zone is taken from the API, not from `node`.
    pub fn note_node(&mut self, node: Node) {
        let zone = self.status.node.zone.clone();
        self.planner.set_node(Node { zone, ..node });
    }

    /// Whether every kind was listed. An incomplete list may lack objects whose map entries are
    /// right.
    pub fn is_listed(&self) -> bool {
        self.intake.missing.is_empty()
    }

    /// Stops waiting for the Node: without it only the zone is missing. Services and EndpointSlices
    /// are awaited without limit, and the maps stay as they are until both are listed.
    pub fn stop_waiting(&mut self) {
        if self.intake.missing.remove(&Kind::Node) {
            warn!("the Node is not listed; continuing without its zone");
        }
        for kind in &self.intake.missing {
            error!(?kind, "not listed yet; the maps stay unchanged");
        }
    }

    /// Compares the maps with what was written. The next pass repairs the differences.
    ///
    /// # Errors
    ///
    /// If the dataplane cannot be read.
    pub fn audit(&mut self) -> Result<(), D::Error> {
        let Restored {
            actual: found,
            repairs,
        } = self.dataplane.restore()?;
        let differing = differences(&found, &self.actual) + repairs;
        if differing > 0 {
            warn!(
                entries = differing,
                "repairing map entries that another process changed"
            );
            self.status.repaired += differing as u64;
            self.actual.replace(found);
            self.is_full = true;
        }
        Ok(())
    }

    /// Plans for the objects that are known while others are awaited, and makes the maps larger, which takes a while. The
    /// maps hold what they held.
    pub fn prepare(&mut self) {
        self.planner.gather();
        self.grow();
    }

    /// Runs one pass: programs what has changed since the last one. After failures the caller
    /// should try again.
    #[instrument(name = "pass", skip_all, fields(revision = self.status.revision + 1, changes = Empty))]
    pub fn reconcile(&mut self) -> Pass {
        let start = Instant::now();
        let listed = *self.listed.get_or_insert(start);
        self.follow_listeners();
        let mut touched = self.planner.gather();
        while self.grow() {
            self.is_full = true;
        }
        if self.is_growing && self.planner.is_short() {
            // Larger maps hold everything in a moment: until then no Service loses what it has.
            self.is_full = true;
            return Pass {
                took: start.elapsed(),
                latencies: Vec::new(),
                failures: self.failed.len(),
                sweep: self.step_sweep().unwrap_or(Sweep::Done),
            };
        }
        self.planner.grant(&mut touched);
        if std::mem::take(&mut self.is_full) {
            touched = Touched::everything(&self.actual, self.planner.desired());
        }
        let before = std::mem::take(&mut self.failed);
        for key in before.keys() {
            key.touch(&mut touched);
        }
        self.actual.end_quarantine(start.into_std());
        let changes = diff(&self.actual, self.planner.desired(), &touched);
        Span::current().record("changes", changes.len());
        let planned = start.elapsed();
        let sweep = self.apply(&changes, !before.is_empty());
        self.log_failures(&before);
        self.set_refusals();
        self.status.revision += 1;
        if !changes.is_empty() {
            debug!(
                failed = self.failed.len(),
                planned_us = planned.as_micros(),
                took_us = start.elapsed().as_micros(),
                "programmed"
            );
        }
        if !self.status.is_synced && self.is_listed() {
            info!(
                services = self.actual.services.len(),
                backends = self.actual.backends.len(),
                frontends = self.actual.frontends.len(),
                planned_us = planned.as_micros(),
                took_us = start.elapsed().as_micros(),
                since_listed_us = listed.elapsed().as_micros(),
                "the maps follow the source"
            );
        }
        self.end_pass(start, sweep)
    }

    fn follow_listeners(&mut self) {
        let listeners = self.listeners.as_mut();
        if let Some(served) = listeners.and_then(|one| one.follow(&mut self.planner)) {
            self.status.listeners = served;
        }
    }

    /// Makes the maps larger if they cannot hold everything; returns whether that was done.
    fn grow(&mut self) -> bool {
        let now = Instant::now();
        self.is_growing = false;
        let Some(wanted) = self.planner.lacking() else {
            return false;
        };
        if self.next_growth.is_some_and(|next| now < next) {
            return false;
        }
        match self.dataplane.grow(&wanted) {
            Ok(Some(limits)) => {
                self.next_growth = None;
                let is_larger = self.planner.set_limits(limits);
                if is_larger {
                    info!(took = ?now.elapsed(), "the maps are larger");
                }
                is_larger
            }
            Ok(None) => {
                self.is_growing = true;
                false
            }
            Err(error) => {
                if self.next_growth.is_none() {
                    warn!(%error, "the maps cannot become larger");
                }
                self.next_growth = Some(now + AUDIT);
                false
            }
        }
    }

    /// Logs new failures and their end, and keeps the time of those that the last pass had already.
    fn log_failures(&mut self, before: &BTreeMap<Key, Failure>) {
        for (key, failure) in &mut self.failed {
            match before.get(key) {
                Some(old) if old.reason == failure.reason => failure.since = old.since,
                _ => error!(
                    object = failure.object,
                    error = failure.reason,
                    "not programmed"
                ),
            }
        }
        if !before.is_empty() && self.failed.is_empty() {
            info!("all changes are programmed again");
        }
    }

    fn set_refusals(&mut self) {
        let refused = self.intake.refused.values().flatten().cloned();
        let refusals: Vec<Refusal> = refused.chain(self.planner.refusals()).collect();
        log_new(&refusals, &self.status.refusals);
        self.status.refusals = refusals;
    }

    fn end_pass(&mut self, start: Instant, sweep: Sweep) -> Pass {
        let (now, took) = (SystemTime::now(), start.elapsed());
        let mut triggers = std::mem::take(&mut self.triggers);
        if !self.failed.is_empty() {
            // It is unknown which of them failed.
            triggers.clear();
        }
        self.status.unwritten_since = match self.check() {
            Ok(()) => None,
            Err(error) => {
                if self.status.unwritten_since.is_none() {
                    error!(%error, "the maps cannot be written");
                }
                let since = self.status.unwritten_since;
                since.or(Some(start.into_std()))
            }
        };
        let latency = |at| now.duration_since(at).unwrap_or_default();
        let pass = Pass {
            took,
            latencies: triggers.into_iter().map(latency).collect(),
            failures: self.failed.len(),
            sweep,
        };
        let health_checks = &self.planner.desired().health_checks;
        self.status.health_checks.clone_from(health_checks);
        self.status.is_synced |= self.is_listed();
        self.status.services = self.actual.services.len();
        self.status.backends = self.actual.backends.len();
        self.status.frontends = self.actual.frontends.len();
        self.status.last_pass = Some((now, took));
        self.status.failures = self.failed.values().cloned().collect();
        pass
    }

    /// Checks after failures whether the maps can be written at all.
    fn check(&mut self) -> Result<(), D::Error> {
        match self.failed.is_empty() {
            true => Ok(()),
            false => self.dataplane.check(),
        }
    }

    /// Does a part of the work that follows changes.
    ///
    /// # Errors
    ///
    /// Those of [`Dataplane::step_sweep`]. The next pass tries again.
    pub fn step_sweep(&mut self) -> Result<Sweep, D::Error> {
        self.dataplane.step_sweep()
    }

    /// Makes the changes that can be made. A failed change holds up only those that depend on it.
    fn apply(&mut self, changes: &[Change], has_failed: bool) -> Sweep {
        for change in changes {
            let is_doubtful = has_failed || !self.failed.is_empty();
            let result = match is_doubtful && !failed::is_possible(&self.actual, change) {
                true => Err("waits for a change that failed".to_owned()),
                false => self
                    .dataplane
                    .apply(change)
                    .map_err(|error| error.to_string()),
            };
            match result {
                Ok(()) => self.actual.record(change, Instant::now().into_std()),
                Err(reason) => drop(
                    self.failed
                        .insert(Key::of(change), failed::failure(change, reason)),
                ),
            }
        }
        self.dataplane.step_sweep().unwrap_or_else(|error| {
            let failure = Failure {
                service: None,
                object: "connections".into(),
                reason: error.to_string(),
                since: SystemTime::now(),
            };
            self.failed.insert(Key::Connections, failure);
            Sweep::Done
        })
    }
}

/// Number of keys that differ between `a` and `b`.
fn differences(a: &Actual, b: &Actual) -> usize {
    fn count<K: Ord, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> usize {
        let missing = b.keys().filter(|key| !a.contains_key(key)).count();
        missing
            + a.iter()
                .filter(|(key, value)| b.get(key) != Some(value))
                .count()
    }
    count(&a.services, &b.services)
        + count(&a.backends, &b.backends)
        + count(&a.frontends, &b.frontends)
        + count(&a.addresses, &b.addresses)
}

/// Inputs of the loop.
#[derive(Debug)]
pub struct Inputs {
    /// Events of the source.
    pub events: mpsc::Receiver<Event>,
    /// Addresses and networks of the node.
    pub nodes: watch::Receiver<Node>,
    /// Requests for an audit now.
    pub audits: mpsc::Receiver<()>,
}

/// Outputs of the loop.
#[derive(Debug)]
pub struct Outputs {
    /// The state after each pass, and while lists are awaited.
    pub status: watch::Sender<Status>,
    /// Each pass.
    pub passes: mpsc::UnboundedSender<Pass>,
}

/// The time at which a sweep continues; `None` if it is done.
fn time_of(sweep: Sweep) -> Option<Instant> {
    match sweep {
        Sweep::Done => None,
        Sweep::Again(after) => Some(Instant::now() + after),
    }
}

/// Runs until `shutdown`, or until the source is gone. Events that arrive together are handled in
/// one pass.
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
    let mut next_beat = Instant::now();
    let (mut retry, mut delay) = (None, RETRY);
    let mut sweep = None;
    loop {
        let is_listed = reconciler.is_listed();
        let wake = if is_listed { retry } else { give_up };
        let (mut is_audit, mut is_retry) = (false, false);
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
                is_retry = is_listed;
                if !is_listed {
                    give_up = None;
                    reconciler.stop_waiting();
                }
            }
            () = sleep_until(next_beat) => {
                next_beat = Instant::now() + BEAT;
                outputs.status.send_modify(|status| status.beat = Some(next_beat.into_std()));
                continue;
            }
            () = sleep_until(sweep.unwrap_or(next_audit)), if sweep.is_some() => {
                if let Ok(next) = reconciler.step_sweep() {
                    sweep = time_of(next);
                    continue;
                }
                // The next pass tries again and reports the failure.
            }
            Some(()) = audits.recv() => is_audit = true,
            () = sleep_until(next_audit) => is_audit = true,
        }
        if is_audit {
            next_audit = Instant::now() + AUDIT;
            if let Err(error) = reconciler.audit() {
                error!(%error, "audit failed");
            }
        }
        if reconciler.is_listed() {
            let pass = reconciler.reconcile();
            if pass.failures == 0 {
                (retry, delay) = (None, RETRY);
            } else if is_retry || retry.is_none() {
                retry = Some(Instant::now() + delay);
                delay = (delay * 2).min(LAST_RETRY);
            }
            if reconciler.is_growing {
                retry = Some(Instant::now() + GROWTH);
            }
            sweep = time_of(pass.sweep);
            // The receiver may be gone.
            let _unsent = outputs.passes.send(pass);
        } else {
            reconciler.prepare();
        }
        // While lists are awaited too: the status shows why they are missing.
        next_beat = Instant::now() + BEAT;
        let mut status = reconciler.status().clone();
        status.beat = Some(next_beat.into_std());
        outputs.status.send_replace(status);
    }
}
