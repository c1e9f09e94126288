//! Backends of routes.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Problem, World,
    backend_tls::Policies,
    object::BackendRef,
    reference::{Referent, Referrer, not_permitted, permits},
};
use crate::{
    NamespacedName, Protocol,
    edge::{
        self, PortName, Target, UpstreamKey, UpstreamPolicy, UpstreamProtocol, UpstreamService,
    },
};

/// What the connections to backends of a route carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// Requests.
    Http,
    /// Calls of gRPC.
    Grpc,
    /// Bytes, over TLS if a policy asks for it.
    Bytes,
    /// What clients send, as it is.
    Raw,
    /// The same over UDP.
    Datagrams,
}

/// Resolves the backends of a route, and collects the problems.
pub(super) struct Backends<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) policies: &'a Policies,
    /// The route.
    pub(super) from: Referrer<'a>,
    pub(super) carried: Carried,
    /// Services that are named, as they are.
    pub(super) services: BTreeMap<NamespacedName, Option<UpstreamService>>,
    /// References that are not valid.
    pub(super) problems: Vec<Problem>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(
        world: &'a World<'a>,
        policies: &'a Policies,
        from: Referrer<'a>,
        carried: Carried,
    ) -> Self {
        Self {
            world,
            policies,
            from,
            carried,
            services: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Returns where requests for a backend go: to an error if the reference is not valid.
    pub(super) fn target(&mut self, reference: &BackendRef) -> Target {
        match self.upstream(reference) {
            Ok(key) => Target::Upstream(key),
            Err(problem) => {
                let message = problem.message.clone();
                self.problems.push(problem);
                Target::Invalid(message)
            }
        }
    }

    /// Returns a backend.
    ///
    /// # Errors
    ///
    /// If it is not a Service, of another namespace without grant, missing, or without this port.
    pub(super) fn upstream(&mut self, reference: &BackendRef) -> Result<UpstreamKey, Problem> {
        if !reference.group.is_empty() || reference.kind != "Service" {
            let message = format!("{} {} is not a Service", reference.kind, reference.name);
            return Err(Problem::new("InvalidKind", message));
        }
        let namespace = reference
            .namespace
            .as_deref()
            .unwrap_or(self.from.namespace);
        let name = NamespacedName::new(namespace, &reference.name);
        let service = self.world.services.get(&name);
        self.services.insert(name.clone(), service.cloned());
        let to = Referent {
            group: "",
            kind: "Service",
            name: &name,
        };
        if !permits(&self.world.objects.grants, self.from, to) {
            return Err(not_permitted("Service", &name, self.from));
        }
        let not_found = |message: String| Problem::new("BackendNotFound", message);
        let port = reference.port.and_then(|port| u16::try_from(port).ok());
        let port = port.ok_or_else(|| not_found(format!("no port of Service {name} is named")))?;
        if self.carried == Carried::Datagrams {
            let service = service.filter(|service| !service.is_external);
            return match service.and_then(|service| service.port(Protocol::Udp, port)) {
                Some(_) => Ok(UpstreamKey {
                    service: name,
                    port,
                    policy: Arc::default(),
                }),
                None => Err(not_found(format!("Service {name} has no UDP port {port}"))),
            };
        }
        let policy = self.policy(&name, port)?;
        let found = edge::upstream(self.world.services, &name, &PortName::Number(port), &policy);
        found.map_err(|reason| not_found(reason.1))
    }

    /// How requests are sent to a port of a Service.
    fn policy(&self, name: &NamespacedName, port: u16) -> Result<Arc<UpstreamPolicy>, Problem> {
        let service = self.world.services.get(name);
        let mut ports = service.into_iter().flat_map(|service| &service.ports);
        let port = ports.find(|known| known.port == port);
        let app_protocol = port.and_then(|port| port.app_protocol.as_deref());
        let port_name = port.map_or("", |port| &port.name);
        let tls = match self.carried {
            Carried::Raw | Carried::Datagrams => None,
            _ => self.policies.of_port(name, port_name)?.cloned(),
        };
        let has_tls = tls.is_some();
        let needs_tls = matches!(app_protocol, Some("kubernetes.io/wss" | "https"));
        let protocol = match (self.carried, has_tls) {
            (Carried::Http | Carried::Grpc, false) if needs_tls => {
                let wanted = app_protocol.unwrap_or_default();
                let message =
                    format!("appProtocol {wanted} of Service {name} needs a BackendTLSPolicy");
                return Err(Problem::new("UnsupportedProtocol", message));
            }
            (Carried::Grpc, _) if app_protocol == Some("kubernetes.io/ws") => {
                let message = format!("appProtocol of Service {name} is not gRPC");
                return Err(Problem::new("UnsupportedProtocol", message));
            }
            (Carried::Grpc, true) => UpstreamProtocol::Grpcs,
            (Carried::Grpc, false) => UpstreamProtocol::Grpc,
            (_, true) => UpstreamProtocol::Https,
            (Carried::Http, false) if app_protocol == Some("kubernetes.io/h2c") => {
                UpstreamProtocol::Http2
            }
            (_, false) => UpstreamProtocol::Http,
        };
        Ok(Arc::new(UpstreamPolicy {
            protocol,
            tls: tls.unwrap_or_default(),
            ..UpstreamPolicy::default()
        }))
    }
}
