//! Limits of each client. Each node counts alone.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use governor::{DefaultKeyedRateLimiter, Quota};
use headgate_model::ingress::{Limits, Rate};

/// Clients per rate above which clients with a full quota are removed.
const MAX_CLIENTS: usize = 1 << 16;

/// Usage of the clients of an Ingress.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    rates: Vec<DefaultKeyedRateLimiter<IpAddr>>,
    concurrent: Mutex<HashMap<IpAddr, u32>>,
}

/// The permission of a request; while it exists, the request counts as concurrent.
#[derive(Debug)]
pub(crate) struct Admission(Option<(Arc<Limiter>, IpAddr)>);

impl Limiter {
    /// Starts with no usage. `None` if `limits` has no limit for clients.
    pub(crate) fn new(limits: &Limits) -> Option<Self> {
        if limits.rates.is_empty() && limits.concurrent.is_none() {
            return None;
        }
        let rates = limits.rates.iter().filter_map(quota);
        Some(Self {
            limits: limits.clone(),
            rates: rates.map(DefaultKeyedRateLimiter::keyed).collect(),
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
            if rate.len() >= MAX_CLIENTS {
                rate.retain_recent();
            }
            rate.check_key(&client).ok()?;
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
    Some(quota.allow_burst(NonZeroU32::new(rate.burst)?))
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

    use headgate_model::ingress::{Limits, Rate};

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
            ("10.0.0.1", 3),
            ("10.0.0.2", 3),
            ("10.0.0.9", 9),
            ("2001:db8::1", 3),
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
