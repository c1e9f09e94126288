//! Our Gateways with their ListenerSets.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use super::{
    Holder, Listener, Problem, World,
    certificates::Certificates,
    listeners::listeners,
    object::{AddressType, FromNamespaces, GROUP, Gateway, ListenerSet},
    reference::Referrer,
    verdicts::parameters,
};
use crate::{NamespacedName, edge::Certificate};

/// A Gateway of ours, judged.
pub(super) struct Site<'a> {
    pub(super) gateway: &'a Gateway,
    /// Why nothing of it is served.
    pub(super) refusal: Option<Problem>,
    /// Its own listeners, then those of the ListenerSets that it allows, in their order.
    pub(super) listeners: Vec<Listener<'a>>,
    /// The listeners of each object.
    holders: BTreeMap<Holder, Range<usize>>,
    /// Whether it is accepted: with at least one listener of its own.
    is_accepted: bool,
    /// The certificate that endpoints are shown, or why it cannot be shown.
    pub(super) identity: Option<Result<Arc<Certificate>, Problem>>,
}

impl<'a> Site<'a> {
    fn new(
        gateway: &'a Gateway,
        refusal: Option<Problem>,
        listeners: Vec<Listener<'a>>,
        identity: Option<Result<Arc<Certificate>, Problem>>,
    ) -> Self {
        let mut holders: BTreeMap<Holder, Range<usize>> = BTreeMap::new();
        for (index, listener) in listeners.iter().enumerate() {
            let range = holders.entry(listener.holder.clone());
            range.or_insert(index..index).end = index + 1;
        }
        let mut site = Self {
            gateway,
            refusal,
            listeners,
            holders,
            is_accepted: false,
            identity,
        };
        site.judge();
        site
    }

    /// Judges whether it is accepted.
    fn judge(&mut self) {
        let own = Holder::Gateway(self.gateway.meta.name.clone());
        let mut own = self.listeners_of(&own);
        let has_accepted = own.any(|(_, listener)| listener.is_accepted());
        drop(own);
        self.is_accepted = self.refusal.is_none() && has_accepted;
    }

    /// Whether it is accepted: with at least one listener of its own.
    pub(super) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    /// The listeners of an object, with their index.
    pub(super) fn listeners_of(
        &self,
        holder: &Holder,
    ) -> impl Iterator<Item = (usize, &Listener<'a>)> {
        let range = self.holders.get(holder).cloned().unwrap_or_default();
        let listeners = self.listeners.get(range.clone()).unwrap_or_default();
        range.zip(listeners)
    }

    /// Refuses the listeners of a port.
    pub(super) fn refuse_port(&mut self, port: u16, problem: &Problem) {
        let listeners = self.listeners.iter_mut();
        let concerned = listeners.filter(|one| one.port == port && one.is_served());
        concerned.for_each(|one| one.refusal = Some(problem.clone()));
        self.judge();
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
    pub(super) fn new(world: &World<'a>, certificates: &mut Certificates) -> Self {
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
            let parameters = class(gateway).and_then(parameters);
            let site = Site::new(
                gateway,
                parameters.or_else(|| refusal(gateway)),
                listeners(world, certificates, gateway, &sets),
                identity(world, certificates, gateway),
            );
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

    /// The listeners of a Gateway that an object has, with their index.
    pub(super) fn listeners_of(
        &self,
        gateway: &NamespacedName,
        holder: &Holder,
    ) -> impl Iterator<Item = (usize, &Listener<'a>)> {
        let site = self.sites.get(gateway).into_iter();
        site.flat_map(|site| site.listeners_of(holder))
    }

    /// Number of accepted ListenerSets of a Gateway.
    pub(super) fn accepted_sets(&self, site: &Site<'_>) -> usize {
        let served = site.listeners.iter().filter(|one| one.is_served());
        let sets: BTreeSet<&NamespacedName> = served
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

/// The certificate that a Gateway shows to endpoints.
fn identity(
    world: &World<'_>,
    certificates: &mut Certificates,
    gateway: &Gateway,
) -> Option<Result<Arc<Certificate>, Problem>> {
    let backend = gateway.spec.tls.as_ref()?.backend.as_ref()?;
    let reference = backend.client_certificate_ref.as_ref()?;
    let from = Referrer {
        group: GROUP,
        kind: "Gateway",
        namespace: &gateway.meta.name.namespace,
    };
    Some(certificates.certificate(world, from, reference, "InvalidClientCertificateRef"))
}
