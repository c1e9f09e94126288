//! Hosts whose TLS connections go to a backend unopened.

use std::collections::btree_map::Entry;

use super::{Ingress, IngressBackend, Sources, Target, annotations::Settings, rules::Builder};

impl Builder<'_> {
    /// A host's connections go where the oldest Ingress that has the host says.
    pub(super) fn add_passthrough(&mut self, ingress: &Ingress, settings: &Settings) {
        // Nothing may pass the guard that could not be read. That was refused already.
        if settings.policy.closed.is_some() {
            return;
        }
        if needs_requests(settings) {
            let reason = "what this Ingress lets through cannot be told from unopened connections";
            return self.refuse(ingress, settings.field("ssl-passthrough"), reason.into());
        }
        for (index, rule) in ingress.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            if let Err(reason) = self.may_pass(ingress, &rule.host) {
                self.refuse(ingress, format!("{field}.host"), reason);
                continue;
            }
            for number in 1..rule.paths.len() {
                let reason = "unopened connections have no paths; the first one's backend is taken";
                let field = format!("{field}.http.paths[{number}].path");
                self.refuse(ingress, field, reason.into());
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
        let owner = self.owners.get(host);
        match owner.filter(|owner| **owner != ingress.name) {
            Some(owner) => Err(format!("host `{host}` is {owner}'s already")),
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
        match self.routes.passthrough.entry(host.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(key);
            }
            Entry::Occupied(_) => {
                let reason = format!("an earlier rule is for host `{host}` already");
                self.refuse(ingress, field.to_owned(), reason);
            }
        }
    }
}

/// Whether an Ingress lets some requests through and others not.
fn needs_requests(settings: &Settings) -> bool {
    let limits = &settings.policy.limits;
    let has_limits = !limits.rates.is_empty() || limits.concurrent.is_some();
    has_limits || settings.policy.sources != Sources::default() || !settings.conditions.is_empty()
}
