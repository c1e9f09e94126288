//! Certificates of clients.

use super::{
    Problem, World,
    certificates::Certificates,
    object::{FrontendValidation, FrontendValidationMode, GROUP, Gateway},
    reference::Referrer,
    rules::unsupported,
};
use crate::edge::ClientCheck;

/// What a port of a Gateway asks of the certificates of clients.
#[derive(Default)]
pub(super) struct Validation {
    pub(super) check: Option<ClientCheck>,
    /// The first reference that is not valid.
    pub(super) unresolved: Option<Problem>,
    /// Why the port is not served.
    pub(super) refusal: Option<Problem>,
}

/// Returns what the HTTPS listeners of a port ask of the certificates of clients. With no valid CA certificate
/// they are refused: otherwise connections would be accepted that the Gateway refuses.
pub(super) fn validation(
    world: &World<'_>,
    certificates: &mut Certificates,
    gateway: &Gateway,
    port: i32,
) -> Validation {
    let frontend = gateway.spec.tls.as_ref();
    let frontend = frontend.and_then(|tls| tls.frontend.as_ref());
    let wanted = frontend.and_then(|frontend| {
        let mut ports = frontend.per_port.iter();
        let own = ports.find(|one| one.port == port);
        let tls = own.map_or(&frontend.default, |one| &one.tls);
        tls.validation.as_ref()
    });
    let Some(wanted) = wanted else {
        return Validation::default();
    };
    let from = Referrer {
        group: GROUP,
        kind: "Gateway",
        namespace: &gateway.meta.name.namespace,
    };
    let mut problems = Vec::new();
    let mut authorities = Vec::new();
    for reference in &wanted.ca_certificate_refs {
        match certificates.client_authorities(world, from, reference) {
            Ok(pem) => {
                authorities.extend_from_slice(&pem);
                authorities.push(b'\n');
            }
            Err(problem) => problems.push(problem),
        }
    }
    let check = match &wanted.mode {
        FrontendValidationMode::AllowValidOnly => ClientCheck::Required(authorities.into()),
        FrontendValidationMode::AllowInsecureFallback => ClientCheck::Asked,
        FrontendValidationMode::Other(mode) => {
            let message =
                format!("`spec.tls.frontend` of the Gateway: mode {mode} is not supported");
            return Validation {
                refusal: Some(unsupported(message)),
                ..Validation::default()
            };
        }
    };
    let has_valid = problems.len() < wanted.ca_certificate_refs.len();
    let first = problems.into_iter().next();
    let refusal = (!has_valid).then(|| {
        let message = first.as_ref().map(|problem| problem.message.clone());
        let none = "`spec.tls.frontend` of the Gateway names no CA certificate";
        Problem::new(
            "NoValidCACertificate",
            message.unwrap_or_else(|| none.into()),
        )
    });
    Validation {
        check: Some(check),
        unresolved: first,
        refusal,
    }
}

/// Whether a port of a Gateway accepts clients whose certificate is not valid, although it asks for one.
pub(super) fn is_insecure(gateway: &Gateway) -> bool {
    let frontend = gateway.spec.tls.as_ref();
    let frontend = frontend.and_then(|tls| tls.frontend.as_ref());
    let is_fallback =
        |one: &FrontendValidation| one.mode == FrontendValidationMode::AllowInsecureFallback;
    frontend.is_some_and(|frontend| {
        let ports = frontend.per_port.iter().map(|one| &one.tls);
        let mut all = std::iter::once(&frontend.default).chain(ports);
        all.any(|tls| tls.validation.as_ref().is_some_and(is_fallback))
    })
}
