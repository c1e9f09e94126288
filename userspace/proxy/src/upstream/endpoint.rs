//! One endpoint: what is counted and known of it, and its connections.

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

use headgate_model::ingress::OutlierPolicy;
use http::StatusCode;
use tokio::time::Instant;

use super::{EndpointState, ewma::Ewma, health::Health, http1::Idle, http2::Links};

/// A failed request counts as having taken at least so long: an endpoint that fails quickly is not a
/// fast one.
const FAILURE_TIME: Duration = Duration::from_secs(1);

/// A part of a weight, so that a weight of 1 can grow from a tenth.
const WHOLE: u32 = 100;

/// What the endpoints of an upstream have in common.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// When failing endpoints are ejected.
    pub(super) outlier: OutlierPolicy,
    /// Idle HTTP/1.1 connections.
    pub(super) idle: Arc<AtomicUsize>,
    /// Whether any endpoint may not be well.
    pub(super) has_unwell: AtomicBool,
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) health: Health,
    pub(super) time: Ewma,
    /// HTTP/1.1 connections that wait for a request.
    pub(super) idle: Idle,
    /// HTTP/2 connections.
    pub(super) links: Links,
    common: Arc<Common>,
    born: Instant,
    /// How long its weight grows.
    slow_start: Duration,
    weight: AtomicU32,
    in_flight: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
}

impl Endpoint {
    /// An endpoint whose weight grows over `slow_start`.
    pub(super) fn new(
        address: SocketAddr,
        weight: u32,
        slow_start: Duration,
        common: Arc<Common>,
    ) -> Self {
        let now = Instant::now();
        Self {
            address,
            health: Health::new(now),
            time: Ewma::new(now),
            idle: Idle::new(common.idle.clone()),
            links: Links::default(),
            common,
            born: now,
            slow_start,
            weight: AtomicU32::new(weight),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Its weight, without slow start.
    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Another weight from now on.
    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// When its weight has grown.
    pub(super) fn grown_at(&self) -> Instant {
        self.born + self.slow_start
    }

    /// Its weight in hundredths as grown by now, not 0.
    pub(super) fn share(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born);
        let percent = match age < self.slow_start {
            true => {
                let grown = age.as_secs_f64() / self.slow_start.as_secs_f64();
                (f64::from(WHOLE) * grown).max(f64::from(WHOLE) / 10.0) as u64
            }
            false => u64::from(WHOLE),
        };
        (u64::from(self.weight()) * percent).max(1)
    }

    /// Requests right now.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether one more request may come.
    pub(super) fn has_room(&self, limit: Option<u32>) -> bool {
        limit.is_none_or(|limit| self.in_flight() < limit)
    }

    /// Counts a request that comes, unless there are as many as may be. The caller calls
    /// [`leave`](Self::leave) when it ends.
    pub(super) fn enter(&self, limit: Option<u32>) -> bool {
        let may = |count: u32| limit.is_none_or(|limit| count < limit).then_some(count + 1);
        let has_entered = match limit {
            None => {
                self.in_flight.fetch_add(1, AcqRel);
                true
            }
            Some(_) => self.in_flight.fetch_update(AcqRel, Acquire, may).is_ok(),
        };
        if has_entered {
            self.requests.fetch_add(1, Relaxed);
        }
        has_entered
    }

    /// A request has ended.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Release);
    }

    /// A request was answered with headers after `time`.
    pub(super) fn answered(&self, status: StatusCode, time: Duration) {
        if matches!(status.as_u16(), 502..=504) {
            return self.failed(status.as_str(), time);
        }
        self.health.succeeded();
        self.time.observe(time, Instant::now());
    }

    /// A request failed after `time`.
    pub(super) fn failed(&self, reason: &str, time: Duration) {
        let now = Instant::now();
        self.failures.fetch_add(1, Relaxed);
        self.time.observe(time.max(FAILURE_TIME), now);
        if self.health.failed(&self.common.outlier, reason, now) {
            tracing::info!(endpoint = %self.address, reason, "endpoint ejected");
            self.common.has_unwell.store(true, Release);
        }
    }

    /// A probe was answered, or not and why.
    pub(super) fn probed(&self, result: Result<(), String>) {
        let is_well = result.is_ok();
        if self.health.probed(result) {
            tracing::info!(endpoint = %self.address, is_well, "endpoint changed by probes");
            self.common.has_unwell.store(true, Release);
        }
    }

    /// Closes connections that are idle, now and when requests end.
    pub(super) fn close(&self) {
        self.idle.close();
        self.links.close();
    }

    /// Closes connections that have been idle since before `limit`.
    pub(super) fn sweep(&self, limit: Instant) {
        self.idle.sweep(limit);
        self.links.sweep(limit);
    }

    /// What it looks like from outside.
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
