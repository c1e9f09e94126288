//! The recent time to answer, as an average whose memory fades.
//!
//! The peak EWMA of Finagle and linkerd: a time above the average replaces it at once, a time below
//! pulls it down only as the memory fades. So an endpoint that slows down is seen with its first
//! slow answer, and believed again step by step. Without answers the average fades too, so that an
//! endpoint that nobody asks any more gets its chance.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// After this time without news, about a third of the average is left.
const MEMORY: Duration = Duration::from_secs(10);

/// The average. Two threads may take in a time at once, and one of the times is lost: it is an
/// average, so the next times make up for it.
#[derive(Debug)]
pub(super) struct Ewma {
    born: Instant,
    seconds: AtomicU64,
    /// When `seconds` was right, in microseconds from `born`.
    at: AtomicU64,
}

impl Ewma {
    /// Without memory.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            born: now,
            seconds: AtomicU64::new(0),
            at: AtomicU64::new(0),
        }
    }

    /// Takes in a time.
    pub(super) fn observe(&self, time: Duration, now: Instant) {
        let time = time.as_secs_f64();
        let seconds = f64::from_bits(self.seconds.load(Relaxed));
        let left = self.left(now);
        let next = match time > seconds * left {
            true => time,
            false => seconds * left + time * (1.0 - left),
        };
        self.seconds.store(next.to_bits(), Relaxed);
        self.at.store(self.micros(now), Relaxed);
    }

    /// The average in seconds; 0 if nothing is remembered.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        match f64::from_bits(self.seconds.load(Relaxed)) {
            0.0 => 0.0,
            seconds => seconds * self.left(now),
        }
    }

    /// Which part of the memory is left.
    fn left(&self, now: Instant) -> f64 {
        let age = self.micros(now).saturating_sub(self.at.load(Relaxed));
        (-(age as f64 / MEMORY.as_micros() as f64)).exp()
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_micros() as u64
    }
}
