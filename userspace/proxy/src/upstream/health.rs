//! Whether an endpoint is well: what its requests say, and what probes say.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use headgate_model::ingress::OutlierPolicy;
use tokio::time::Instant;

use super::EndpointHealth;

/// An ejection lasts at most so many times as long as the first one.
const LONGEST: u32 = 10;

/// Probes in a row that change the state.
const PROBES: u32 = 2;

/// What is known. Requests on several threads may report at once: counts then run ahead or behind by
/// as many, and an ejection comes that much earlier or later.
#[derive(Debug)]
pub(super) struct Health {
    born: Instant,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// In milliseconds from `born`.
    ejected_until: AtomicU64,
    is_down: AtomicBool,
    /// Probes in a row that contradict `is_down`.
    contradictions: AtomicU32,
    reason: Mutex<String>,
}

impl Health {
    /// Well.
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

    /// Whether it may get requests.
    pub(super) fn is_well(&self, now: Instant) -> bool {
        !self.is_down.load(Relaxed) && self.ejected_for(now).is_zero()
    }

    /// A request was answered.
    pub(super) fn succeeded(&self) {
        // Read first: a write by every request would move the cache line between the cores.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A request failed. Tells whether that was one too many.
    pub(super) fn failed(&self, policy: &OutlierPolicy, reason: &str, now: Instant) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if policy.failures == 0 || failures < policy.failures || !self.is_well(now) {
            return false;
        }
        self.failures.store(0, Relaxed);
        self.explain(format!("{failures} failures in a row, the last: {reason}"));
        self.eject(policy.ejection, now);
        true
    }

    /// Longer each time, unless it was well for the longest ejection since the last one.
    fn eject(&self, ejection: Duration, now: Instant) {
        let now = self.millis(now);
        let longest = (ejection * LONGEST).as_millis() as u64;
        if now > self.ejected_until.load(Relaxed) + longest {
            self.ejections.store(0, Relaxed);
        }
        let times = (self.ejections.fetch_add(1, Relaxed) + 1).min(LONGEST);
        let until = now + (ejection * times).as_millis() as u64;
        self.ejected_until.store(until, Relaxed);
    }

    /// A probe was answered, or not and why. Tells whether that changed the state.
    pub(super) fn probed(&self, result: Result<(), String>) -> bool {
        if result.is_err() == self.is_down.load(Relaxed) {
            self.contradictions.store(0, Relaxed);
            return false;
        }
        if self.contradictions.fetch_add(1, Relaxed) + 1 < PROBES {
            return false;
        }
        self.contradictions.store(0, Relaxed);
        self.is_down.store(result.is_err(), Relaxed);
        if let Err(reason) = result {
            self.explain(reason);
        }
        true
    }

    /// What is known, in words.
    pub(super) fn state(&self, now: Instant) -> EndpointHealth {
        let reason = || self.lock_reason().clone();
        match self.ejected_for(now) {
            _ if self.is_down.load(Relaxed) => EndpointHealth::Down { reason: reason() },
            Duration::ZERO => EndpointHealth::Well,
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

    fn explain(&self, reason: String) {
        *self.lock_reason() = reason;
    }

    fn lock_reason(&self) -> std::sync::MutexGuard<'_, String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_millis() as u64
    }
}
