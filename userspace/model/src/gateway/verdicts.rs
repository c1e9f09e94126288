//! Verdicts about classes, Gateways and ListenerSets.

use super::{
    Holder, Listener, Problem, World, frontend,
    object::GatewayClass,
    site::{Site, Sites},
    status::{ClassVerdict, GatewayVerdict, ListenerSetVerdict, ListenerVerdict, Verdict},
};
use crate::NamespacedName;

/// Version of the API that is known, without its patch level.
const VERSION: &str = "v1.6.";

/// The feature that needs a pool of addresses: others may be given by the load balancers of the cluster.
const STATIC_ADDRESSES: &str = "GatewayStaticAddresses";

/// Features that are served, in ascending order.
const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    STATIC_ADDRESSES,
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// The verdict about a class of ours.
pub(super) fn class(world: &World<'_>, class: &GatewayClass) -> ClassVerdict {
    let version = world.options.bundle_version.as_deref();
    let unknown = version.filter(|version| !version.starts_with(VERSION));
    let unknown = unknown.map(|version| {
        let message = format!("version {version} of the API is not known, only {VERSION}x");
        Problem::new("UnsupportedVersion", message)
    });
    let has_pool = !world.options.pools.is_empty();
    let features = FEATURES.iter().copied();
    let features = features.filter(|name| has_pool || *name != STATIC_ADDRESSES);
    ClassVerdict {
        conditions: vec![
            Verdict::of("Accepted", parameters(class).as_ref()),
            Verdict::of("SupportedVersion", unknown.as_ref()),
        ],
        features: features.collect(),
    }
}

/// Why a class is not accepted.
pub(super) fn parameters(class: &GatewayClass) -> Option<Problem> {
    let parameters = class.spec.parameters_ref.as_ref()?;
    let message = format!(
        "spec.parametersRef: {} {} is not supported",
        parameters.kind, parameters.name
    );
    Some(Problem::new("InvalidParameters", message))
}

/// Numbers of routes that are attached to the listeners of a site.
pub(super) type Attached<'a> = &'a [usize];

/// The verdict about a Gateway.
pub(super) fn gateway(
    world: &World<'_>,
    sites: &Sites<'_>,
    site: &Site<'_>,
    attached: Attached<'_>,
) -> GatewayVerdict {
    let holder = Holder::Gateway(site.gateway.meta.name.clone());
    let own = site.listeners_of(&holder);
    let own: Vec<&Listener<'_>> = own.map(|(_, listener)| listener).collect();
    let invalid = invalid(own.iter().filter(|one| !one.is_accepted()));
    let accepted = match (&site.refusal, &invalid) {
        (Some(problem), _) => Verdict::no("Accepted", problem),
        (None, Some(problem)) if !site.is_accepted() => Verdict::no("Accepted", problem),
        (None, Some(problem)) => Verdict {
            is_true: true,
            ..Verdict::no("Accepted", problem)
        },
        (None, None) => Verdict::of("Accepted", None),
    };
    let unusable = unusable(world, site);
    let mut conditions = vec![accepted, Verdict::of("Programmed", unusable.as_ref())];
    if let Some(identity) = &site.identity {
        conditions.push(Verdict::of("ResolvedRefs", identity.as_ref().err()));
    }
    if frontend::is_insecure(site.gateway) {
        conditions.push(Verdict::yes(
            "InsecureFrontendValidationMode",
            "ConfigurationChanged",
        ));
    }
    GatewayVerdict {
        conditions,
        addresses: world.addresses.of(&site.gateway.meta.name).to_vec(),
        listener_sets: sites.accepted_sets(site),
        listeners: listeners(world, site, &holder, attached),
    }
}

