//! Addresses of Gateways.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    GatewayOptions, Problem,
    object::{AddressType, Gateway, Objects, StatusAddress},
};
use crate::NamespacedName;

/// Addresses that Gateways have, and why one cannot have what it wants, or cannot be reached there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(BTreeMap<NamespacedName, (Vec<StatusAddress>, Option<Problem>)>);

impl Addresses {
    /// Sets the addresses of a Gateway, and why it is not reached at those that it wants.
    pub fn set(
        &mut self,
        gateway: NamespacedName,
        addresses: Vec<StatusAddress>,
        problem: Option<Problem>,
    ) {
        self.0.insert(gateway, (addresses, problem));
    }

    /// Returns the addresses of a Gateway.
    pub fn of(&self, gateway: &NamespacedName) -> &[StatusAddress] {
        self.0.get(gateway).map_or(&[], |(addresses, _)| addresses)
    }

    /// Returns why a Gateway is not reached at the addresses that it wants.
    pub fn problem(&self, gateway: &NamespacedName) -> Option<&Problem> {
        self.0.get(gateway)?.1.as_ref()
    }
}

/// Gives addresses of the pools to our Gateways. Those that a Gateway has, by its status or in `held`, stay, then
/// those that `spec` names are given, then free ones to the rest; older Gateways first.
pub fn assign(objects: &Objects, options: &GatewayOptions, held: &Addresses) -> Addresses {
    let held = |gateway: &Gateway| -> BTreeSet<IpAddr> {
        let all = held.of(&gateway.meta.name).iter();
        let all = all.chain(&gateway.status.addresses);
        all.filter_map(|one| one.value.parse().ok()).collect()
    };
    let mut gateways: Vec<&Gateway> = objects
        .gateways
        .values()
        .filter(|gateway| options.serves(objects, gateway) && has_known_types(gateway))
        .collect();
    gateways.sort_by_cached_key(|gateway| gateway.meta.age());
    let pools = &options.pools;
    let is_ours = |address: &IpAddr| pools.iter().any(|network| network.contains(address));
    let mut owners: BTreeMap<IpAddr, &NamespacedName> = BTreeMap::new();
    for gateway in &gateways {
        for address in held(gateway).into_iter().filter(is_ours) {
            owners.entry(address).or_insert(&gateway.meta.name);
        }
    }
    let mut assigned = Addresses::default();
    for gateway in &gateways {
        let mut given = Vec::new();
        let mut problem = None;
        for wanted in named(gateway) {
            match claim(&wanted, &gateway.meta.name, &mut owners, is_ours) {
                Ok(address) => given.push(address),
                Err(reason) => {
                    problem = problem.or(Some(Problem::new("AddressNotUsable", reason)));
                }
            }
        }
        assigned.set(gateway.meta.name.clone(), texts(&given), problem);
    }
    let mut free = pools.iter().flat_map(IpNet::hosts);
    for gateway in &gateways {
        let name = &gateway.meta.name;
        let (named, problem) = assigned.0.remove(name).unwrap_or_default();
        let mut given: BTreeSet<IpAddr> = BTreeSet::new();
        let missing = anonymous(gateway);
        let held = held(gateway).into_iter();
        let held = held.filter(|one| owners.get(one) == Some(&name));
        given.extend(
            held.filter(|one| !named.iter().any(|named| named.value == one.to_string()))
                .take(missing),
        );
        while given.len() < missing {
            let Some(address) = free.find(|address| !owners.contains_key(address)) else {
                break;
            };
            owners.insert(address, name);
            given.insert(address);
        }
        let given: Vec<IpAddr> = given.into_iter().collect();
        let all = named.into_iter().chain(texts(&given)).collect();
        assigned.set(name.clone(), all, problem);
    }
    assigned
}

/// Whether a Gateway has only types of addresses that are known.
fn has_known_types(gateway: &Gateway) -> bool {
    let mut addresses = gateway.spec.addresses.iter();
    addresses.all(|address| address.type_ == AddressType::IpAddress)
}

/// Addresses that a Gateway names.
fn named(gateway: &Gateway) -> impl Iterator<Item = String> {
    let values = gateway.spec.addresses.iter();
    let values = values.filter_map(|address| address.value.clone());
    values.filter(|value| !value.is_empty())
}

/// The number of addresses that a Gateway wants without naming them.
fn anonymous(gateway: &Gateway) -> usize {
    match gateway.spec.addresses.len() {
        0 => 1,
        all => all - named(gateway).count(),
    }
}

/// Takes an address for a Gateway.
fn claim<'a>(
    wanted: &str,
    gateway: &'a NamespacedName,
    owners: &mut BTreeMap<IpAddr, &'a NamespacedName>,
    is_ours: impl Fn(&IpAddr) -> bool,
) -> Result<IpAddr, String> {
    let address: IpAddr = wanted
        .parse()
        .map_err(|_text| format!("`{wanted}` is not an IP address"))?;
    if !is_ours(&address) {
        return Err(format!("{address} is not in a pool of addresses"));
    }
    match owners.get(&address) {
        Some(owner) if *owner != gateway => Err(format!("{address} is in use by another Gateway")),
        _ => {
            owners.insert(address, gateway);
            Ok(address)
        }
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<StatusAddress> {
    let texts = addresses.iter().map(|address| StatusAddress {
        type_: AddressType::IpAddress.as_str().into(),
        value: address.to_string(),
    });
    texts.collect()
}
