//! Which of several endpoints is next. Each function takes the first of its order that fits.

use std::{cmp::Ordering, sync::Arc};

use headgate_abi::{Addr, Port};
use headgate_datapath::maglev::{self, Member};
use tokio::time::Instant;

use super::endpoint::Endpoint;

/// Whether an endpoint may be chosen.
pub(super) type Fits<'a> = &'a dyn Fn(&Endpoint) -> bool;

type Choice<'a> = Option<&'a Arc<Endpoint>>;

/// One after another.
pub(super) fn in_turn<'a>(
    endpoints: &'a [Arc<Endpoint>],
    turn: usize,
    fits: Fits<'_>,
) -> Choice<'a> {
    let next = endpoints.get(turn.checked_rem(endpoints.len())?);
    // The turns of those that do not fit go round among the others, not to their neighbours.
    next.filter(|endpoint| fits(endpoint))
        .or_else(|| nth(endpoints, turn / endpoints.len(), fits))
}

fn nth<'a>(endpoints: &'a [Arc<Endpoint>], number: usize, fits: Fits<'_>) -> Choice<'a> {
    let fitting = || endpoints.iter().filter(|endpoint| fits(endpoint));
    let number = number.checked_rem(fitting().count())?;
    fitting().nth(number)
}

/// As often as weights say, evenly mixed: nginx's smooth weighted round robin. Everybody earns its
/// weight each time; the richest is chosen and pays what all have earned.
pub(super) fn smooth<'a>(
    endpoints: &'a [Arc<Endpoint>],
    earned: &mut [i64],
    now: Instant,
    fits: Fits<'_>,
) -> Choice<'a> {
    let mut total = 0;
    let mut best: Option<(&Arc<Endpoint>, &mut i64)> = None;
    for (endpoint, earned) in endpoints.iter().zip(earned) {
        if !fits(endpoint) {
            continue;
        }
        let share = endpoint.share(now) as i64;
        *earned += share;
        total += share;
        if best.as_ref().is_none_or(|(_, most)| *earned > **most) {
            best = Some((endpoint, earned));
        }
    }
    let (endpoint, earned) = best?;
    *earned -= total;
    Some(endpoint)
}

/// Requests for the weight, as if one more were there.
pub(super) fn load(endpoint: &Endpoint, now: Instant) -> f64 {
    (f64::from(endpoint.in_flight()) + 1.0) / endpoint.share(now) as f64
}

/// The recent time to answer for the weight, as if one more request were there. A new endpoint costs
/// nothing until its first request, and then much until the answer is here.
pub(super) fn time_load(endpoint: &Endpoint, now: Instant) -> f64 {
    const UNKNOWN: f64 = 1.0;
    let seconds = match endpoint.time.seconds(now) {
        0.0 if endpoint.in_flight() > 0 => UNKNOWN,
        seconds => seconds,
    };
    seconds * load(endpoint, now)
}

/// The one with the least load; one after another if there are several.
pub(super) fn least<'a>(
    endpoints: &'a [Arc<Endpoint>],
    turn: usize,
    load: impl Fn(&Endpoint) -> f64,
    fits: Fits<'_>,
) -> Choice<'a> {
    let (before, from) = endpoints.split_at(turn.checked_rem(endpoints.len())?);
    let rotated = from.iter().chain(before);
    let fitting = rotated.filter(|endpoint| fits(endpoint));
    fitting
        .map(|endpoint| (endpoint, load(endpoint)))
        .min_by(|(_, one), (_, other)| compare(*one, *other))
        .map(|(endpoint, _)| endpoint)
}

/// The better of two at random: nearly as good as the best of all, without the rush to it of
/// everybody who looks at the same moment (Mitzenmacher, 2001).
pub(super) fn two<'a>(
    endpoints: &'a [Arc<Endpoint>],
    load: impl Fn(&Endpoint) -> f64,
    fits: Fits<'_>,
) -> Choice<'a> {
    let fit = |endpoint: &&Arc<Endpoint>| fits(endpoint);
    let (one, other) = different(endpoints.len())?;
    let (one, other) = (endpoints.get(one), endpoints.get(other));
    if let (Some(one), Some(other)) = (one.filter(fit), other.filter(fit)) {
        return Some(better(one, other, load));
    }
    let (one, other) = different(endpoints.iter().filter(fit).count())?;
    let (one, other) = (nth(endpoints, one, fits)?, nth(endpoints, other, fits)?);
    Some(better(one, other, load))
}

fn better<'a>(
    one: &'a Arc<Endpoint>,
    other: &'a Arc<Endpoint>,
    load: impl Fn(&Endpoint) -> f64,
) -> &'a Arc<Endpoint> {
    match compare(load(one), load(other)) {
        Ordering::Less | Ordering::Equal => one,
        Ordering::Greater => other,
    }
}

/// Two numbers below a count at random, different if there are two.
fn different(count: usize) -> Option<(usize, usize)> {
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

/// Slots of a Maglev table. The number is fixed, as another one moves every hash.
const SLOTS: u32 = 8191;

/// Every node fills the same table.
const SEED: u32 = 0x6864_6774;

/// At most so many members stand for an endpoint of high weight.
const MOST_COPIES: u64 = 64;

/// Says for a hash which endpoint it falls on.
#[derive(Debug)]
pub(super) struct Table(Vec<u32>);

impl Table {
    /// For endpoints that are sorted by address.
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let most = endpoints.iter().map(|endpoint| endpoint.weight()).max();
        let gcd = endpoints
            .iter()
            .fold(0, |gcd, one| common_divisor(gcd, one.weight()));
        let unit = u64::from(gcd)
            .max(u64::from(most.unwrap_or(1)) / MOST_COPIES)
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

    /// The endpoint that a hash falls on, or that of the next slot if it does not fit.
    pub(super) fn find<'a>(
        &self,
        hash: u64,
        endpoints: &'a [Arc<Endpoint>],
        fits: Fits<'_>,
    ) -> Choice<'a> {
        if !endpoints.iter().any(|endpoint| fits(endpoint)) {
            return None;
        }
        let (before, from) = self.0.split_at((hash % u64::from(SLOTS)) as usize);
        let endpoint = |slot: &u32| endpoints.get((*slot as usize).checked_sub(1)?);
        let mut slots = from.iter().chain(before).filter_map(endpoint);
        slots.find(|endpoint| fits(endpoint))
    }
}

fn common_divisor(one: u32, other: u32) -> u32 {
    match other {
        0 => one,
        _ => common_divisor(other, one % other),
    }
}
