//! Objects of manifests, as a proxy reads them.

use headgate_control::{Event, Interest, manifests};
use headgate_model::{
    edge::Listener,
    gateway::{self, Addresses, GatewayOptions, Servers, World, resolve},
    ingress::{IngressOptions, Objects, routes},
};

use crate::setup::Setup;

/// What manifests have.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) objects: Objects,
    pub(crate) gateways: gateway::Objects,
}

impl Read {
    /// Reads manifests; panics if something in them is refused.
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.yaml"), text).unwrap();
        let mut read = Self::default();
        for event in manifests::read(folder.path(), Interest::Gateways, "") {
            match event {
                Event::Ingress(name, Some(ingress)) => {
                    drop(read.objects.ingresses.insert(name, ingress));
                }
                Event::Secret(name, Some(secret)) => {
                    drop(read.objects.secrets.insert(name, secret));
                }
                Event::Upstream(name, Some(service)) => {
                    drop(read.objects.services.insert(name, service));
                }
                Event::Gateway(change) => drop(read.gateways.apply(*change)),
                Event::Refused(object, refusals) if !refusals.is_empty() => {
                    panic!("{object}: {refusals:?}")
                }
                _ => {}
            }
        }
        read
    }

    /// What the Ingresses ask for.
    pub(crate) fn ingress(&self) -> Listener {
        let options = IngressOptions {
            without_class: true,
            ..IngressOptions::default()
        };
        routes(&self.objects, &options).listener
    }
}

impl Setup {
    /// Adds what the Gateways of manifests ask for.
    pub(crate) fn add_gateways(&mut self, read: &Read) {
        let options = GatewayOptions::default();
        let resolved = resolve(&World {
            objects: &read.gateways,
            secrets: &read.objects.secrets,
            services: &read.objects.services,
            addresses: &Addresses::default(),
            servers: &Servers::default(),
            options: &options,
        });
        self.edge.gateways.extend(resolved.gateways);
    }
}
