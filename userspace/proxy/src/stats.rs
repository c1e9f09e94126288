//! Responses of each Ingress, rule and listener, counted by status and time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use headgate_model::edge::{GatewayPort, RouteOrigin};
use http::StatusCode;

/// Upper bounds of response times, in seconds.
pub const BUCKETS: [f64; 12] = [
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    5.0,
    f64::INFINITY,
];

/// What requests are counted by. A request counts for its rule and for its listener: counters for each pair would
/// be as many as there are rules times listeners.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// An Ingress or a rule.
    Rule(RouteOrigin),
    /// A listener of a port of a Gateway, by name.
    Listener(GatewayPort, String),
}

/// Counters of an Ingress, a rule or a listener. They never decrease.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// By the first digit of the status.
    answers: [AtomicU64; 6],
    buckets: [AtomicU64; BUCKETS.len()],
    microseconds: AtomicU64,
}

/// A copy of the counters of an Ingress, a rule or a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answers {
    /// Responses by the first digit of their status.
    pub by_class: [u64; 6],
    /// Responses by the first bound of [`BUCKETS`] that is not below their time, from the head of the
    /// request to the head of the response. Not cumulative.
    pub buckets: [u64; BUCKETS.len()],
    /// Sum of all response times, in seconds.
    pub seconds: f64,
}

impl Stats {
    pub(crate) fn count(&self, status: StatusCode, took: Duration) {
        let add = |counter: Option<&AtomicU64>, number| {
            if let Some(counter) = counter {
                counter.fetch_add(number, Ordering::Relaxed);
            }
        };
        add(self.answers.get(usize::from(status.as_u16() / 100)), 1);
        let place = BUCKETS
            .iter()
            .position(|bound| took.as_secs_f64() <= *bound);
        add(place.and_then(|place| self.buckets.get(place)), 1);
        self.microseconds
            .fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Answers {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Answers {
            by_class: self.answers.each_ref().map(load),
            buckets: self.buckets.each_ref().map(load),
            seconds: load(&self.microseconds) as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::{BUCKETS, Stats};

    #[test]
    fn responses_are_counted_by_class_and_time() {
        let stats = Stats::default();
        stats.count(StatusCode::OK, Duration::from_millis(2));
        stats.count(StatusCode::NOT_FOUND, Duration::from_millis(200));
        stats.count(StatusCode::BAD_GATEWAY, Duration::from_secs(60));
        let answers = stats.read();
        assert_eq!(answers.by_class, [0, 0, 1, 0, 1, 1]);
        let filled = BUCKETS
            .iter()
            .zip(answers.buckets)
            .filter(|(_, count)| *count > 0);
        let filled: Vec<f64> = filled.map(|(bound, _)| *bound).collect();
        assert_eq!(filled, [0.0025, 0.25, f64::INFINITY]);
        assert!(answers.seconds > 60.0);
    }
}
