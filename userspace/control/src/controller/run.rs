//! The loop of the controller.

use std::{collections::BTreeMap, future::Future, pin::pin, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{Api, Client, runtime::watcher};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    ControllerOptions, ControllerStatus,
    made::{MANAGED, SLICE_MANAGED, owner},
    plan::{State, Target, Write},
    write::{Outcome, write},
};
use crate::{
    loops::intake::Intake,
    source::{
        event::{Event, Interest},
        kube::watch_objects,
    },
};
use headgate_model::{
    NamespacedName,
    gateway::{GATEWAY_NAME, Resolver, object::Difference},
    put,
};

/// Changes of this time are handled together.
const GATHERED: Duration = Duration::from_millis(100);
/// Changes of proxies, which concern all Gateways, are handled together for longer.
const PROXIES_GATHERED: Duration = Duration::from_secs(1);
/// When a write that failed is tried again, at first and at most, and one that met another version.
const RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(300);
const CONFLICT: Duration = Duration::from_secs(1);
/// How soon the same is not written again.
const REPEATED: Duration = Duration::from_secs(10);
/// Number of writes at a time.
const WRITES: usize = 16;

/// Keeps statuses, Services and EndpointSlices of Gateways up to date while `leads` is true. `events` are those of
/// [`follow_verdicts`](crate::kube::follow_verdicts), `version` is that of the CRDs. Ends after `shutdown`, or when
/// the source is gone.
pub async fn run_controller(
    client: Client,
    options: ControllerOptions,
    mut events: mpsc::Receiver<Event>,
    mut version: watch::Receiver<Option<String>>,
    mut leads: watch::Receiver<bool>,
    status: watch::Sender<ControllerStatus>,
    shutdown: impl Future<Output = ()>,
) {
    let labelled = |labels: &str| watcher::Config::default().labels(labels);
    let mut services = watch_objects(
        vec![Api::<Service>::all(client.clone())],
        labelled(&format!("{GATEWAY_NAME},{}={}", MANAGED.0, MANAGED.1)),
    );
    let mut slices = watch_objects(
        vec![Api::<EndpointSlice>::all(client.clone())],
        labelled(&format!("{}={}", SLICE_MANAGED.0, SLICE_MANAGED.1)),
    );
    let namespace = &options.proxy_namespace;
    let mut pods = watch_objects(
        vec![Api::<Pod>::namespaced(client.clone(), namespace)],
        labelled(&options.proxy_selector),
    );
    let selector = options.agent_selector.as_deref();
    let agents = selector.map(|_| Api::<Pod>::namespaced(client.clone(), namespace));
    let agents = agents.into_iter().collect();
    let mut agents = watch_objects(agents, labelled(selector.unwrap_or_default()));
    let mut controller = Controller::new(client, options);
    let mut shutdown = pin!(shutdown);
    loop {
        let due = controller.due.filter(|_| controller.is_listed());
        let is_leading = *leads.borrow();
        tokio::select! {
            () = &mut shutdown => return,
            event = events.recv() => {
                let Some(event) = event else { return };
                controller.note(event);
                while let Ok(event) = events.try_recv() {
                    controller.note(event);
                }
            }
            Some(event) = services.next() => {
                let is_other = controller.state.made_services.note(event);
                controller.changed(is_other);
            }
            Some(event) = slices.next() => {
                let is_other = controller.state.made_slices.note(event);
                controller.changed(is_other);
            }
            Some(event) = pods.next() => {
                if controller.state.pods.note(event) {
                    controller.compare_in(PROXIES_GATHERED);
                }
            }
            Some(event) = agents.next() => {
                if controller.state.agents.note(event) {
                    controller.compare_in(PROXIES_GATHERED);
                }
            }
            Some((target, outcome)) = controller.writing.next(), if !controller.writing.is_empty() => {
                controller.note_outcome(target, outcome);
            }
            Ok(()) = leads.changed() => controller.changed(true),
            Ok(()) = version.changed() => {
                controller.options.gateways.bundle_version = version.borrow_and_update().clone();
                controller.is_version_known = true;
                controller.changed(true);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && is_leading => {
                controller.plan();
            }
        }
        if *leads.borrow() {
            controller.start_writes();
        } else {
            controller.stop_writes();
        }
        controller.report(&status);
    }
}

/// A write that failed.
struct Failing {
    error: String,
    delay: Duration,
    /// When it is tried again.
    until: Instant,
}

struct Controller {
    client: Client,
    options: ControllerOptions,
    state: State,
    intake: Intake,
    resolver: Resolver,
    is_version_known: bool,
    /// How long the last comparison took.
    took: Duration,
    /// When to compare next; `None` if nothing has changed.
    due: Option<Instant>,
    queue: BTreeMap<Target, Write>,
    writing: FuturesUnordered<BoxFuture<'static, (Target, Outcome)>>,
    /// Targets of `writing`, and whether each is to be compared again afterwards.
    busy: BTreeMap<Target, bool>,
    /// Hash of what was written lately, and when.
    written: BTreeMap<Target, (u64, Instant)>,
    failing: BTreeMap<Target, Failing>,
    status: ControllerStatus,
}

impl Controller {
    fn new(client: Client, options: ControllerOptions) -> Self {
        Self {
            client,
            options,
            state: State::default(),
            intake: Intake::new(Interest::Verdicts),
            resolver: Resolver::default(),
            is_version_known: false,
            took: Duration::ZERO,
            due: Some(Instant::now()),
            queue: BTreeMap::new(),
            writing: FuturesUnordered::new(),
            busy: BTreeMap::new(),
            written: BTreeMap::new(),
            failing: BTreeMap::new(),
            status: ControllerStatus::default(),
        }
    }

    /// Whether everything was listed. Nothing is written before: what is missing would look deleted.
    fn is_listed(&self) -> bool {
        self.intake.missing.is_empty()
            && self.state.made_services.is_listed()
            && self.state.made_slices.is_listed()
            && self.state.pods.is_listed()
            && (self.options.agent_selector.is_none() || self.state.agents.is_listed())
            && self.is_version_known
    }

    /// Compares soon, if something has changed.
    fn changed(&mut self, is_other: bool) {
        if is_other {
            // A comparison takes longer the more objects there are.
            self.compare_in(GATHERED.max(2 * self.took));
        }
    }

    fn compare_in(&mut self, time: Duration) {
        let due = Instant::now() + time;
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }

    /// Handles an event of the source.
    fn note(&mut self, event: Event) {
        let state = &mut self.state;
        let is_other = match self.intake.note(event, &mut self.status.source) {
            Some(Event::Secret(name, secret)) => put(&mut state.secrets, &name, secret),
            Some(Event::Upstream(name, service)) => put(&mut state.services, &name, service),
            Some(Event::Gateway(change)) => state.objects.apply(*change) != Difference::None,
            _ => false,
        };
        self.changed(is_other);
    }

    /// Finds out what is to be written.
    fn plan(&mut self) {
        let start = Instant::now();
        self.due = None;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let failures = self.failures();
        let resolver = &mut self.resolver;
        let (mut queue, gateways) = self.state.plan(resolver, &self.options, &failures, &now);
        self.took = start.elapsed();
        let before = self.failing.len();
        self.failing.retain(|target, _| queue.contains_key(target));
        // Statuses say what fails.
        self.changed(self.failing.len() < before);
        self.postpone_failing(&mut queue);
        self.postpone_repeated(&mut queue);
        for (target, again) in &mut self.busy {
            *again |= queue.remove(target).is_some();
        }
        if !queue.is_empty() {
            info!(writes = queue.len(), gateways, took = ?self.took, "compared");
        }
        self.queue = queue;
        self.status.gateways = gateways;
    }

    /// What could not be written for Gateways, by their Services; of several the Service itself.
    fn failures(&self) -> BTreeMap<NamespacedName, String> {
        let mut failures = BTreeMap::new();
        for (target, failing) in &self.failing {
            let Some(service) = target.service() else {
                continue;
            };
            let (kind, name, error) = (target.kind(), target.name(), &failing.error);
            let message = || format!("cannot write {kind} {name}: {error}");
            failures.entry(service).or_insert_with(message);
        }
        failures
    }

    /// Postpones what failed lately.
    fn postpone_failing(&mut self, queue: &mut BTreeMap<Target, Write>) {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (target, failing) in self.failing.iter().filter(|(_, one)| one.until > now) {
            if queue.remove(target).is_some() {
                next = Some(next.map_or(failing.until, |next| next.min(failing.until)));
            }
        }
        if let Some(next) = next {
            self.compare_in(next.saturating_duration_since(now));
        }
    }

    /// Postpones what was written a moment ago: the API server keeps something else, or another controller writes
    /// the same fields.
    fn postpone_repeated(&mut self, queue: &mut BTreeMap<Target, Write>) {
        self.written.retain(|_, (_, at)| at.elapsed() < REPEATED);
        let before = queue.len();
        queue.retain(|target, write| {
            let known = self.written.get(target);
            known.is_none_or(|(content, _)| *content != write.content())
        });
        if queue.len() < before {
            self.compare_in(REPEATED);
        }
    }

    fn start_writes(&mut self) {
        while self.writing.len() < WRITES {
            let Some((target, wanted)) = self.queue.pop_first() else {
                return;
            };
            self.busy.insert(target.clone(), false);
            let content = (wanted.content(), Instant::now());
            self.written.insert(target.clone(), content);
            let write = write(self.client.clone(), target, wanted);
            self.writing.push(Box::pin(write));
        }
    }

    /// Another replica writes now.
    fn stop_writes(&mut self) {
        self.queue.clear();
        self.writing = FuturesUnordered::new();
        self.busy.clear();
        self.written.clear();
    }

    fn note_outcome(&mut self, target: Target, outcome: Outcome) {
        if self.busy.remove(&target) == Some(true) {
            self.changed(true);
        }
        let result = match outcome {
            Outcome::Written => {
                debug!(kind = target.kind(), name = target.name(), "written");
                let has_failed = self.failing.remove(&target).is_some();
                self.changed(has_failed);
                "written"
            }
            Outcome::Conflict => {
                self.written.remove(&target);
                self.compare_in(CONFLICT);
                "conflict"
            }
            Outcome::Gone => {
                self.written.remove(&target);
                self.compare_in(CONFLICT);
                "gone"
            }
            Outcome::Found(service)
                if owner(&service.metadata, &self.options.gateways.controller).is_some() =>
            {
                self.state.made_services.put(*service);
                self.changed(true);
                "conflict"
            }
            Outcome::Found(_) => self.fail(&target, "it exists already, and is not the Gateway's"),
            Outcome::Failed(error) => self.fail(&target, &error),
        };
        let writes = &mut self.status.writes;
        *writes.entry((target.kind(), result)).or_default() += 1;
    }

    /// Tries again later, and later each time.
    fn fail(&mut self, target: &Target, error: &str) -> &'static str {
        let known = self.failing.get(target);
        let is_other = known.is_none_or(|known| known.error != error);
        if is_other {
            let (kind, name) = (target.kind(), target.name());
            warn!(kind, name, error, "cannot write");
        }
        let delay = known.map_or(RETRY, |known| (2 * known.delay).min(MAX_RETRY));
        let failing = Failing {
            error: error.into(),
            delay,
            until: Instant::now() + delay,
        };
        self.failing.insert(target.clone(), failing);
        self.written.remove(target);
        self.compare_in(delay);
        // The status of the Gateway says why.
        self.changed(is_other && target.service().is_some());
        "failed"
    }

    fn report(&mut self, status: &watch::Sender<ControllerStatus>) {
        self.status.is_synced = self.is_listed();
        self.status.pending = self.queue.len() + self.busy.len();
        self.status.failing = self.failing.len();
        status.send_if_modified(|known| {
            let is_other = *known != self.status;
            if is_other {
                known.clone_from(&self.status);
            }
            is_other
        });
    }
}
