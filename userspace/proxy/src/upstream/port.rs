//! A Service's port as an upstream: picks endpoints and sends to them.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
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
use headgate_model::ingress::{Timeouts, UpstreamKey};
use http::{Request, Response, StatusCode};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    Ask, NoEndpoint, Pick, Reply, SendError, UpstreamState, connect,
    connect::Dialer,
    endpoint::{Common, Endpoint},
    exchange::exchange,
    reply::Leased,
    set::Set,
    silence::Silence,
};
use crate::Body;

/// The endpoints of a Service's port, the connections to them, and what is known of them.
#[derive(Debug)]
pub struct Upstream {
    pub(super) key: UpstreamKey,
    pub(super) dialer: Dialer,
    set: ArcSwap<Set>,
    /// Held while endpoints are replaced.
    updating: Mutex<()>,
    common: Arc<Common>,
    turn: AtomicUsize,
}

impl Upstream {
    /// Whose endpoints these are.
    pub fn key(&self) -> &UpstreamKey {
        &self.key
    }

    /// Without endpoints.
    pub(super) fn new(key: UpstreamKey) -> Self {
        let outlier = key.policy.outlier.clone();
        Self {
            dialer: Dialer::new(&key),
            key,
            set: ArcSwap::default(),
            updating: Mutex::default(),
            common: Arc::new(Common {
                outlier,
                ..Common::default()
            }),
            // Not every node begins with the same endpoint.
            turn: AtomicUsize::new(fastrand::usize(..1 << 16)),
        }
    }

    /// Picks an endpoint that is well and has room. Those that were tried come last.
    pub fn pick(&self, ask: &Ask<'_>, tried: &[SocketAddr]) -> Result<Pick, NoEndpoint> {
        let set = self.set.load();
        if set.endpoints.is_empty() {
            return Err(NoEndpoint::Missing);
        }
        let now = Instant::now();
        let limit = self.key.policy.concurrent;
        let uses_all = self.uses_all(&set, now);
        let is_well = |endpoint: &Endpoint| uses_all || endpoint.health.is_well(now);
        let fits = |endpoint: &Endpoint| is_well(endpoint) && endpoint.has_room(limit);
        let is_new = |endpoint: &Endpoint| fits(endpoint) && !tried.contains(&endpoint.address);

        let cookies = set.cookies.as_ref();
        let home = cookies.and_then(|cookies| cookies.endpoint(ask.headers));
        let home = home.filter(|endpoint| is_well(endpoint));
        let turn = || self.turn.fetch_add(1, Relaxed);
        let choose = |fits| set.choose(&self.key.policy.balance, ask, turn, now, fits);
        loop {
            let choice = home.filter(|endpoint| is_new(endpoint));
            let choice = choice.or_else(|| choose(&is_new)).or_else(|| choose(&fits));
            let endpoint = choice.ok_or(NoEndpoint::Busy)?;
            if endpoint.enter(limit) {
                // A client whose endpoint is well but was tried or is busy goes back to it later.
                let cookies = cookies.filter(|_| home.is_none());
                let cookie = cookies.and_then(|cookies| cookies.cookie(endpoint));
                return Ok(Pick::new(endpoint.clone(), cookie));
            }
        }
    }

    /// Whether all endpoints are used: they are well, or so few of them are that those would be
    /// overwhelmed, and perhaps the fault is not theirs.
    fn uses_all(&self, set: &Set, now: Instant) -> bool {
        let flag = &self.common.has_unwell;
        if !flag.load(Acquire) {
            return true;
        }
        let unwell = set.unwell(now);
        if unwell > 0 {
            return is_panic(unwell, set);
        }
        // An endpoint may fall ill just now: it does so before it sets the flag, so either the flag
        // is set after this or the endpoint is counted here.
        flag.swap(false, AcqRel);
        if set.unwell(now) > 0 {
            flag.store(true, Release);
        }
        true
    }

    /// Sends a request to the endpoint that was picked. `client` is the client's address and the one
    /// that it came to, for endpoints that want to know.
    pub async fn send(
        &self,
        pick: &Pick,
        request: Box<Request<Body>>,
        timeouts: &Timeouts,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Response<Body>, SendError> {
        let begin = Instant::now();
        let endpoint = pick.endpoint();
        match exchange(&self.dialer, endpoint, request, timeouts, client).await {
            Ok(answer) => {
                endpoint.answered(answer.status(), begin.elapsed());
                Ok(reply(answer, pick, timeouts.read))
            }
            Err(error) => {
                if error.kind.is_of_endpoint() && self.dialer.error().is_none() {
                    endpoint.failed(&error.to_string(), begin.elapsed());
                }
                Err(error)
            }
        }
    }

    /// A connection to the endpoint that was picked, for whatever the client speaks.
    pub async fn connect(&self, pick: &Pick, timeouts: &Timeouts) -> io::Result<TcpStream> {
        let begin = Instant::now();
        let endpoint = pick.endpoint();
        let connected = timeout(timeouts.connect, connect::tcp(endpoint.address)).await;
        let connected = connected.unwrap_or_else(|late| Err(late.into()));
        match &connected {
            Ok(_) => endpoint.answered(StatusCode::OK, begin.elapsed()),
            Err(error) => endpoint.failed(&error.to_string(), begin.elapsed()),
        }
        connected
    }

    /// Replaces the endpoints. Those that stay keep their connections and what is known of them.
    pub(super) fn update(&self, wanted: &BTreeMap<SocketAddr, u32>) {
        let _turn = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.set.load_full();
        if old.is(wanted) {
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
        let set = Set::new(endpoints.collect(), &self.key.policy);
        self.set.store(Arc::new(set));
        let left = old.endpoints.iter();
        let left = left.filter(|endpoint| !wanted.contains_key(&endpoint.address));
        left.for_each(|endpoint| endpoint.close());
    }

    fn endpoint(&self, address: SocketAddr, weight: u32, slow_start: Duration) -> Arc<Endpoint> {
        let common = self.common.clone();
        Arc::new(Endpoint::new(address, weight, slow_start, common))
    }

    /// Its endpoints.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.set.load().endpoints.clone()
    }

    /// What it looks like from outside.
    pub(crate) fn state(&self) -> UpstreamState {
        let set = self.set.load();
        let now = Instant::now();
        UpstreamState {
            key: self.key.clone(),
            error: self.dialer.error().map(Into::into),
            is_panicking: is_panic(set.unwell(now), &set),
            endpoints: set.endpoints.iter().map(|one| one.state(now)).collect(),
        }
    }
}

/// Whether so many are not well that all are used.
fn is_panic(unwell: usize, set: &Set) -> bool {
    unwell * 2 > set.endpoints.len()
}

fn reply(response: Response<Leased>, pick: &Pick, longest_silence: Duration) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response.map(|_| Body::empty());
    }
    response.map(|mut body| {
        use hyper::body::Body as _;
        let in_flight = pick.hand_over();
        if body.is_end_stream() {
            body.end(in_flight.endpoint());
            return Body::empty();
        }
        Reply::new(body, in_flight, Silence::new(longest_silence)).into()
    })
}
