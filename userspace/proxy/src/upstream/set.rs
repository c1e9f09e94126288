//! The endpoints of an upstream at a time, with what is made of them once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use headgate_model::ingress::{Balance, UpstreamPolicy};
use tokio::time::Instant;

use super::{
    Ask,
    affinity::{self, Cookies},
    balance::{self, Fits, Table},
    endpoint::Endpoint,
};

/// The endpoints, sorted by address.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// If the policy ties clients to endpoints.
    pub(super) cookies: Option<Cookies>,
    /// If the policy hashes.
    table: Option<Table>,
    /// Whether weights are the same.
    is_even: bool,
    /// When all weights have grown.
    grown_at: Option<Instant>,
    /// For round robin by weight.
    earned: Mutex<Vec<i64>>,
}

impl Set {
    /// Of these endpoints.
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, policy: &UpstreamPolicy) -> Self {
        let sticky = policy.sticky.as_ref();
        let hashes = matches!(policy.balance, Balance::Hash(_));
        let mut weights = endpoints.iter().map(|endpoint| endpoint.weight());
        let first = weights.next();
        Self {
            cookies: sticky.map(|sticky| Cookies::new(sticky, &endpoints)),
            table: hashes.then(|| Table::new(&endpoints)),
            is_even: weights.all(|weight| Some(weight) == first),
            grown_at: endpoints.iter().map(|endpoint| endpoint.grown_at()).max(),
            earned: Mutex::new(vec![0; endpoints.len()]),
            endpoints,
        }
    }

    /// Whether these are its endpoints and weights.
    pub(super) fn is(&self, wanted: &BTreeMap<SocketAddr, u32>) -> bool {
        let here = self.endpoints.iter();
        here.map(|endpoint| (endpoint.address, endpoint.weight()))
            .eq(wanted.iter().map(|(address, weight)| (*address, *weight)))
    }

    /// The endpoint of an address.
    pub(super) fn get(&self, address: SocketAddr) -> Option<&Arc<Endpoint>> {
        let place = self
            .endpoints
            .binary_search_by_key(&address, |endpoint| endpoint.address);
        self.endpoints.get(place.ok()?)
    }

    /// How many of them are not well.
    pub(super) fn unwell(&self, now: Instant) -> usize {
        let is_unwell = |endpoint: &&Arc<Endpoint>| !endpoint.health.is_well(now);
        self.endpoints.iter().filter(is_unwell).count()
    }

    /// The next endpoint; `turn` counts requests.
    pub(super) fn choose(
        &self,
        balance: &Balance,
        ask: &Ask<'_>,
        turn: impl Fn() -> usize,
        now: Instant,
        fits: Fits<'_>,
    ) -> Option<&Arc<Endpoint>> {
        let endpoints = &self.endpoints;
        let load = |endpoint: &Endpoint| balance::load(endpoint, now);
        let time_load = |endpoint: &Endpoint| balance::time_load(endpoint, now);
        match balance {
            Balance::RoundRobin => self.round_robin(turn(), now, fits),
            Balance::LeastConnections => balance::least(endpoints, turn(), load, fits),
            Balance::Random => balance::two(endpoints, load, fits),
            Balance::LeastTime => balance::two(endpoints, time_load, fits),
            Balance::Hash(by) => match (affinity::hash(by, ask), &self.table) {
                (Some(hash), Some(table)) => table.find(hash, endpoints, fits),
                (None, _) | (_, None) => self.round_robin(turn(), now, fits),
            },
        }
    }

    fn round_robin(&self, turn: usize, now: Instant, fits: Fits<'_>) -> Option<&Arc<Endpoint>> {
        if self.is_even && self.grown_at.is_none_or(|grown_at| grown_at <= now) {
            return balance::in_turn(&self.endpoints, turn, fits);
        }
        let mut earned = self.earned.lock().unwrap_or_else(PoisonError::into_inner);
        balance::smooth(&self.endpoints, &mut earned, now, fits)
    }
}
