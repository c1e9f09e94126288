//! TCP and UDP listeners of Gateways, for a planner.

use std::collections::BTreeMap;

use headgate_model::{
    NamespacedName, Planner, Protocol, Service,
    edge::Services,
    gateway::{
        Addresses, GatewayOptions, Objects, Resolver, RoutedPorts, Servers, World,
        object::Difference, routed_ports, service_name, stand_in,
    },
    put,
};

use crate::source::event::Event;

/// A listener of a Gateway, as a planner serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServedListener {
    /// The Service of the Gateway.
    pub service: NamespacedName,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The Gateway.
    pub gateway: NamespacedName,
    /// The listener.
    pub listener: String,
    /// The route; `None` if no route is accepted: all connections are refused.
    pub route: Option<NamespacedName>,
}

/// Objects of the Gateway API, and what a planner got from them.
#[derive(Debug)]
pub(super) struct Listeners {
    options: GatewayOptions,
    objects: Objects,
    /// Services that routes may name.
    services: Services,
    resolver: Resolver,
    /// Whether something changed that listeners are made from.
    is_stale: bool,
    /// Services with routed ports, in the planner.
    routed: BTreeMap<NamespacedName, RoutedPorts>,
    /// Services in the planner that the source does not have.
    made: BTreeMap<NamespacedName, Service>,
}

impl Listeners {
    pub(super) fn new(options: GatewayOptions) -> Self {
        Self {
            options,
            objects: Objects::default(),
            services: Services::new(),
            resolver: Resolver::default(),
            is_stale: false,
            routed: BTreeMap::new(),
            made: BTreeMap::new(),
        }
    }

    /// Handles an event of an object.
    pub(super) fn note(&mut self, event: Event) {
        self.is_stale |= match event {
            Event::Upstream(name, service) => put(&mut self.services, &name, service),
            // The addresses are in the status.
            Event::Gateway(change) => self.objects.apply(*change) != Difference::None,
            _ => false,
        };
    }

    /// Gives the planner what has changed; returns all listeners if it has.
    pub(super) fn follow(&mut self, planner: &mut Planner) -> Option<Vec<ServedListener>> {
        if !std::mem::take(&mut self.is_stale) {
            return None;
        }
        let resolved = self.resolver.resolve(&World {
            objects: &self.objects,
            secrets: &BTreeMap::new(),
            services: &self.services,
            addresses: &Addresses::default(),
            servers: &Servers::default(),
            options: &self.options,
        });
        let mut routed = BTreeMap::new();
        let mut made = BTreeMap::new();
        for (name, ports) in routed_ports(&resolved) {
            let Some(gateway) = self.objects.gateways.get(name) else {
                continue;
            };
            let service = service_name(&gateway.meta);
            if !self.services.contains_key(&service) {
                made.insert(service.clone(), stand_in(gateway, &ports));
            }
            routed.insert(service, ports);
        }
        for name in self
            .routed
            .keys()
            .filter(|name| !routed.contains_key(*name))
        {
            planner.set_routed(name, RoutedPorts::new());
        }
        for (name, ports) in &routed {
            planner.set_routed(name, ports.clone());
        }
        // What the source has by now is in the planner already.
        let gone = |name: &&NamespacedName| {
            !made.contains_key(*name) && !self.services.contains_key(*name)
        };
        for name in self.made.keys().filter(gone) {
            planner.set_service(name, None);
        }
        for (name, service) in &made {
            planner.set_service(name, Some(service.clone()));
        }
        (self.routed, self.made) = (routed, made);
        let served = resolved.l4.into_iter().filter_map(|(listener, target)| {
            let gateway = self.objects.gateways.get(&listener.gateway)?;
            Some(ServedListener {
                service: service_name(&gateway.meta),
                protocol: listener.protocol,
                port: listener.port,
                gateway: listener.gateway,
                listener: target.listener,
                route: target.route,
            })
        });
        Some(served.collect())
    }
}
