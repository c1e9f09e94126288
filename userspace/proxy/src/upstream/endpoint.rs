//! One endpoint of an upstream: its counters, health and pooled connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use headgate_model::edge::OutlierPolicy;
use http::StatusCode;
use tokio::time::Instant;

use super::{EndpointState, ewma::Ewma, health::Health, http1::Http1Pool, http2::Http2Pool};
use crate::worker::PerWorker;

/// The shortest response time that a failed request counts with, so that an endpoint that fails
/// quickly does not look fast.
const MIN_FAILURE_TIME: Duration = Duration::from_secs(1);

/// Effective weights are in hundredths, so that slow start can begin a weight of 1 at a tenth.
const FULL_PERCENT: u32 = 100;

/// State shared by the endpoints of an upstream.
#[derive(Debug, Default)]
pub(super) struct UpstreamShared {
    /// When endpoints with failures are ejected.
    pub(super) outlier: OutlierPolicy,
    /// The number of workers, each of which pools its own connections.
    pub(super) workers: usize,
    /// The number of pooled HTTP/1.1 connections.
    pub(super) pooled: Arc<PerWorker<AtomicUsize>>,
    /// Set when an endpoint changes its health; cleared by a pick that finds all healthy.
    pub(super) has_unhealthy: AtomicBool,
}

/// An endpoint of an upstream.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) health: Health,
    pub(super) time: Ewma,
    /// Pooled HTTP/1.1 connections.
    pub(super) http1: Http1Pool,
    /// Shared HTTP/2 connections.
    pub(super) http2: Http2Pool,
    shared: Arc<UpstreamShared>,
    born: Instant,
    /// How long slow start lasts.
    slow_start: Duration,
    weight: AtomicU32,
    in_flight: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
}

impl Endpoint {
    /// A new, healthy endpoint whose weight grows over `slow_start`.
    pub(super) fn new(
        address: SocketAddr,
        weight: u32,
        slow_start: Duration,
        shared: Arc<UpstreamShared>,
    ) -> Self {
        let now = Instant::now();
        Self {
            address,
            health: Health::new(now),
            time: Ewma::new(now),
            http1: Http1Pool::new(shared.workers, shared.pooled.clone()),
            http2: Http2Pool::default(),
            shared,
            born: now,
            slow_start,
            weight: AtomicU32::new(weight),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The configured weight, without slow start.
    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Replaces the configured weight.
    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// When slow start ends.
    pub(super) fn full_weight_at(&self) -> Instant {
        self.born + self.slow_start
    }

    /// The weight with slow start, in hundredths; at least 1.
    pub(super) fn effective_weight(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born);
        let percent = match age < self.slow_start {
            true => {
                let grown = age.as_secs_f64() / self.slow_start.as_secs_f64();
                (f64::from(FULL_PERCENT) * grown).max(f64::from(FULL_PERCENT) / 10.0) as u64
            }
            false => u64::from(FULL_PERCENT),
        };
        (u64::from(self.weight()) * percent).max(1)
    }

    /// The number of requests in flight.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether one more request stays within the limit of requests in flight.
    pub(super) fn has_capacity(&self, limit: Option<u32>) -> bool {
        limit.is_none_or(|limit| self.in_flight() < limit)
    }

    /// Counts a request as in flight and returns true, unless `limit` is reached. The caller calls
    /// [`end_request`](Self::end_request) when the request ends.
    pub(super) fn begin_request(&self, limit: Option<u32>) -> bool {
        let may = |count: u32| limit.is_none_or(|limit| count < limit).then_some(count + 1);
        let is_counted = match limit {
            None => {
                self.in_flight.fetch_add(1, AcqRel);
                true
            }
            Some(_) => self.in_flight.fetch_update(AcqRel, Acquire, may).is_ok(),
        };
        if is_counted {
            self.requests.fetch_add(1, Relaxed);
        }
        is_counted
    }

    /// Counts a request as ended.
    pub(super) fn end_request(&self) {
        self.in_flight.fetch_sub(1, Release);
    }

    /// Records the status of a response whose head came after `time`. 502, 503 and 504 are failures.
    pub(super) fn record_response(&self, status: StatusCode, time: Duration) {
        if matches!(status.as_u16(), 502..=504) {
            return self.record_failure(status.as_str(), time);
        }
        self.health.record_success();
        self.time.observe(time, Instant::now());
    }

    /// Records a request that failed after `time`, and ejects the endpoint if that was one too many.
    pub(super) fn record_failure(&self, reason: &str, time: Duration) {
        let now = Instant::now();
        self.failures.fetch_add(1, Relaxed);
        self.time.observe(time.max(MIN_FAILURE_TIME), now);
        if self
            .health
            .record_failure(&self.shared.outlier, reason, now)
        {
            tracing::info!(endpoint = %self.address, reason, "endpoint ejected");
            self.shared.has_unhealthy.store(true, Release);
        }
    }

    /// Records the result of a health check: the error says why it failed.
    pub(super) fn record_probe(&self, result: Result<(), String>) {
        let is_healthy = result.is_ok();
        if self.health.record_probe(result) {
            tracing::info!(endpoint = %self.address, is_healthy, "health checks changed the endpoint's state");
            self.shared.has_unhealthy.store(true, Release);
        }
    }

    /// Closes pooled connections now, and the others when their requests end.
    pub(super) fn close(&self) {
        self.http1.close();
        self.http2.close();
    }

    /// Closes connections that have been idle since before `limit`.
    pub(super) fn close_idle(&self, limit: Instant) {
        self.http1.close_idle(limit);
        self.http2.close_idle(limit);
    }

    /// A snapshot of the endpoint.
    pub(super) fn state(&self, now: Instant) -> EndpointState {
        EndpointState {
            address: self.address,
            weight: self.weight(),
            in_flight: self.in_flight(),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            health: self.health.state(now),
            time: Duration::from_secs_f64(self.time.seconds(now)),
        }
    }
}
