//! Who names hosts in `spec.tls`, and the certificates of Secrets.

use std::collections::BTreeMap;

use crate::NamespacedName;

use super::{Ingress, Objects, owners::Age};
use crate::edge::Certificate;

/// Who names hosts in `spec.tls`, those of older Ingresses first.
#[derive(Debug, Default)]
pub(super) struct TlsHosts {
    /// Ingresses that name a host, with or without a Secret.
    pub(super) named: BTreeMap<String, Vec<Age>>,
    /// The Ingress whose certificate a host has.
    pub(super) certified: BTreeMap<String, Age>,
}

/// The hosts of an entry; without hosts those of the rules, and without rules every host.
pub(super) fn named_hosts(ingress: &Ingress, hosts: &[String]) -> Vec<String> {
    match (hosts.is_empty(), ingress.rules.is_empty()) {
        (true, true) => vec![String::new()],
        (true, false) => ingress.rules.iter().map(|rule| rule.host.clone()).collect(),
        (false, _) => hosts.to_vec(),
    }
}

/// The certificate of a Secret. The proxy validates it.
pub(super) fn certificate(objects: &Objects, name: &NamespacedName) -> Result<Certificate, String> {
    let secret = objects.secrets.get(name);
    let secret = secret.ok_or_else(|| format!("there is no Secret {name}"))?;
    let value = |key: &str| {
        let value = secret.data.get(key).cloned();
        value.ok_or_else(|| format!("Secret {name} has no {key}"))
    };
    Ok(Certificate {
        secret: name.clone(),
        chain: value("tls.crt")?,
        key: value("tls.key")?,
    })
}
