//! Certificates, by host.

use std::sync::Arc;

use crate::NamespacedName;

use super::{
    Ingress,
    certificates::{certificate, named_hosts},
    owners::{Age, age, belongs},
    rules::Builder,
};
use crate::edge::{Certificate, for_host};

impl Builder<'_> {
    /// Adds `spec.tls` of an Ingress. A host keeps the certificate of an older Ingress, and gets none
    /// of a younger Ingress of another namespace than its owner. Connections that are passed through
    /// need no certificate.
    pub(super) fn add_tls(&mut self, ingress: &Ingress, is_passed: bool) {
        let age = age(ingress);
        for (index, tls) in ingress.tls.iter().enumerate() {
            let mut hosts = named_hosts(ingress, &tls.hosts);
            hosts.retain(|host| match self.owners.older(host, &age) {
                None => true,
                Some(owner) => {
                    let reason = belongs(host, owner);
                    self.refuse(ingress, format!("spec.tls[{index}].hosts"), reason);
                    false
                }
            });
            for host in &hosts {
                let named = self.tls.named.entry(host.clone()).or_default();
                named.push(age.clone());
            }
            // Without a Secret the default certificate is used.
            let Some(secret) = tls.secret.as_ref().filter(|_| !is_passed) else {
                continue;
            };
            let name = NamespacedName::new(&ingress.name.namespace, secret);
            match certificate(self.objects, &name).map(Arc::new) {
                Ok(certificate) => {
                    for host in hosts {
                        if let Err(reason) = self.add_certificate(host, &certificate, &age) {
                            self.refuse(ingress, format!("spec.tls[{index}].hosts"), reason);
                        }
                    }
                }
                Err(reason) => {
                    self.refuse(ingress, format!("spec.tls[{index}].secretName"), reason);
                }
            }
        }
    }

    fn add_certificate(
        &mut self,
        host: String,
        certificate: &Arc<Certificate>,
        age: &Age,
    ) -> Result<(), String> {
        match self.routes.listener.certificates.get(&host) {
            None => {
                self.tls.certified.insert(host.clone(), age.clone());
                self.routes
                    .listener
                    .certificates
                    .insert(host, certificate.clone());
                Ok(())
            }
            Some(older) if older.secret == certificate.secret => Ok(()),
            Some(older) => Err(format!(
                "host `{host}` has the certificate of {}",
                older.secret
            )),
        }
    }

    /// Whether a host is named in `spec.tls`, itself or by a wildcard. What its owner's namespace and
    /// older Ingresses name counts.
    pub(super) fn is_secure(&self, host: &str) -> bool {
        let counts = |age: &Age| self.owners.older(host, age).is_none();
        let is_named = |key: &str| {
            let mut named = self.tls.named.get(key).into_iter().flatten();
            named.any(counts).then_some(())
        };
        for_host(host, is_named).is_some()
    }

    /// Keeps the certificates of wildcards, and those for every host, from hosts whose owner is older
    /// and in another namespace.
    pub(super) fn withhold_certificates(&mut self) {
        let mut withheld = Vec::new();
        for (host, _) in self.owners.iter() {
            let certified = &self.tls.certified;
            let wide = for_host(host, |host| certified.get_key_value(host));
            let mut covering = wide.into_iter().chain(certified.get_key_value(""));
            let Some((_, age)) = covering.next() else {
                continue;
            };
            let Some(owner) = self.owners.older(host, age) else {
                continue;
            };
            let reason = belongs(host, owner);
            let next = covering.find(|(_, age)| self.owners.older(host, age).is_none());
            let next = next.map(|(key, _)| key.clone());
            withheld.push((host.clone(), next, age.1.clone(), reason));
        }
        for (host, next, certifier, reason) in withheld {
            let certificates = &mut self.routes.listener.certificates;
            match next.and_then(|key| certificates.get(&key)).cloned() {
                Some(certificate) => drop(certificates.insert(host, certificate)),
                None => drop(self.routes.listener.withheld.insert(host)),
            }
            self.refuse_by_name(&certifier, "spec.tls".into(), reason);
        }
    }
}
