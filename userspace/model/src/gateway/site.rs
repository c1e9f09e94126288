//! Our Gateways with their ListenerSets.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Holder, Listener, Problem, World,
    listeners::listeners,
    object::{AddressType, FromNamespaces, GROUP, Gateway, ListenerSet},
    verdicts::parameters,
};
use crate::NamespacedName;

/// A Gateway of ours, judged.
pub(super) struct Site<'a> {
    pub(super) gateway: &'a Gateway,
    /// Why nothing of it is served.
    pub(super) refusal: Option<Problem>,
    /// Its own listeners, then those of the ListenerSets that it allows, in their order.
    pub(super) listeners: Vec<Listener<'a>>,
}

impl Site<'_> {
    /// Whether it is accepted: with at least one listener of its own.
    pub(super) fn is_accepted(&self) -> bool {
        let is_own = |one: &&Listener<'_>| matches!(one.holder, Holder::Gateway(_));
        let mut own = self.listeners.iter().filter(is_own);
        self.refusal.is_none() && own.any(Listener::is_accepted)
    }

    /// Whether a listener is served.
    pub(super) fn serves(&self, listener: &Listener<'_>) -> bool {
        self.is_accepted() && listener.is_served()
    }
}

/// Our Gateways.
pub(super) struct Sites<'a> {
    pub(super) sites: BTreeMap<NamespacedName, Site<'a>>,
    /// ListenerSets of our Gateways: the Gateway, and whether it allows them.
    pub(super) sets: BTreeMap<NamespacedName, (NamespacedName, bool)>,
}

impl<'a> Sites<'a> {
    pub(super) fn new(world: &World<'a>) -> Self {
        let objects = world.objects;
        let class = |gateway: &Gateway| objects.classes.get(&gateway.spec.gateway_class_name);
        let is_ours = |gateway: &&Gateway| world.options.serves(objects, gateway);
        let ours: BTreeMap<&NamespacedName, &Gateway> = objects
            .gateways
            .values()
            .filter(is_ours)
            .map(|gateway| (&gateway.meta.name, gateway))
            .collect();
        let mut sets = BTreeMap::new();
        let mut allowed: BTreeMap<&NamespacedName, Vec<&ListenerSet>> = BTreeMap::new();
        for (name, set) in &objects.listener_sets {
            let parent = &set.spec.parent_ref;
            if parent.group != GROUP || parent.kind != "Gateway" {
                continue;
            }
            let target = parent.target(&name.namespace);
            if let Some((target, gateway)) = ours.get_key_value(&target) {
                let is_allowed = allows_set(world, gateway, set);
                sets.insert(name.clone(), ((*target).clone(), is_allowed));
                if is_allowed {
                    allowed.entry(target).or_default().push(set);
                }
            }
        }
        let sites = ours.into_iter().map(|(name, gateway)| {
            let mut sets = allowed.remove(name).unwrap_or_default();
            sets.sort_by_cached_key(|set| set.meta.age());
            let site = Site {
                gateway,
                refusal: class(gateway)
                    .and_then(parameters)
                    .or_else(|| refusal(gateway)),
                listeners: listeners(world, gateway, &sets),
            };
            (name.clone(), site)
        });
        Self {
            sites: sites.collect(),
            sets,
        }
    }

    pub(super) fn has(&self, gateway: &NamespacedName) -> bool {
        self.sites.contains_key(gateway)
    }

    /// The Gateway of a ListenerSet.
    pub(super) fn gateway_of(&self, set: &NamespacedName) -> Option<&NamespacedName> {
        self.sets.get(set).map(|(gateway, _)| gateway)
    }

    /// The listeners of a Gateway and its sets.
    pub(super) fn listeners(&self, gateway: &NamespacedName) -> &[Listener<'a>] {
        self.sites.get(gateway).map_or(&[], |site| &site.listeners)
    }

    /// Number of accepted ListenerSets of a Gateway.
    pub(super) fn accepted_sets(&self, site: &Site<'_>) -> usize {
        let accepted = site.listeners.iter().filter(|one| one.is_accepted());
        let sets: BTreeSet<&NamespacedName> = accepted
            .filter_map(|one| match &one.holder {
                Holder::ListenerSet(name) => Some(name),
                Holder::Gateway(_) => None,
            })
            .collect();
        match site.is_accepted() {
            true => sets.len(),
            false => 0,
        }
    }
}

/// Why nothing of a Gateway is served.
fn refusal(gateway: &Gateway) -> Option<Problem> {
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let parameters = infrastructure.and_then(|one| one.parameters_ref.as_ref());
    if let Some(parameters) = parameters {
        let message = format!(
            "spec.infrastructure.parametersRef: {} {} is not supported",
            parameters.kind, parameters.name
        );
        return Some(Problem::new("InvalidParameters", message));
    }
    let mut addresses = gateway.spec.addresses.iter();
    let unknown = addresses.find(|address| address.type_ != AddressType::IpAddress)?;
    let message = format!(
        "spec.addresses: type {} is not supported, only IPAddress",
        unknown.type_
    );
    Some(Problem::new("UnsupportedAddress", message))
}

/// Whether a Gateway allows a ListenerSet.
fn allows_set(world: &World<'_>, gateway: &Gateway, set: &ListenerSet) -> bool {
    let allowed = gateway.spec.allowed_listeners.as_ref();
    let Some(namespaces) = allowed.and_then(|allowed| allowed.namespaces.as_ref()) else {
        return false;
    };
    let from = namespaces.from.as_ref().unwrap_or(&FromNamespaces::None);
    let (own, namespace) = (&gateway.meta.name.namespace, &set.meta.name.namespace);
    world.selects(from, namespaces.selector.as_ref(), own, namespace)
}
