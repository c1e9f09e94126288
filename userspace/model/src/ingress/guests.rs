//! With `--share-hosts`: paths that Ingresses of other namespaces add to a host.

use super::{
    Ingress, annotations::Settings, client_certificates::ACME, owners::belongs, rules::Builder,
};
use crate::edge::PathMatch;

impl Builder<'_> {
    /// Adds the rules of an Ingress for hosts of other namespaces, or refuses them.
    pub(super) fn add_guests(&mut self, ingress: &Ingress, settings: &Settings) {
        for (index, rule) in ingress.rules.iter().enumerate() {
            let Some(owner) = self.owners.other(&rule.host, ingress) else {
                continue;
            };
            let field = format!("spec.rules[{index}]");
            let reason = belongs(&rule.host, owner);
            // Its own rules for passthrough are refused where they are read.
            if settings.passthrough {
                continue;
            }
            if !self.share_hosts {
                self.refuse(ingress, format!("{field}.host"), reason);
                continue;
            }
            let site = self.site(ingress, settings, &rule.host);
            for (number, path) in rule.paths.iter().enumerate() {
                let field = format!("{field}.http.paths[{number}]");
                self.add_path(&site, path, &field, |path| match is_modest(path) {
                    true => Ok(()),
                    false => Err(format!(
                        "{reason}: regular expressions and paths that include {ACME} are its owner's"
                    )),
                });
            }
        }
    }
}

/// Whether it is clear which paths match, and ACME challenges are not among them: with these a
/// namespace could order certificates for the host.
fn is_modest(path: &PathMatch) -> bool {
    let acme = PathMatch::Prefix(ACME.trim_end_matches('/').into());
    !matches!(path, PathMatch::Regex(_)) && !path.overlaps(&acme)
}
