//! Certificates that objects name, each checked once.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Problem, World,
    object::{CertificateRef, ObjectRef},
    reference::{Referent, Referrer, not_permitted, permits},
};
use crate::{NamespacedName, edge::Certificate};

/// The key of a ConfigMap with CA certificates. Nothing else of ConfigMaps is read.
pub const AUTHORITIES_KEY: &str = "ca.crt";

/// Why bytes cannot be used.
type Checked = Result<(), String>;

/// The outcome of checks, while their objects stay as they are.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    secrets: BTreeMap<NamespacedName, Kept<Arc<Certificate>>>,
    authorities: BTreeMap<NamespacedName, Kept<Arc<Vec<u8>>>>,
    pass: u64,
}

#[derive(Debug)]
struct Kept<T> {
    value: T,
    checked: Checked,
    /// The pass that needed it last.
    pass: u64,
}

impl Certificates {
    /// Begins a pass; forgets what the pass before did not need.
    pub(super) fn begin(&mut self) {
        let last = self.pass;
        self.secrets.retain(|_, kept| kept.pass == last);
        self.authorities.retain(|_, kept| kept.pass == last);
        self.pass += 1;
    }

    /// Returns the certificate that a Gateway or a ListenerSet names.
    ///
    /// # Errors
    ///
    /// If no grant permits the reference (`RefNotPermitted`), or there is no Secret with a certificate and its
    /// key: with the reason `invalid`.
    pub(super) fn certificate(
        &mut self,
        world: &World<'_>,
        from: Referrer<'_>,
        reference: &CertificateRef,
        invalid: &'static str,
    ) -> Result<Arc<Certificate>, Problem> {
        if !reference.group.is_empty() || reference.kind != "Secret" {
            let message = format!("{} {} is not a Secret", reference.kind, reference.name);
            return Err(Problem::new(invalid, message));
        }
        let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
        let name = NamespacedName::new(namespace, &reference.name);
        permitted(world, from, "Secret", &name)?;
        let wrong = |reason: String| Problem::new(invalid, format!("Secret {name} {reason}"));
        let secret = world.secrets.get(&name);
        let secret = secret.ok_or_else(|| wrong("does not exist".into()))?;
        let value = |key: &str| {
            let value = secret.data.get(key);
            value.ok_or_else(|| wrong(format!("has no {key}")))
        };
        let (chain, key) = (value("tls.crt")?, value("tls.key")?);
        let known = self.secrets.get_mut(&name);
        let known = known.filter(|kept| kept.value.chain == *chain && kept.value.key == *key);
        let (certificate, checked) = match known {
            Some(kept) => {
                kept.pass = self.pass;
                (kept.value.clone(), kept.checked.clone())
            }
            None => {
                let certificate = Arc::new(Certificate {
                    secret: name.clone(),
                    chain: chain.clone(),
                    key: key.clone(),
                });
                let checked = (world.options.check_certificate)(&certificate);
                let kept = Kept {
                    value: certificate.clone(),
                    checked: checked.clone(),
                    pass: self.pass,
                };
                self.secrets.insert(name.clone(), kept);
                (certificate, checked)
            }
        };
        let unusable = |reason| wrong(format!("is not a certificate with its key: {reason}"));
        checked.map(|()| certificate).map_err(unusable)
    }

    /// Returns the CA certificates (PEM) that a Gateway names for its clients.
    ///
    /// # Errors
    ///
    /// If the object is not a ConfigMap, no grant permits the reference, or it has no valid certificates.
    pub(super) fn client_authorities(
        &mut self,
        world: &World<'_>,
        from: Referrer<'_>,
        reference: &ObjectRef,
    ) -> Result<Arc<Vec<u8>>, Problem> {
        if !reference.group.is_empty() || reference.kind != "ConfigMap" {
            let message = format!("{} {} is not a ConfigMap", reference.kind, reference.name);
            return Err(Problem::new("InvalidCACertificateKind", message));
        }
        let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
        let name = NamespacedName::new(namespace, &reference.name);
        permitted(world, from, "ConfigMap", &name)?;
        let found = self.authorities(world, &name);
        found.map_err(|reason| Problem::new("InvalidCACertificateRef", reason))
    }

    /// Returns the CA certificates (PEM) of a ConfigMap.
    ///
    /// # Errors
    ///
    /// If the ConfigMap does not exist, or has no valid certificates in `ca.crt`.
    pub(super) fn authorities(
        &mut self,
        world: &World<'_>,
        name: &NamespacedName,
    ) -> Result<Arc<Vec<u8>>, String> {
        let data = world.objects.config_maps.get(name);
        let data = data.ok_or_else(|| format!("ConfigMap {name} does not exist"))?;
        let text = data.get(AUTHORITIES_KEY);
        let text = text.ok_or_else(|| format!("ConfigMap {name} has no {AUTHORITIES_KEY}"))?;
        let known = self.authorities.get_mut(name);
        let known = known.filter(|kept| *kept.value == text.as_bytes());
        let (authorities, checked) = match known {
            Some(kept) => {
                kept.pass = self.pass;
                (kept.value.clone(), kept.checked.clone())
            }
            None => {
                let authorities = Arc::new(text.clone().into_bytes());
                let checked = match text.contains("-----BEGIN CERTIFICATE-----") {
                    true => (world.options.check_authorities)(&authorities),
                    false => Err("no certificate".into()),
                };
                let kept = Kept {
                    value: authorities.clone(),
                    checked: checked.clone(),
                    pass: self.pass,
                };
                self.authorities.insert(name.clone(), kept);
                (authorities, checked)
            }
        };
        let invalid = |reason| format!("ca.crt of ConfigMap {name}: {reason}");
        checked.map(|()| authorities).map_err(invalid)
    }
}

fn permitted(
    world: &World<'_>,
    from: Referrer<'_>,
    kind: &str,
    name: &NamespacedName,
) -> Result<(), Problem> {
    let to = Referent {
        group: "",
        kind,
        name,
    };
    match permits(&world.objects.grants, from, to) {
        true => Ok(()),
        false => Err(not_permitted(kind, name, from)),
    }
}
