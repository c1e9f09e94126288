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
    /// Where connections go that are not decrypted.
    pub(super) passed: Arc<Stream>,
    /// Where those go that are: over TLS again, if a policy asks for it.
    pub(super) decrypted: Arc<Stream>,
    /// The first reference that is not valid.
    pub(super) unresolved: Option<Problem>,
    /// Services that are named.
    pub(super) services: Vec<NamespacedName>,
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
    let stream = |carried: Carried| {
        let mut backends = Backends::new(world, policies, from, carried);
        let targets = targets(references, &mut backends);
        let stream = Stream {
            origin: origin.clone(),
            targets,
        };
        (Arc::new(stream), backends)
    };
    let (decrypted, _) = stream(Carried::Bytes);
    let (passed, backends) = stream(Carried::Raw);
    JudgedStream {
        passed,
        decrypted,
        unresolved: backends.problems.into_iter().next(),
        services: backends.services.into_keys().collect(),
    }
}
