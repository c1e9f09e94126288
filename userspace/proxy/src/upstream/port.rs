//! An upstream: picks an endpoint and sends requests to it.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use headgate_model::edge::{Timeouts, UpstreamKey};
use http::{Request, Response, StatusCode};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    ErrorKind, NoEndpoint, Pick, PickInput, Reply, SendError, UpstreamState, affinity,
    connect::Dialer,
    endpoint::{Endpoint, UpstreamShared},
    error::TimedOut,
    exchange::exchange,
    reply::Leased,
    set::EndpointSet,
    timeout::IdleTimeout,
};
use crate::{
    body::Body,
    stream::{Prefixed, Tunnel},
    worker::PerWorker,
};

/// The endpoints of a Service port under one policy, their connections, counters and health.
#[derive(Debug)]
pub struct Upstream {
    pub(super) key: UpstreamKey,
    pub(super) dialer: Dialer,
    set: ArcSwap<EndpointSet>,
    /// Held while endpoints are replaced.
    updating: Mutex<()>,
    shared: Arc<UpstreamShared>,
    turn: AtomicUsize,
}

impl Upstream {
    /// The Service port and policy.
    pub fn key(&self) -> &UpstreamKey {
        &self.key
    }

    /// An upstream without endpoints.
    pub(super) fn new(key: UpstreamKey, workers: usize) -> Self {
        let outlier = key.policy.outlier.clone();
        Self {
            dialer: Dialer::new(&key),
            key,
            set: ArcSwap::default(),
            updating: Mutex::default(),
            shared: Arc::new(UpstreamShared {
                outlier,
                workers,
                pooled: Arc::new(PerWorker::new(workers)),
                ..UpstreamShared::default()
            }),
            // Random, so that nodes do not all begin with the same endpoint.
            turn: AtomicUsize::new(fastrand::usize(..1 << 16)),
        }
    }

    /// Picks a healthy endpoint that is below its limit of requests in flight. Endpoints in `tried` are
    /// picked only if no other is eligible.
    ///
    /// # Errors
    ///
    /// Fails if there are no endpoints, or all are at their limit.
    pub fn pick(&self, input: &PickInput<'_>, tried: &[SocketAddr]) -> Result<Pick, NoEndpoint> {
        let set = self.set.load();
        if set.endpoints.is_empty() {
            return Err(NoEndpoint::Missing);
        }
        let now = Instant::now();
        let limit = self.key.policy.concurrent;
        let ignores_health = self.ignores_health(&set, now);
        let is_healthy = |endpoint: &Endpoint| ignores_health || endpoint.health.is_healthy(now);
        let eligible = |endpoint: &Endpoint| is_healthy(endpoint) && endpoint.has_capacity(limit);
        let is_untried =
            |endpoint: &Endpoint| eligible(endpoint) && !tried.contains(&endpoint.address);

        let cookies = set.cookies.as_ref();
        let pinned = cookies.and_then(|cookies| cookies.endpoint(input.headers));
        let pinned = pinned.filter(|endpoint| is_healthy(endpoint));
        let turn = || self.turn.fetch_add(1, Relaxed);
        let choose = |eligible| set.choose(&self.key.policy.balance, input, turn, now, eligible);
        loop {
            let choice = pinned.filter(|endpoint| is_untried(endpoint));
            let choice = choice
                .or_else(|| choose(&is_untried))
                .or_else(|| choose(&eligible));
            let endpoint = choice.ok_or(NoEndpoint::Busy)?;
            if endpoint.begin_request(limit) {
                // A client whose endpoint is healthy but was tried or is busy stays pinned to it.
                let cookies = cookies.filter(|_| pinned.is_none());
                let cookie = cookies.and_then(|cookies| cookies.cookie(endpoint));
                return Ok(Pick::new(endpoint.clone(), cookie));
            }
        }
    }

    /// Whether the endpoint of a request depends on its headers.
    pub(crate) fn reads_headers(&self) -> bool {
        affinity::reads_headers(&self.key.policy)
    }

    /// Whether it has any endpoints.
    pub(crate) fn has_endpoints(&self) -> bool {
        !self.set.load().endpoints.is_empty()
    }

    /// Whether a healthy endpoint that was not tried could get the request.
    pub(crate) fn has_other(&self, tried: &[SocketAddr]) -> bool {
        let set = self.set.load();
        let now = Instant::now();
        let limit = self.key.policy.concurrent;
        let is_eligible = |one: &Endpoint| one.health.is_healthy(now) && one.has_capacity(limit);
        let mut endpoints = set.endpoints.iter();
        endpoints.any(|one| is_eligible(one) && !tried.contains(&one.address))
    }

    /// Whether requests may go to all endpoints: all are healthy, or more than half are unhealthy: the rest
    /// could be overloaded (panic mode).
    fn ignores_health(&self, set: &EndpointSet, now: Instant) -> bool {
        let flag = &self.shared.has_unhealthy;
        if !flag.load(Acquire) {
            return true;
        }
        let unhealthy = set.count_unhealthy(now);
        if unhealthy > 0 {
            return is_panic(unhealthy, set);
        }
        // An endpoint that becomes unhealthy now does so before it sets the flag: either it sets the
        // flag after this swap, or the count below includes it.
        flag.swap(false, AcqRel);
        if set.count_unhealthy(now) > 0 {
            flag.store(true, Release);
        }
        true
    }

