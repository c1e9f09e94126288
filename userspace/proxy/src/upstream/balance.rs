//! The balancing algorithms: each function picks the first eligible endpoint in its order.

use std::{cmp::Ordering, sync::Arc};

use headgate_abi::{Addr, Port};
use headgate_datapath::maglev::{self, Member};
use tokio::time::Instant;

use super::endpoint::Endpoint;

/// Whether an endpoint may be picked.
pub(super) type Eligible<'a> = &'a dyn Fn(&Endpoint) -> bool;

type Choice<'a> = Option<&'a Arc<Endpoint>>;

/// Picks the endpoints one after another; `turn` counts requests.
pub(super) fn round_robin<'a>(
    endpoints: &'a [Arc<Endpoint>],
    turn: usize,
    eligible: Eligible<'_>,
) -> Choice<'a> {
    let next = endpoints.get(turn.checked_rem(endpoints.len())?);
    // The turns of ineligible endpoints are shared by all others, not given to their neighbours.
    next.filter(|endpoint| eligible(endpoint))
        .or_else(|| nth(endpoints, turn / endpoints.len(), eligible))
}

fn nth<'a>(endpoints: &'a [Arc<Endpoint>], number: usize, eligible: Eligible<'_>) -> Choice<'a> {
    let candidates = || endpoints.iter().filter(|endpoint| eligible(endpoint));
    let number = number.checked_rem(candidates().count())?;
    candidates().nth(number)
}

/// nginx's smooth weighted round robin. Each call adds each endpoint's weight to its credit, picks
/// the highest credit, and subtracts the total weight from it.
pub(super) fn weighted_round_robin<'a>(
    endpoints: &'a [Arc<Endpoint>],
    credits: &mut [i64],
    now: Instant,
    eligible: Eligible<'_>,
) -> Choice<'a> {
    let mut total = 0;
    let mut best: Option<(&Arc<Endpoint>, &mut i64)> = None;
    for (endpoint, credit) in endpoints.iter().zip(credits) {
        if !eligible(endpoint) {
            continue;
        }
        let weight = endpoint.effective_weight(now) as i64;
        *credit += weight;
        total += weight;
        if best.as_ref().is_none_or(|(_, most)| *credit > **most) {
            best = Some((endpoint, credit));
        }
    }
    let (endpoint, credit) = best?;
    *credit -= total;
    Some(endpoint)
}

/// In-flight requests per weight, with the request to be sent.
pub(super) fn load(endpoint: &Endpoint, now: Instant) -> f64 {
    (f64::from(endpoint.in_flight()) + 1.0) / endpoint.effective_weight(now) as f64
}

/// The recent response time in seconds times [`load`]. An endpoint without a measured time has load 0
/// until its first request, and then counts as taking `UNKNOWN` seconds until the response.
pub(super) fn time_load(endpoint: &Endpoint, now: Instant) -> f64 {
    const UNKNOWN: f64 = 1.0;
    let seconds = match endpoint.time.seconds(now) {
        0.0 if endpoint.in_flight() > 0 => UNKNOWN,
        seconds => seconds,
    };
    seconds * load(endpoint, now)
}

/// Picks the endpoint with the least load; endpoints with equal load take turns.
pub(super) fn least_loaded<'a>(
    endpoints: &'a [Arc<Endpoint>],
    turn: usize,
    load: impl Fn(&Endpoint) -> f64,
    eligible: Eligible<'_>,
) -> Choice<'a> {
    let (before, from) = endpoints.split_at(turn.checked_rem(endpoints.len())?);
    let rotated = from.iter().chain(before);
    let candidates = rotated.filter(|endpoint| eligible(endpoint));
    candidates
        .map(|endpoint| (endpoint, load(endpoint)))
        .min_by(|(_, one), (_, other)| compare(*one, *other))
        .map(|(endpoint, _)| endpoint)
}

