//! Certificates, by host.

use std::{
    collections::{BTreeSet, btree_map::Entry},
    sync::Arc,
};

use crate::{NamespacedName, Refusal};

use super::{Certificate, Ingress, Objects, Routes};

/// Hosts in `spec.tls` of any of these Ingresses.
pub(super) fn hosts(ingresses: &[&Ingress]) -> BTreeSet<String> {
    let of = |ingress: &&Ingress| {
        let entries = ingress.tls.iter();
        entries
            .flat_map(|tls| named_hosts(ingress, &tls.hosts))
            .collect::<Vec<_>>()
    };
    ingresses.iter().flat_map(of).collect()
}

/// The hosts of an entry; without hosts those of the rules, and without rules every host.
fn named_hosts(ingress: &Ingress, hosts: &[String]) -> Vec<String> {
    match (hosts.is_empty(), ingress.rules.is_empty()) {
        (true, true) => vec![String::new()],
        (true, false) => ingress.rules.iter().map(|rule| rule.host.clone()).collect(),
        (false, _) => hosts.to_vec(),
    }
}

/// Adds the certificates in `spec.tls`. A host keeps the certificate of an older Ingress.
pub(super) fn add_certificates(objects: &Objects, ingress: &Ingress, routes: &mut Routes) {
    for (index, tls) in ingress.tls.iter().enumerate() {
        // Without a Secret the default certificate is used.
        let Some(secret) = &tls.secret else { continue };
        let name = NamespacedName::new(&ingress.name.namespace, secret);
        match certificate(objects, &name) {
            Ok(certificate) => {
                let certificate = Arc::new(certificate);
                for host in named_hosts(ingress, &tls.hosts) {
                    if let Err(reason) = add_certificate(routes, host, &certificate) {
                        let field = format!("spec.tls[{index}].hosts");
                        routes
                            .refusals
                            .push(Refusal::ingress(&ingress.name, field, reason));
                    }
                }
            }
            Err(reason) => {
                let field = format!("spec.tls[{index}].secretName");
                routes
                    .refusals
                    .push(Refusal::ingress(&ingress.name, field, reason));
            }
        }
    }
}

fn add_certificate(
    routes: &mut Routes,
    host: String,
    certificate: &Arc<Certificate>,
) -> Result<(), String> {
    match routes.certificates.entry(host) {
        Entry::Vacant(vacant) => {
            vacant.insert(certificate.clone());
            Ok(())
        }
        Entry::Occupied(older) if older.get().secret == certificate.secret => Ok(()),
        Entry::Occupied(older) => {
            let (host, secret) = (older.key(), &older.get().secret);
            Err(format!("host `{host}` has the certificate of {secret}"))
        }
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
