//! Canaries: Ingresses whose backends get some requests of another Ingress's routes.

use super::{
    Canary, CanaryRule, Ingress, IngressPath, Target,
    annotations::Settings,
    candidate::Candidate,
    rules::{Builder, path_match, written},
};

impl Builder<'_> {
    /// Gives some requests of routes with the same host, path and conditions to the canary's
    /// backends. Another namespace's routes are not its to take from.
    pub(super) fn add_canary(
        &mut self,
        ingress: &Ingress,
        settings: &Settings,
        rules: &[CanaryRule],
    ) {
        // Nothing may pass the guard that could not be read. That was refused already.
        if settings.policy.closed.is_some() {
            return;
        }
        if ingress.default_backend.is_some() {
            let reason = "a canary has no requests but those of its rules".into();
            self.refuse(ingress, "spec.defaultBackend".into(), reason);
        }
        for (index, rule) in ingress.rules.iter().enumerate() {
            for (number, path) in rule.paths.iter().enumerate() {
                let field = format!("spec.rules[{index}].http.paths[{number}]");
                let backend = format!("{field}.backend");
                let target = self.target(ingress, &path.backend, &settings.upstream, &backend);
                let reason = match self.main_route(ingress, settings, &rule.host, path) {
                    None => "no other Ingress of the namespace has this host and path",
                    Some(main) if main.route.canary.is_some() => "another canary has this path",
                    Some(main) => {
                        // What is not there gets no requests that the main route can answer.
                        if let Target::Upstream(_) = target {
                            let rules = rules.to_vec();
                            main.route.canary = Some(Canary { target, rules });
                        }
                        continue;
                    }
                };
                self.refuse(ingress, format!("{field}.path"), reason.into());
            }
        }
    }

    /// The route that a path of a canary is for. Whether paths are regular expressions is said by
    /// the main Ingress alone.
    fn main_route(
        &mut self,
        canary: &Ingress,
        settings: &Settings,
        host: &str,
        path: &IngressPath,
    ) -> Option<&mut Candidate> {
        let paths = [false, true].map(|regex| path_match(path, regex).ok());
        let is_main = |main: &&mut Candidate| {
            let is_path = paths.iter().flatten().any(|path| *path == main.route.path);
            is_path
                && main.written == written(path)
                && main.route.conditions == settings.conditions
                && main.route.ingress.namespace == canary.name.namespace
        };
        let candidates = self.hosts.get_mut(host);
        candidates.into_iter().flatten().find(is_main)
    }
}
