//! Canaries: Ingresses whose backends get some requests of another Ingress.

use crate::{RefusalKind, refusal::Reason};

use super::{
    Ingress, IngressPath,
    annotations::Settings,
    candidate::PathCandidate,
    cookie_path::with_cookie_path,
    owners::belongs,
    rules::{Builder, path_match, written},
};
use crate::edge::{Canary, CanaryRule, Target};

impl Builder<'_> {
    /// Sends some requests of routes with the same host, path and conditions to the canary's
    /// backends. Routes of other namespaces are left alone.
    pub(super) fn add_canary(
        &mut self,
        ingress: &Ingress,
        settings: &Settings,
        rules: &[CanaryRule],
    ) {
        // The guard that is invalid must close the canary; it was refused before.
        if settings.policy.closed.is_some() {
            return;
        }
        if ingress.default_backend.is_some() {
            let reason = "a canary gets only requests of its rules";
            self.refuse(ingress, "spec.defaultBackend".into(), reason);
        }
        for (index, rule) in ingress.rules.iter().enumerate() {
            for (number, path) in rule.paths.iter().enumerate() {
                let field = format!("spec.rules[{index}].http.paths[{number}]");
                let backend = format!("{field}.backend");
                let form = path_match(path, settings.use_regex).ok();
                let upstream = form.map(|path| with_cookie_path(&settings.upstream, &path));
                let upstream = upstream.as_ref().unwrap_or(&settings.upstream);
                let target = self.target(ingress, &path.backend, upstream, &backend);
                let other = self.owners.other(&rule.host, ingress);
                let other = other.map(|owner| belongs(&rule.host, owner));
                let reason = match self.main_route(ingress, settings, &rule.host, path) {
                    None => other.map_or_else(no_main_ingress, Reason::from),
                    Some(main) if main.route.canary.is_some() => {
                        "another canary has this path".into()
                    }
                    Some(main) => {
                        // A backend that does not exist gets no requests that the main route can
                        // answer.
                        if let Target::Upstream(_) = target {
                            let rules = rules.to_vec();
                            main.route.canary = Some(Canary { target, rules });
                        }
                        continue;
                    }
                };
                self.refuse(ingress, format!("{field}.path"), reason);
            }
        }
    }

    /// The route that a path of a canary is for. Only the main Ingress decides whether paths are
    /// regular expressions.
    fn main_route(
        &mut self,
        canary: &Ingress,
        settings: &Settings,
        host: &str,
        path: &IngressPath,
    ) -> Option<&mut PathCandidate> {
        let paths = [false, true].map(|regex| path_match(path, regex).ok());
        let is_main = |main: &&mut PathCandidate| {
            let is_path = paths.iter().flatten().any(|path| *path == main.route.path);
            is_path
                && main.written == written(path)
                && main.route.conditions == settings.conditions
                && main.route.origin.name.namespace == canary.name.namespace
        };
        let candidates = self.hosts.get_mut(host);
        candidates.into_iter().flatten().find(is_main)
    }
}

fn no_main_ingress() -> Reason {
    let text = "no other Ingress of the namespace has this host and path";
    Reason(RefusalKind::MainIngress, text.into())
}
