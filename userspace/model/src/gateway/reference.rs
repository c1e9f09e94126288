//! References to objects of other namespaces, which ReferenceGrants permit.

use std::collections::BTreeMap;

use super::{
    Problem, World,
    object::{CertificateRef, ReferenceGrant},
};
use crate::{NamespacedName, edge::Certificate};

/// The object that refers to another one.
#[derive(Clone, Copy, Debug)]
pub struct Referrer<'a> {
    /// Its API group.
    pub group: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
}

/// The object that is referred to.
#[derive(Clone, Copy, Debug)]
pub struct Referent<'a> {
    /// Its API group; empty for the core API.
    pub group: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a NamespacedName,
}

/// Returns whether a reference is permitted: both objects are in one namespace, or a grant in the namespace
/// of the object that is referred to names both.
pub fn permits(
    grants: &BTreeMap<NamespacedName, ReferenceGrant>,
    from: Referrer<'_>,
    to: Referent<'_>,
) -> bool {
    let namespace = &to.name.namespace;
    if from.namespace == namespace {
        return true;
    }
    let first = NamespacedName::new(namespace, "");
    let grants = grants.range(first..);
    let mut grants = grants.take_while(|(name, _)| name.namespace == *namespace);
    grants.any(|(_, grant)| {
        let mut sources = grant.spec.from.iter();
        let mut targets = grant.spec.to.iter();
        sources.any(|one| {
            one.group == from.group && one.kind == from.kind && one.namespace == from.namespace
        }) && targets.any(|one| {
            let name = one.name.as_ref().filter(|name| !name.is_empty());
            one.group == to.group
                && one.kind == to.kind
                && name.is_none_or(|name| *name == to.name.name)
        })
    })
}

/// Returns the certificate that a listener names.
pub(super) fn certificate(
    world: &World<'_>,
    from: Referrer<'_>,
    reference: &CertificateRef,
) -> Result<Certificate, Problem> {
    const INVALID: &str = "InvalidCertificateRef";
    if !reference.group.is_empty() || reference.kind != "Secret" {
        let kind = &reference.kind;
        return Err(Problem::new(
            INVALID,
            format!("{kind} {} is not a Secret", reference.name),
        ));
    }
    let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
    let name = NamespacedName::new(namespace, &reference.name);
    let to = Referent {
        group: "",
        kind: "Secret",
        name: &name,
    };
    if !permits(&world.objects.grants, from, to) {
        return Err(not_permitted("Secret", &name, from));
    }
    let invalid = |reason: String| Problem::new(INVALID, format!("Secret {name} {reason}"));
    let secret = world.secrets.get(&name);
    let secret = secret.ok_or_else(|| invalid("does not exist".into()))?;
    let value = |key: &str| {
        let value = secret.data.get(key).cloned();
        value.ok_or_else(|| invalid(format!("has no {key}")))
    };
    let certificate = Certificate {
        secret: name.clone(),
        chain: value("tls.crt")?,
        key: value("tls.key")?,
    };
    let checked = (world.options.check_certificate)(&certificate);
    checked.map_err(|reason| invalid(format!("is not a certificate with its key: {reason}")))?;
    Ok(certificate)
}

/// The problem of a reference that no grant permits.
pub(super) fn not_permitted(kind: &str, name: &NamespacedName, from: Referrer<'_>) -> Problem {
    let message = format!(
        "no ReferenceGrant in namespace {} lets {}s of namespace {} refer to {kind} {}",
        name.namespace, from.kind, from.namespace, name.name
    );
    Problem::new("RefNotPermitted", message)
}
