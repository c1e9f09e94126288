//! TLSRoutes.

use std::sync::Arc;

use super::{
    Problem, World,
    backend::{Backends, Carried},
    backend_tls::Policies,
    object::{GROUP, TlsRoute},
    reference::Referrer,
    rules::targets,
};
use crate::{
    NamespacedName,
    edge::{RouteKind, RouteOrigin, Stream},
};

/// A TLSRoute, judged.
pub(super) struct JudgedStream {
    /// For connections that are not decrypted.
    passed: Carrying,
    /// For those that are: over TLS again, if a policy asks for it.
    decrypted: Carrying,
    /// Services that are named.
    pub(super) services: Vec<NamespacedName>,
}

/// Where connections go.
pub(super) struct Carrying {
    pub(super) stream: Arc<Stream>,
    /// The first reference that is not valid.
    pub(super) unresolved: Option<Problem>,
}

impl JudgedStream {
    /// Where connections of a listener go.
    pub(super) fn carrying(&self, is_decrypted: bool) -> &Carrying {
        match is_decrypted {
            true => &self.decrypted,
            false => &self.passed,
        }
    }
}

/// Judges a TLSRoute. Its first rule counts; the API allows no other.
pub(super) fn judge(world: &World<'_>, policies: &Policies, route: &TlsRoute) -> JudgedStream {
    let rule = route.spec.rules.first();
    let references = rule.map_or(&[][..], |rule| &rule.backend_refs);
    let from = Referrer {
        group: GROUP,
        kind: "TLSRoute",
        namespace: &route.meta.name.namespace,
    };
    let name = rule.and_then(|rule| rule.name.clone());
    let origin = RouteOrigin {
        kind: RouteKind::TlsRoute,
        name: route.meta.name.clone(),
        rule: Some(name.unwrap_or_else(|| "0".into())),
    };
    let carrying = |carried: Carried| {
        let mut backends = Backends::new(world, policies, from, carried);
        let targets = targets(references, &mut backends);
        let stream = Stream {
            origin: origin.clone(),
            targets,
        };
        let carrying = Carrying {
            stream: Arc::new(stream),
            unresolved: backends.problems.into_iter().next(),
        };
        (carrying, backends.services)
    };
    let (decrypted, _) = carrying(Carried::Bytes);
    let (passed, services) = carrying(Carried::Raw);
    JudgedStream {
        passed,
        decrypted,
        services: services.into_keys().collect(),
    }
}