/// The verdict about a ListenerSet of one of our Gateways.
pub(super) fn listener_set(
    world: &World<'_>,
    site: &Site<'_>,
    name: &NamespacedName,
    is_allowed: bool,
    attached: Attached<'_>,
) -> ListenerSetVerdict {
    let holder = Holder::ListenerSet(name.clone());
    let own = site.listeners_of(&holder);
    let own: Vec<&Listener<'_>> = own.map(|(_, listener)| listener).collect();
    let gateway = &site.gateway.meta.name;
    // One that cannot be served, for example because a reference is not permitted, is not valid either.
    let invalid = invalid(own.iter().filter(|one| !one.is_served()));
    let refusal = if !is_allowed {
        let message = format!("Gateway {gateway} does not allow this ListenerSet");
        Some(Problem::new("NotAllowed", message))
    } else if !site.is_accepted() {
        let message = format!("Gateway {gateway} is not accepted");
        Some(Problem::new("ParentNotAccepted", message))
    } else {
        let has_valid = own.iter().any(|listener| listener.is_served());
        invalid.clone().filter(|_| !has_valid)
    };
    let accepted = match (&refusal, invalid) {
        (None, Some(problem)) => Verdict {
            is_true: true,
            ..Verdict::no("Accepted", &problem)
        },
        (refusal, _) => Verdict::of("Accepted", refusal.as_ref()),
    };
    let pending = pending(world, site);
    let programmed = Verdict::of("Programmed", refusal.as_ref().or(pending.as_ref()));
    ListenerSetVerdict {
        conditions: vec![accepted, programmed],
        listeners: listeners(world, site, &holder, attached),
    }
}

/// What is wrong with an object that has these listeners, which are not valid.
fn invalid<'a>(listeners: impl Iterator<Item = &'a &'a Listener<'a>>) -> Option<Problem> {
    let names: Vec<&str> = listeners.map(|one| one.spec.name.as_str()).collect();
    let message = || format!("listeners that are not valid: {}", names.join(", "));
    (!names.is_empty()).then(|| Problem::new("ListenersNotValid", message()))
}

/// Why a Gateway is not programmed.
fn unusable(world: &World<'_>, site: &Site<'_>) -> Option<Problem> {
    let name = &site.gateway.meta.name;
    if !site.is_accepted() {
        return Some(Problem::new("Invalid", "the Gateway is not accepted"));
    }
    let problem = world.addresses.problem(name).cloned();
    let problem = problem.or_else(|| {
        let none = world.addresses.of(name).is_empty();
        none.then(|| Problem::new("AddressNotAssigned", "the Gateway has no address yet"))
    });
    problem.or_else(|| world.servers.problem_of_all(site))
}

/// Why the listeners of a Gateway cannot be reached.
fn pending(world: &World<'_>, site: &Site<'_>) -> Option<Problem> {
    let problem = unusable(world, site)?;
    let reason = if site.is_accepted() {
        "Pending"
    } else {
        "Invalid"
    };
    Some(Problem { reason, ..problem })
}

fn listeners(
    world: &World<'_>,
    site: &Site<'_>,
    holder: &Holder,
    attached: Attached<'_>,
) -> Vec<ListenerVerdict> {
    let pending = pending(world, site);
    site.listeners_of(holder)
        .map(|(index, listener)| ListenerVerdict {
            name: listener.spec.name.clone(),
            kinds: listener.kinds.clone(),
            attached_routes: attached.get(index).copied().unwrap_or_default(),
            conditions: conditions(
                listener,
                pending
                    .clone()
                    .or_else(|| world.servers.problem(listener))
                    .as_ref(),
            ),
        })
        .collect()
}

fn conditions(listener: &Listener<'_>, pending: Option<&Problem>) -> Vec<Verdict> {
    let conflict = listener.conflict.map(|conflict| {
        let message = format!(
            "port {}: another listener has a protocol that cannot share it, or the same host name",
            listener.spec.port
        );
        Problem::new(conflict.reason(), message)
    });
    let refusal = conflict.as_ref().or(listener.refusal.as_ref());
    let unserved = || {
        let invalid = listener.unresolved.as_ref().or(listener.refusal.as_ref());
        let message = invalid.map(|problem| problem.message.clone());
        Problem::new("Invalid", message.unwrap_or_default())
    };
    let programmed = match (&conflict, listener.is_served()) {
        (Some(problem), _) => Verdict::no("Programmed", problem),
        (None, false) => Verdict::no("Programmed", &unserved()),
        (None, true) => Verdict::of("Programmed", pending),
    };
    let conflicted = match &conflict {
        Some(problem) => Verdict {
            is_true: true,
            ..Verdict::no("Conflicted", problem)
        },
        None => Verdict {
            is_true: false,
            ..Verdict::yes("Conflicted", "NoConflicts")
        },
    };
    vec![
        Verdict::of("Accepted", refusal),
        conflicted,
        Verdict::of("ResolvedRefs", listener.unresolved.as_ref()),
        programmed,
    ]
}
