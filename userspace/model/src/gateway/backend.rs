//! Backends of routes.

use std::sync::Arc;

use super::{
    Problem, World, backend_tls,
    object::BackendRef,
    reference::{Referent, Referrer, not_permitted, permits},
};
use crate::{
    NamespacedName,
    edge::{self, PortName, Target, UpstreamKey, UpstreamPolicy, UpstreamProtocol},
};

/// Resolves the backends of a route, and collects the problems.
pub(super) struct Backends<'a> {
    pub(super) world: &'a World<'a>,
    /// The route.
    pub(super) from: Referrer<'a>,
    /// Whether backends speak gRPC.
    pub(super) is_grpc: bool,
    /// References that are not valid.
    pub(super) problems: Vec<Problem>,
}

impl Backends<'_> {
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
    pub(super) fn upstream(&self, reference: &BackendRef) -> Result<UpstreamKey, Problem> {
        if !reference.group.is_empty() || reference.kind != "Service" {
            let message = format!("{} {} is not a Service", reference.kind, reference.name);
            return Err(Problem::new("InvalidKind", message));
        }
        let namespace = reference
            .namespace
            .as_deref()
            .unwrap_or(self.from.namespace);
        let name = NamespacedName::new(namespace, &reference.name);
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
        let tls = backend_tls::of_port(self.world, name, port_name)?;
        let protocol = match (app_protocol, self.is_grpc, tls.is_some()) {
            (_, true, true) => UpstreamProtocol::Grpcs,
            (_, true, false) => UpstreamProtocol::Grpc,
            (_, false, true) => UpstreamProtocol::Https,
            (Some("kubernetes.io/h2c"), false, false) => UpstreamProtocol::Http2,
            (Some(wanted @ ("kubernetes.io/wss" | "https")), false, false) => {
                let message =
                    format!("appProtocol {wanted} of Service {name} needs a BackendTLSPolicy");
                return Err(Problem::new("UnsupportedProtocol", message));
            }
            (_, false, false) => UpstreamProtocol::Http,
        };
        Ok(Arc::new(UpstreamPolicy {
            protocol,
            tls: tls.unwrap_or_default(),
            ..UpstreamPolicy::default()
        }))
    }
}
