//! The current endpoints of an upstream, with what is computed once for each set of endpoints.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use headgate_model::edge::{Balance, UpstreamPolicy};
use tokio::time::Instant;

use super::{
    PickInput,
    affinity::{self, Cookies},
    balance::{self, Eligible, MaglevTable},
    endpoint::Endpoint,
};

/// The endpoints, sorted by address.
#[derive(Debug, Default)]
pub(super) struct EndpointSet {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// Some if the policy has sticky cookies.
    pub(super) cookies: Option<Cookies>,
    /// Some if the policy balances by hash.
    table: Option<MaglevTable>,
    /// Whether all weights are equal.
    is_even: bool,
    /// When slow start has ended for all endpoints.
    full_weight_at: Option<Instant>,
    /// The state of weighted round robin, by position of the endpoint.
    credits: Mutex<Vec<i64>>,
}

impl EndpointSet {
    /// A set of endpoints, which must be sorted by address.
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, policy: &UpstreamPolicy) -> Self {
        let sticky = policy.sticky.as_ref();
        let hashes = matches!(policy.balance, Balance::Hash(_));
        let mut weights = endpoints.iter().map(|endpoint| endpoint.weight());
        let first = weights.next();
        Self {
            cookies: sticky.map(|sticky| Cookies::new(sticky, &endpoints)),
            table: hashes.then(|| MaglevTable::new(&endpoints)),
            is_even: weights.all(|weight| Some(weight) == first),
            full_weight_at: endpoints
                .iter()
                .map(|endpoint| endpoint.full_weight_at())
                .max(),
            credits: Mutex::new(vec![0; endpoints.len()]),
            endpoints,
        }
    }

    /// Whether the endpoints and weights are already these.
    pub(super) fn has_weights(&self, wanted: &BTreeMap<SocketAddr, u32>) -> bool {
        let current = self.endpoints.iter();
        current
            .map(|endpoint| (endpoint.address, endpoint.weight()))
            .eq(wanted.iter().map(|(address, weight)| (*address, *weight)))
    }

    /// The endpoint with this address.
    pub(super) fn get(&self, address: SocketAddr) -> Option<&Arc<Endpoint>> {
        let position = self
            .endpoints
            .binary_search_by_key(&address, |endpoint| endpoint.address);
        self.endpoints.get(position.ok()?)
    }

    /// The number of unhealthy endpoints.
    pub(super) fn count_unhealthy(&self, now: Instant) -> usize {
        let is_unhealthy = |endpoint: &&Arc<Endpoint>| !endpoint.health.is_healthy(now);
        self.endpoints.iter().filter(is_unhealthy).count()
    }

    /// Picks an eligible endpoint by the policy's algorithm; `turn` counts requests.
    pub(super) fn choose(
        &self,
        balance: &Balance,
        input: &PickInput<'_>,
        turn: impl Fn() -> usize,
        now: Instant,
        eligible: Eligible<'_>,
    ) -> Option<&Arc<Endpoint>> {
        let endpoints = &self.endpoints;
        let load = |endpoint: &Endpoint| balance::load(endpoint, now);
        let time_load = |endpoint: &Endpoint| balance::time_load(endpoint, now);
        match balance {
            Balance::RoundRobin => self.round_robin(turn(), now, eligible),
            Balance::LeastConnections => balance::least_loaded(endpoints, turn(), load, eligible),
            Balance::Random => balance::two_choices(endpoints, load, eligible),
            Balance::LeastTime => balance::two_choices(endpoints, time_load, eligible),
            Balance::Hash(by) => match (affinity::hash(by, input), &self.table) {
                (Some(hash), Some(table)) => table.lookup(hash, endpoints, eligible),
                (None, _) | (_, None) => self.round_robin(turn(), now, eligible),
            },
        }
    }

    fn round_robin(
        &self,
        turn: usize,
        now: Instant,
        eligible: Eligible<'_>,
    ) -> Option<&Arc<Endpoint>> {
        if self.is_even && self.full_weight_at.is_none_or(|at| at <= now) {
            return balance::round_robin(&self.endpoints, turn, eligible);
        }
        let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        balance::weighted_round_robin(&self.endpoints, &mut credits, now, eligible)
    }
}
