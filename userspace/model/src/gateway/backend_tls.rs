//! BackendTLSPolicies: TLS towards the endpoints of a Service.

use super::{
    Problem, World,
    object::{BackendTlsPolicy, PolicyTarget},
};
use crate::{NamespacedName, edge::UpstreamTls};

/// Returns the TLS of a port of a Service; `None` if no policy is for it. Of several policies one for the
/// port wins, then the older one.
///
/// # Errors
///
/// If the policy cannot be followed: requests must not be sent without it.
pub(super) fn of_port(
    world: &World<'_>,
    service: &NamespacedName,
    port: &str,
) -> Result<Option<UpstreamTls>, Problem> {
    let first = NamespacedName::new(&service.namespace, "");
    let policies = world.objects.backend_tls.range(first..);
    let policies = policies.take_while(|(name, _)| name.namespace == service.namespace);
    let mut found: Option<(bool, &BackendTlsPolicy)> = None;
    for (_, policy) in policies {
        for target in &policy.spec.target_refs {
            let Some(is_port) = means(target, service, port) else {
                continue;
            };
            let rank = |(is_port, policy): (bool, &BackendTlsPolicy)| (!is_port, policy.meta.age());
            if found.is_none_or(|known| rank((is_port, policy)) < rank(known)) {
                found = Some((is_port, policy));
            }
        }
    }
    let Some((_, policy)) = found else {
        return Ok(None);
    };
    let tls = tls(world, policy).map_err(|reason| {
        let message = format!("BackendTLSPolicy {}: {reason}", policy.meta.name);
        Problem::new("UnsupportedProtocol", message)
    });
    tls.map(Some)
}

/// Whether a target means a port: by its own name, or with all ports of the Service.
fn means(target: &PolicyTarget, service: &NamespacedName, port: &str) -> Option<bool> {
    let is_service = target.group.is_empty() && target.kind == "Service";
    if !is_service || target.name != service.name {
        return None;
    }
    match target
        .section_name
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        None => Some(false),
        Some(section) => (section == port).then_some(true),
    }
}

fn tls(world: &World<'_>, policy: &BackendTlsPolicy) -> Result<UpstreamTls, String> {
    let validation = &policy.spec.validation;
    if !validation.subject_alt_names.is_empty() {
        return Err("validation.subjectAltNames is not supported yet".into());
    }
    if let Some(name) = &validation.well_known_ca_certificates {
        return Err(format!(
            "wellKnownCACertificates {name} is not supported yet"
        ));
    }
    let mut authorities = Vec::new();
    for reference in &validation.ca_certificate_refs {
        if !reference.group.is_empty() || reference.kind != "ConfigMap" {
            return Err(format!(
                "{} {} is not a ConfigMap",
                reference.kind, reference.name
            ));
        }
        let name = NamespacedName::new(&policy.meta.name.namespace, &reference.name);
        let data = world.objects.config_maps.get(&name);
        let data = data.ok_or_else(|| format!("there is no ConfigMap {name}"))?;
        let certificates = data.get("ca.crt");
        let certificates = certificates.filter(|text| text.contains("-----BEGIN CERTIFICATE-----"));
        let certificates =
            certificates.ok_or_else(|| format!("ConfigMap {name} has no certificate in ca.crt"))?;
        authorities.extend_from_slice(certificates.as_bytes());
        authorities.push(b'\n');
    }
    if authorities.is_empty() {
        return Err("it names no CA certificate".into());
    }
    Ok(UpstreamTls {
        authorities: Some(authorities),
        name: Some(validation.hostname.clone()),
        identity: None,
    })
}
