//! Limits of each client. Each node counts alone.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultKeyedRateLimiter, Quota};
use headgate_model::edge::{Limits, Rate};

/// Clients per rate above which clients with a full quota are removed. While more are active, clients
/// share as many quotas.
const MAX_CLIENTS: usize = 1 << 16;
/// Shortest time between two removals, each of which visits all clients.
const REMOVAL_PAUSE: Duration = Duration::from_secs(1);

/// Usage of the clients of an Ingress, or of a rule of a route at a Gateway.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    rates: Vec<DefaultKeyedRateLimiter<IpAddr>>,
    /// When clients were removed last.
    removed: Mutex<Option<Instant>>,
    /// Random, so that clients cannot choose the clients that they share a quota with.
    hasher: RandomState,
    most: usize,
    concurrent: Mutex<HashMap<IpAddr, u32>>,
}

/// The permission of a request; while it exists, the request counts as concurrent.
#[derive(Debug)]
pub(crate) struct Admission(Option<(Arc<Limiter>, IpAddr)>);

impl Limiter {
    /// Starts with no usage. `None` if `limits` has no limit for clients.
    pub(crate) fn new(limits: &Limits) -> Option<Self> {
        Self::with_capacity(limits, MAX_CLIENTS)
    }

    fn with_capacity(limits: &Limits, most: usize) -> Option<Self> {
        if limits.rates.is_empty() && limits.concurrent.is_none() {
            return None;
        }
        let rates = limits.rates.iter().filter_map(quota);
        Some(Self {
            limits: limits.clone(),
            rates: rates.map(DefaultKeyedRateLimiter::keyed).collect(),
            removed: Mutex::default(),
            hasher: RandomState::new(),
            most,
            concurrent: Mutex::default(),
        })
    }

    /// Whether the limiter enforces exactly these limits.
    pub(crate) fn keeps(&self, limits: &Limits) -> bool {
        self.limits == *limits
    }

    /// Admits a request of a client; `None` if it exceeds a limit.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Admission> {
        if self
            .limits
            .exempt
            .iter()
            .any(|network| network.contains(&client))
        {
            return Some(Admission(None));
        }
        let client = whole(client);
        for rate in &self.rates {
            let is_full = rate.len() >= self.most;
            if is_full && self.may_remove() {
                rate.retain_recent();
            }
            let key = match is_full && rate.len() >= self.most {
                true => self.shared(client),
                false => client,
            };
            rate.check_key(&key).ok()?;
        }
        let Some(most) = self.limits.concurrent else {
            return Some(Admission(None));
        };
        let mut concurrent = self
            .concurrent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = concurrent.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Admission(Some((self.clone(), client))))
    }
}

impl Limiter {
    fn may_remove(&self) -> bool {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        let may = removed.is_none_or(|removed| removed.elapsed() >= REMOVAL_PAUSE);
        if may {
            *removed = Some(Instant::now());
        }
        may
    }

    /// The key that a client shares with others: an address of the discard prefix (RFC 6666), which no
    /// client has.
    fn shared(&self, client: IpAddr) -> IpAddr {
        let number = self.hasher.hash_one(client) % self.most as u64;
        Ipv6Addr::from_bits(0x0100 << 112 | u128::from(number)).into()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some((limiter, client)) = self.0.take() else {
            return;
        };
        let mut concurrent = limiter
            .concurrent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = concurrent.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                concurrent.remove(&client);
            }
        }
    }
}

fn quota(rate: &Rate) -> Option<Quota> {
    let quota = Quota::with_period(rate.period / rate.requests)?;
    Some(quota.allow_burst(NonZeroU32::MIN.saturating_add(rate.burst)))
}

/// Returns the /64 network of an IPv6 address: a client can use all addresses of it.
fn whole(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc, time::Duration};

    use headgate_model::edge::{Limits, Rate};

    use super::Limiter;

    fn client(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn l46_each_client_has_its_own_burst() {
        let rate = Rate {
            requests: 1,
            period: Duration::from_secs(3600),
            burst: 3,
        };
        let limits = Limits {
            rates: vec![rate],
            exempt: vec!["10.0.0.9/32".parse().unwrap()],
            ..Limits::default()
        };
        let limiter = Arc::new(Limiter::new(&limits).unwrap());
        for (address, admitted) in [
            ("10.0.0.1", 4),
            ("10.0.0.2", 4),
            ("10.0.0.9", 9),
            ("2001:db8::1", 4),
        ] {
            let tries = (0..9).filter_map(|_| limiter.admit(client(address)));
            assert_eq!(tries.count(), admitted, "{address}");
        }
        assert!(
            limiter.admit(client("2001:db8::2")).is_none(),
            "the same network"
        );
        assert!(limiter.admit(client("2001:db8:0:1::1")).is_some());
        assert!(Limiter::new(&Limits::default()).is_none());
    }

    #[test]
    fn l135_more_clients_than_the_table_holds_are_limited_together() {
        let rate = Rate {
            requests: 1,
            period: Duration::from_secs(3600),
            burst: 1,
        };
        let limits = Limits {
            rates: vec![rate],
            ..Limits::default()
        };
        let limiter = Arc::new(Limiter::with_capacity(&limits, 16).unwrap());
        let all =
            (0..10_000).map(|number| client(&format!("10.0.{}.{}", number / 256, number % 256)));
        let admitted = all
            .filter(|address| limiter.admit(*address).is_some())
            .count();
        assert!((32..=64).contains(&admitted), "{admitted}");
        assert!(limiter.rates[0].len() <= 32);
    }

    #[test]
    fn l46_concurrent_requests_are_limited() {
        let limits = Limits {
            concurrent: Some(2),
            ..Limits::default()
        };
        let limiter = Arc::new(Limiter::new(&limits).unwrap());
        let first = limiter.admit(client("10.0.0.1")).unwrap();
        let _second = limiter.admit(client("10.0.0.1")).unwrap();
        assert!(limiter.admit(client("10.0.0.1")).is_none());
        assert!(limiter.admit(client("10.0.0.2")).is_some());
        drop(first);
        assert!(limiter.admit(client("10.0.0.1")).is_some());
    }
}