/// Picks the less loaded of two random endpoints ("power of two choices", Mitzenmacher 2001): nearly
/// as even as the least loaded of all, but simultaneous requests do not all pick the same endpoint.
pub(super) fn two_choices<'a>(
    endpoints: &'a [Arc<Endpoint>],
    load: impl Fn(&Endpoint) -> f64,
    eligible: Eligible<'_>,
) -> Choice<'a> {
    let is_eligible = |endpoint: &&Arc<Endpoint>| eligible(endpoint);
    let (one, other) = two_indices(endpoints.len())?;
    let (one, other) = (endpoints.get(one), endpoints.get(other));
    if let (Some(one), Some(other)) = (one.filter(is_eligible), other.filter(is_eligible)) {
        return Some(less_loaded(one, other, load));
    }
    let (one, other) = two_indices(endpoints.iter().filter(is_eligible).count())?;
    let (one, other) = (
        nth(endpoints, one, eligible)?,
        nth(endpoints, other, eligible)?,
    );
    Some(less_loaded(one, other, load))
}

fn less_loaded<'a>(
    one: &'a Arc<Endpoint>,
    other: &'a Arc<Endpoint>,
    load: impl Fn(&Endpoint) -> f64,
) -> &'a Arc<Endpoint> {
    match compare(load(one), load(other)) {
        Ordering::Less | Ordering::Equal => one,
        Ordering::Greater => other,
    }
}

/// Two random indices below `count`, different if `count` is at least 2.
fn two_indices(count: usize) -> Option<(usize, usize)> {
    match count {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let one = fastrand::usize(..count);
            let step = fastrand::usize(1..count);
            Some((one, (one + step) % count))
        }
    }
}

fn compare(one: f64, other: f64) -> Ordering {
    one.total_cmp(&other)
}

/// Slots of a Maglev table. Constant, because another number would move every hash.
const SLOTS: u32 = 8191;

/// The seed of the Maglev permutations, the same on every node.
const SEED: u32 = 0x6864_6774;

/// The most table members that stand for one endpoint of high weight.
const MAX_COPIES: u64 = 64;

/// A Maglev table: maps a hash to the position of an endpoint, counted from 1.
#[derive(Debug)]
pub(super) struct MaglevTable(Vec<u32>);

impl MaglevTable {
    /// Fills a table for endpoints sorted by address.
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let most = endpoints.iter().map(|endpoint| endpoint.weight()).max();
        let gcd = endpoints
            .iter()
            .fold(0, |gcd, one| common_divisor(gcd, one.weight()));
        let unit = u64::from(gcd)
            .max(u64::from(most.unwrap_or(1)) / MAX_COPIES)
            .max(1);
        let mut members = Vec::new();
        for (number, endpoint) in (1..).zip(endpoints) {
            let (ip, port) = (endpoint.address.ip(), endpoint.address.port());
            let copies = (u64::from(endpoint.weight()) / unit).max(1) as u32;
            members.extend((0..copies).map(|copy| {
                let seed = SEED.wrapping_add(copy);
                Member::new(number, Addr::from(ip), Port::new(port), seed, SLOTS)
            }));
        }
        let mut slots = vec![0; SLOTS as usize];
        maglev::fill(&mut slots, &mut members);
        Self(slots)
    }

    /// The endpoint in the hash's slot, or in the next slot with an eligible endpoint.
    pub(super) fn lookup<'a>(
        &self,
        hash: u64,
        endpoints: &'a [Arc<Endpoint>],
        eligible: Eligible<'_>,
    ) -> Choice<'a> {
        if !endpoints.iter().any(|endpoint| eligible(endpoint)) {
            return None;
        }
        let (before, from) = self.0.split_at((hash % u64::from(SLOTS)) as usize);
        let endpoint = |slot: &u32| endpoints.get((*slot as usize).checked_sub(1)?);
        let mut slots = from.iter().chain(before).filter_map(endpoint);
        slots.find(|endpoint| eligible(endpoint))
    }
}

fn common_divisor(one: u32, other: u32) -> u32 {
    match other {
        0 => one,
        _ => common_divisor(other, one % other),
    }
}
