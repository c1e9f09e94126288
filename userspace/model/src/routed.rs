//! Ports of Services whose connections go to the backends of a route, by weight.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{Backend, EndpointSlice, KeyParts, Node, Protocol, desired::eligible_backends};

/// What the routed ports of a Service send to, by protocol and number.
pub type Routed<'a> = BTreeMap<(Protocol, u16), Vec<Share<'a>>>;

/// A part of the connections of a port.
#[derive(Clone, Debug)]
pub struct Share<'a> {
    /// It gets this of the sum of all weights.
    pub weight: u32,
    /// Name of the port and slices of the Service that it goes to; `None` if it is refused.
    pub port: Option<(&'a str, Vec<&'a EndpointSlice>)>,
}

/// Shares are computed in slots of a table of this size, and scaled to the one that is used.
pub(crate) const FINEST: u32 = 1 << 30;

/// Backends with their shares of [`FINEST`], or without if all are alike.
pub(crate) type Weighed = (Arc<[Backend]>, Option<Arc<[u32]>>);

/// Divides connections by weight between Services, and each part evenly between the eligible endpoints of the Service.
/// The part of a Service without one is refused. `key` is that of the routed port: the endpoints have its protocol,
/// family and scope.
pub(crate) fn weighed(shares: &[Share<'_>], node: &Node, key: &KeyParts) -> Weighed {
    let parts = shares.iter().filter(|share| share.weight > 0);
    let parts: Vec<(u64, Arc<[Backend]>)> = parts
        .map(|share| {
            let backends = share.port.as_ref().map(|(name, slices)| {
                let key = KeyParts {
                    service: key.service.clone(),
                    port: (*name).to_owned(),
                    ..*key
                };
                eligible_backends(slices, node, &key)
            });
            (share.weight.into(), backends.unwrap_or_default())
        })
        .collect();
    let all = parts
        .iter()
        .flat_map(|(_, backends)| backends.iter().copied());
    let distinct: BTreeSet<Backend> = all.clone().collect();
    if distinct.is_empty() || (are_alike(&parts) && distinct.len() == all.count()) {
        return (distinct.into_iter().collect(), None);
    }
    let total = parts.iter().map(|(weight, _)| weight).sum();
    let mut slots: BTreeMap<Backend, u32> = BTreeMap::new();
    let mut before = 0;
    for (weight, backends) in &parts {
        let part = part(FINEST, before, *weight, total);
        before += weight;
        for (at, backend) in (0..).zip(backends.iter()) {
            *slots.entry(*backend).or_default() += self::part(part, at, 1, backends.len() as u64);
        }
    }
    let (backends, slots): (Vec<Backend>, Vec<u32>) = slots.into_iter().unzip();
    (backends.into(), Some(slots.into()))
}

/// Whether every endpoint has the same weight, and nothing is refused.
fn are_alike(parts: &[(u64, Arc<[Backend]>)]) -> bool {
    let Some((first, others)) = parts.split_first() else {
        return true;
    };
    let count = |part: &(u64, Arc<[Backend]>)| part.1.len() as u64;
    let is_alike = |part: &(u64, Arc<[Backend]>)| part.0 * count(first) == first.0 * count(part);
    count(first) > 0 && others.iter().all(|part| count(part) > 0 && is_alike(part))
}

/// The slots of a part with this weight, after parts whose weights are `before` together. All parts together are the
/// whole.
fn part(whole: u32, before: u64, weight: u64, total: u64) -> u32 {
    let end = |weight: u64| u64::from(whole) * weight / total;
    (end(before + weight) - end(before)) as u32
}
