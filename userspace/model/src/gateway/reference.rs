//! References to objects of other namespaces, which ReferenceGrants permit.

use std::collections::BTreeMap;

use super::{Problem, object::ReferenceGrant};
use crate::NamespacedName;

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

/// The problem of a reference that no grant permits.
pub(super) fn not_permitted(kind: &str, name: &NamespacedName, from: Referrer<'_>) -> Problem {
    let message = format!(
        "no ReferenceGrant in namespace {} lets {}s of namespace {} refer to {kind} {}",
        name.namespace, from.kind, from.namespace, name.name
    );
    Problem::new("RefNotPermitted", message)
}
