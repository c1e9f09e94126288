//! The upstreams of all configurations.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak},
    time::Duration,
};

use headgate_model::ingress::UpstreamKey;
use tokio::time::{Instant, sleep};

use super::{Upstream, UpstreamState, probe};

/// How long a connection waits for a request.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// How often connections are looked at that wait.
const SWEEP: Duration = Duration::from_secs(10);

/// The upstreams of all configurations: an upstream keeps its connections and what it knows of its
/// endpoints as long as it is wanted. Clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Upstreams(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    upstreams: Mutex<BTreeMap<UpstreamKey, Arc<Upstream>>>,
    sweeper: Once,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            upstreams: Mutex::default(),
            sweeper: Once::new(),
        }
    }
}

impl Upstreams {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The upstream of a key, without endpoints if it is new. To be called within a tokio runtime,
    /// where its tasks run.
    pub fn ensure(&self, key: &UpstreamKey) -> Arc<Upstream> {
        self.0.sweeper.call_once(|| {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        });
        let mut upstreams = self.0.lock();
        if let Some(upstream) = upstreams.get(key) {
            return upstream.clone();
        }
        let upstream = Arc::new(Upstream::new(key.clone()));
        upstreams.insert(key.clone(), upstream.clone());
        probe::start(&upstream);
        upstream
    }

    /// Replaces the endpoints of an upstream, which have these weights. Those that stay keep their
    /// connections, counts and health; those that left finish their requests.
    pub fn update(&self, key: &UpstreamKey, endpoints: &BTreeMap<SocketAddr, u32>) {
        self.ensure(key).update(endpoints);
    }

    /// Forgets other upstreams. Requests in flight finish.
    pub fn retain(&self, keep: impl Fn(&UpstreamKey) -> bool) {
        self.0.lock().retain(|key, upstream| {
            let keeps = keep(key);
            if !keeps {
                upstream.endpoints().iter().for_each(|one| one.close());
            }
            keeps
        });
    }

    /// What they look like, by key.
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

/// Closes connections that wait for too long, as long as there is a registry.
async fn sweep(registry: Weak<Registry>) {
    loop {
        sleep(SWEEP).await;
        let Some(registry) = registry.upgrade() else {
            return;
        };
        // A clock that began just now has nothing that old.
        let Some(limit) = Instant::now().checked_sub(LONGEST_IDLE) else {
            continue;
        };
        let endpoints = registry.all().into_iter().flat_map(|one| one.endpoints());
        endpoints.for_each(|endpoint| endpoint.sweep(limit));
    }
}