    /// Sends a request to the picked endpoint. `client` is the client's address and the local address
    /// that it connected to, for the PROXY protocol.
    ///
    /// # Errors
    ///
    /// Fails without a response; see [`ErrorKind`].
    pub async fn send(
        &self,
        pick: &Pick,
        request: Box<Request<Body>>,
        timeouts: &Timeouts,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Response<Body>, SendError> {
        let begin = Instant::now();
        let endpoint = pick.endpoint();
        let end = timeouts.per_try.map(|longest| begin + longest);
        let mut is_blameless = false;
        // The time of a body that is on its way is the client's as well.
        let is_streamed = request.body().in_memory().is_none();
        let exchanged = exchange(&self.dialer, endpoint, request, (timeouts, end), client);
        let mut sent = pin!(exchanged);
        let sent = match end {
            None => sent.await,
            Some(end) => match timeout_at(end, sent.as_mut()).await {
                Ok(sent) => sent,
                Err(_elapsed) => {
                    is_blameless = is_streamed;
                    Err(late())
                }
            },
        };
        match sent {
            Ok(response) => {
                endpoint.record_response(response.status(), begin.elapsed());
                let idle = IdleTimeout::new(timeouts.read);
                Ok(with_body(response, pick, idle, end))
            }
            Err(error) => {
                if !is_blameless {
                    self.record_failure(endpoint, &error, begin);
                }
                Err(error)
            }
        }
    }

    /// Records an error of a request if it is the endpoint's fault.
    pub(super) fn record_failure(&self, endpoint: &Endpoint, error: &SendError, begin: Instant) {
        if error.kind.is_endpoint_fault() && self.dialer.error().is_none() {
            endpoint.record_failure(&error.to_string(), begin.elapsed());
        }
    }

    /// Opens a connection to the picked endpoint for bytes of a client: TCP, or TLS if the policy says so.
    ///
    /// # Errors
    ///
    /// Fails if the endpoint does not accept within the connect timeout, or TLS fails.
    pub async fn connect(&self, pick: &Pick, timeouts: &Timeouts) -> io::Result<Tunnel> {
        let begin = Instant::now();
        let endpoint = pick.endpoint();
        let connected = timeout(timeouts.connect, self.dialer.open_bytes(endpoint)).await;
        let connected = connected.unwrap_or_else(|elapsed| Err(elapsed.into()));
        match &connected {
            Ok(_) => endpoint.record_response(StatusCode::OK, begin.elapsed()),
            Err(error) => endpoint.record_failure(&error.to_string(), begin.elapsed()),
        }
        connected.map(|stream| Tunnel::new(Prefixed::new(Bytes::new(), stream)))
    }

    /// Replaces the endpoints. Those that stay keep their connections, counters and health.
    pub(super) fn update(&self, wanted: &BTreeMap<SocketAddr, u32>) {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.set.load_full();
        if old.has_weights(wanted) {
            return;
        }
        let has_others = wanted.keys().any(|address| old.get(*address).is_some());
        let slow_start = match has_others {
            true => self.key.policy.slow_start,
            false => Duration::ZERO,
        };
        let endpoints = wanted
            .iter()
            .map(|(address, weight)| match old.get(*address) {
                Some(endpoint) => {
                    endpoint.set_weight(*weight);
                    endpoint.clone()
                }
                None => self.endpoint(*address, *weight, slow_start),
            });
        let set = EndpointSet::new(endpoints.collect(), &self.key.policy);
        self.set.store(Arc::new(set));
        let left = old.endpoints.iter();
        let left = left.filter(|endpoint| !wanted.contains_key(&endpoint.address));
        left.for_each(|endpoint| endpoint.close());
    }

    fn endpoint(&self, address: SocketAddr, weight: u32, slow_start: Duration) -> Arc<Endpoint> {
        let shared = self.shared.clone();
        Arc::new(Endpoint::new(address, weight, slow_start, shared))
    }

    /// The current endpoints.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.set.load().endpoints.clone()
    }

    /// A snapshot of the upstream.
    pub(crate) fn state(&self) -> UpstreamState {
        let set = self.set.load();
        let now = Instant::now();
        UpstreamState {
            key: self.key.clone(),
            error: self.dialer.error().map(Into::into),
            is_panicking: is_panic(set.count_unhealthy(now), &set),
            endpoints: set.endpoints.iter().map(|one| one.state(now)).collect(),
        }
    }
}

/// Panic mode: more than half of the endpoints are unhealthy.
fn is_panic(unhealthy: usize, set: &EndpointSet) -> bool {
    unhealthy * 2 > set.endpoints.len()
}

/// The error of a try whose time is over.
fn late() -> SendError {
    SendError {
        kind: ErrorKind::Timeout,
        is_sent: true,
        request: None,
        source: TimedOut("response").into(),
    }
}

/// Wraps the response body so that the request counts as in flight until the body is dropped.
pub(super) fn with_body(
    response: Response<Leased>,
    pick: &Pick,
    idle: IdleTimeout,
    end: Option<Instant>,
) -> Response<Body> {
    response.map(|mut body| {
        use hyper::body::Body as _;
        if let Leased::Tunnel(tunnel) = body {
            return Body::Tunnel(tunnel);
        }
        let in_flight = pick.hand_over();
        if body.is_end_stream() {
            body.end(in_flight.endpoint());
            return Body::empty();
        }
        let end = end.map(|end| Box::pin(sleep_until(end)));
        Reply::new(body, in_flight, idle, end).into()
    })
}
