//! The recent response time of an endpoint, as an exponentially weighted moving average.
//!
//! The peak EWMA of Finagle and linkerd: a time above the average replaces it at once, a time below
//! lowers it only as older times decay. So the first slow response counts fully, and later fast ones
//! count step by step. Without responses the average decays too, so that an endpoint that was slow
//! gets requests again.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// The decay time: after it, 1/e (37 %) of the average is left.
const DECAY: Duration = Duration::from_secs(10);

/// The average. If two threads observe a time at once, one of the times is lost; later times make up
/// for it.
#[derive(Debug)]
pub(super) struct Ewma {
    born: Instant,
    seconds: AtomicU64,
    /// When `seconds` was stored, in microseconds since `born`.
    at: AtomicU64,
}

impl Ewma {
    /// An average without any times.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            born: now,
            seconds: AtomicU64::new(0),
            at: AtomicU64::new(0),
        }
    }

    /// Adds a response time.
    pub(super) fn observe(&self, time: Duration, now: Instant) {
        let time = time.as_secs_f64();
        let seconds = f64::from_bits(self.seconds.load(Relaxed));
        let decay = self.decay(now);
        let next = match time > seconds * decay {
            true => time,
            false => seconds * decay + time * (1.0 - decay),
        };
        self.seconds.store(next.to_bits(), Relaxed);
        self.at.store(self.micros(now), Relaxed);
    }

    /// The average in seconds; 0 without any times.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        match f64::from_bits(self.seconds.load(Relaxed)) {
            0.0 => 0.0,
            seconds => seconds * self.decay(now),
        }
    }

    /// The factor by which the average has decayed, from 1 down to 0.
    fn decay(&self, now: Instant) -> f64 {
        let age = self.micros(now).saturating_sub(self.at.load(Relaxed));
        (-(age as f64 / DECAY.as_micros() as f64)).exp()
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_micros() as u64
    }
}
