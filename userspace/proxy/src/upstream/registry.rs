//! The registry of upstreams.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak},
    time::Duration,
};

use headgate_model::edge::UpstreamKey;
use tokio::time::{Instant, sleep};

use super::{Upstream, UpstreamState, probe};

/// The longest time that a pooled connection stays idle.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The interval between searches for idle connections.
const SWEEP: Duration = Duration::from_secs(10);

/// The registry of upstreams. It outlives configurations, so that an upstream keeps its connections,
/// counters and health while any route uses it. Clones share the registry.
#[derive(Clone, Debug)]
pub struct Upstreams(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    workers: usize,
    upstreams: Mutex<BTreeMap<UpstreamKey, Arc<Upstream>>>,
    sweeper: Once,
}

impl Upstreams {
    /// An empty registry for requests of this number of [workers](crate::work), and of other threads.
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(Registry {
            workers,
            upstreams: Mutex::default(),
            sweeper: Once::new(),
        }))
    }

    /// Returns the upstream of a key; a new one has no endpoints. Must be called within a tokio
    /// runtime, because it spawns tasks.
    pub fn ensure(&self, key: &UpstreamKey) -> Arc<Upstream> {
        self.0.sweeper.call_once(|| {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        });
        let mut upstreams = self.0.lock();
        if let Some(upstream) = upstreams.get(key) {
            return upstream.clone();
        }
        let upstream = Arc::new(Upstream::new(key.clone(), self.0.workers));
        upstreams.insert(key.clone(), upstream.clone());
        probe::start(&upstream);
        upstream
    }

    /// Replaces the endpoints of an upstream; the map holds their weights. Endpoints that stay keep
    /// their connections, counters and health; endpoints that left finish their requests.
    pub fn update(&self, key: &UpstreamKey, endpoints: &BTreeMap<SocketAddr, u32>) {
        self.ensure(key).update(endpoints);
    }

    /// Removes the upstreams for which `keep` is false. Their requests in flight finish.
    pub fn retain(&self, keep: impl Fn(&UpstreamKey) -> bool) {
        self.0.lock().retain(|key, upstream| {
            let is_kept = keep(key);
            if !is_kept {
                upstream.endpoints().iter().for_each(|one| one.close());
            }
            is_kept
        });
    }

    /// Snapshots of all upstreams, ordered by key.
    pub fn snapshot(&self) -> Vec<UpstreamState> {
        self.0
            .all()
            .iter()
            .map(|upstream| upstream.state())
            .collect()
    }
}

impl Registry {
    fn all(&self) -> Vec<Arc<Upstream>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UpstreamKey, Arc<Upstream>>> {
        self.upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that are idle too long, until the registry is dropped.
async fn sweep(registry: Weak<Registry>) {
    loop {
        sleep(SWEEP).await;
        let Some(registry) = registry.upgrade() else {
            return;
        };
        // Fails while the clock shows less than `MAX_IDLE`: then no connection is that old.
        let Some(limit) = Instant::now().checked_sub(MAX_IDLE) else {
            continue;
        };
        let endpoints = registry.all().into_iter().flat_map(|one| one.endpoints());
        endpoints.for_each(|endpoint| endpoint.close_idle(limit));
    }
}
