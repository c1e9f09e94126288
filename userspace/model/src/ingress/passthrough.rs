//! Hosts whose TLS connections are forwarded to a backend without decryption.

use std::collections::btree_map::Entry;

use super::{Ingress, IngressBackend, annotations::Settings, owners::belongs, rules::Builder};
use crate::edge::{Sources, Target};

impl Builder<'_> {
    /// Adds the hosts of an Ingress. A host belongs to the oldest Ingress that has it.
    pub(super) fn add_passthrough(&mut self, ingress: &Ingress, settings: &Settings) {
        // The guard that is invalid must close the hosts; it was refused before.
        if settings.policy.closed.is_some() {
            return;
        }
        if needs_requests(settings) {
            let reason = "limits, source ranges and `match-…` need decrypted requests";
            return self.refuse(ingress, settings.field("ssl-passthrough"), reason);
        }
        for (index, rule) in ingress.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            if let Err(reason) = self.may_pass(ingress, &rule.host) {
                self.refuse(ingress, format!("{field}.host"), reason);
                continue;
            }
            for number in 1..rule.paths.len() {
                let reason = "passed-through connections have no paths; the backend of the first path is used";
                let field = format!("{field}.http.paths[{number}].path");
                self.refuse(ingress, field, reason);
            }
            let default = ingress.default_backend.as_ref();
            match (rule.paths.first(), default) {
                (Some(path), _) => {
                    let field = format!("{field}.http.paths[0].backend");
                    self.pass(ingress, settings, &rule.host, &path.backend, &field);
                }
                (None, Some(backend)) => {
                    self.pass(
                        ingress,
                        settings,
                        &rule.host,
                        backend,
                        "spec.defaultBackend",
                    );
                }
                (None, None) => {}
            }
        }
    }

    fn may_pass(&self, ingress: &Ingress, host: &str) -> Result<(), String> {
        if let Some(owner) = self.owners.other(host, ingress) {
            return Err(belongs(host, owner));
        }
        let owner = self.owners.ruled(host);
        match owner.filter(|owner| **owner != ingress.name) {
            Some(owner) => Err(format!("host `{host}` belongs to {owner}")),
            None if host.is_empty() => Err("ssl-passthrough needs a host".into()),
            None => Ok(()),
        }
    }

    fn pass(
        &mut self,
        ingress: &Ingress,
        settings: &Settings,
        host: &str,
        backend: &IngressBackend,
        field: &str,
    ) {
        let target = self.target(ingress, backend, &settings.upstream, field);
        let Target::Upstream(key) = target else {
            return;
        };
        match self.routes.listener.passthrough.entry(host.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(key);
            }
            Entry::Occupied(_) => {
                let reason = format!("an earlier rule is for host `{host}`");
                self.refuse(ingress, field.to_owned(), reason);
            }
        }
    }
}

/// Whether an Ingress has guards that need decrypted requests.
fn needs_requests(settings: &Settings) -> bool {
    let limits = &settings.policy.limits;
    let has_limits = !limits.rates.is_empty() || limits.concurrent.is_some();
    has_limits || settings.policy.sources != Sources::default() || !settings.conditions.is_empty()
}
