//! The health of an endpoint: passive (failures of requests) and active (health checks).

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use headgate_model::edge::OutlierPolicy;
use tokio::time::Instant;

use super::EndpointHealth;

/// The longest ejection, as a multiple of the first one.
const MAX_FACTOR: u32 = 10;

/// Health checks in a row with a new result that change the state.
const THRESHOLD: u32 = 2;

/// The health of an endpoint. Requests on several threads may report at once: counts are then off by
/// as many, and an ejection comes that much earlier or later.
#[derive(Debug)]
pub(super) struct Health {
    born: Instant,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// In milliseconds since `born`.
    ejected_until: AtomicU64,
    is_down: AtomicBool,
    /// Health checks in a row that contradict `is_down`.
    contradictions: AtomicU32,
    reason: Mutex<String>,
}

impl Health {
    /// A healthy endpoint.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            born: now,
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            contradictions: AtomicU32::new(0),
            reason: Mutex::default(),
        }
    }

    /// Whether the endpoint may get requests.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        !self.is_down.load(Relaxed) && self.ejected_for(now).is_zero()
    }

    /// Ends the run of failures.
    pub(super) fn record_success(&self) {
        // Read first: a write by every request would move the cache line between cores.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Counts a failed request. Returns whether this ejected the endpoint.
    pub(super) fn record_failure(
        &self,
        policy: &OutlierPolicy,
        reason: &str,
        now: Instant,
    ) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if policy.failures == 0 || failures < policy.failures || !self.is_healthy(now) {
            return false;
        }
        self.failures.store(0, Relaxed);
        self.set_reason(format!(
            "{failures} consecutive failures, the last: {reason}"
        ));
        self.eject(policy.ejection, now);
        true
    }

    /// Ejects the endpoint, for longer each time. The factor starts again at 1 if the last ejection
    /// ended longer ago than the longest ejection lasts.
    fn eject(&self, ejection: Duration, now: Instant) {
        let now = self.millis(now);
        let longest = (ejection * MAX_FACTOR).as_millis() as u64;
        if now > self.ejected_until.load(Relaxed) + longest {
            self.ejections.store(0, Relaxed);
        }
        let factor = (self.ejections.fetch_add(1, Relaxed) + 1).min(MAX_FACTOR);
        let until = now + (ejection * factor).as_millis() as u64;
        self.ejected_until.store(until, Relaxed);
    }

    /// Records the result of a health check. Returns whether it changed the state.
    pub(super) fn record_probe(&self, result: Result<(), String>) -> bool {
        if result.is_err() == self.is_down.load(Relaxed) {
            self.contradictions.store(0, Relaxed);
            return false;
        }
        if self.contradictions.fetch_add(1, Relaxed) + 1 < THRESHOLD {
            return false;
        }
        self.contradictions.store(0, Relaxed);
        self.is_down.store(result.is_err(), Relaxed);
        if let Err(reason) = result {
            self.set_reason(reason);
        }
        true
    }

    /// A snapshot of the health.
    pub(super) fn state(&self, now: Instant) -> EndpointHealth {
        let reason = || self.lock_reason().clone();
        match self.ejected_for(now) {
            _ if self.is_down.load(Relaxed) => EndpointHealth::Unhealthy { reason: reason() },
            Duration::ZERO => EndpointHealth::Healthy,
            remaining => EndpointHealth::Ejected {
                remaining,
                reason: reason(),
            },
        }
    }

    fn ejected_for(&self, now: Instant) -> Duration {
        let until = self.ejected_until.load(Relaxed);
        match until {
            0 => Duration::ZERO,
            until => Duration::from_millis(until.saturating_sub(self.millis(now))),
        }
    }

    fn set_reason(&self, reason: String) {
        *self.lock_reason() = reason;
    }

    fn lock_reason(&self) -> std::sync::MutexGuard<'_, String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_millis() as u64
    }
}
