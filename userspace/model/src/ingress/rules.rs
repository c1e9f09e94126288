//! Makes routes from objects: the rules of the Ingress API, one function for each rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{NamespacedName, ObjectName, Refusal, refusal::Reason};

use super::{
    Ingress, IngressBackend, IngressOptions, IngressPath, Objects, PathType, Routes,
    annotations::{self, Context, Settings},
    candidate::PathCandidate,
    certificates::{TlsHosts, certificate},
    class::{refuse_parameters, serves},
    client_certificates,
    cookie_path::with_cookie_path,
    owners::{Owners, age, belongs},
};
use crate::edge::{
    Auth, ErrorPages, Host, Mirror, PathMatch, Pattern, Policy, PortName, Route, RouteOrigin,
    Share, Target, UpstreamPolicy, WeightedTarget, path, upstream,
};

/// Returns the routes of all Ingresses. If several ask for the same host and path, the oldest wins.
/// The same input gives the same output.
pub fn routes(objects: &Objects, options: &IngressOptions) -> Routes {
    let mut ingresses: Vec<&Ingress> = objects
        .ingresses
        .values()
        .filter(|ingress| serves(ingress, &objects.classes, options))
        .collect();
    ingresses.sort_by_cached_key(|ingress| age(ingress));
    let mut builder = Builder {
        objects,
        routes: Routes::default(),
        share_hosts: options.share_hosts,
        auth_local: &options.auth_local,
        owners: Owners::default(),
        tls: TlsHosts::default(),
        hosts: BTreeMap::new(),
    };
    let read: Vec<_> = ingresses
        .into_iter()
        .map(|ingress| (ingress, builder.settings(ingress)))
        .collect();
    builder.add_owners(&read);
    for (ingress, settings) in &read {
        builder.serve(ingress, settings);
    }
    builder.add_all(&read);
    builder.add_defaults(options);
    builder.finish()
}

/// Builds the routes.
pub(super) struct Builder<'a> {
    pub(super) objects: &'a Objects,
    pub(super) routes: Routes,
    /// Whether Ingresses of other namespaces than the owner's may add paths to a host.
    pub(super) share_hosts: bool,
    auth_local: &'a [IpNet],
    pub(super) owners: Owners,
    pub(super) tls: TlsHosts,
    /// Routes by host, those of older Ingresses first.
    pub(super) hosts: BTreeMap<String, Vec<PathCandidate>>,
}

/// What the paths of a rule have in common.
pub(super) struct Site<'a> {
    pub(super) ingress: &'a Ingress,
    pub(super) settings: &'a Settings,
    pub(super) host: &'a str,
    pub(super) policy: Arc<Policy>,
}

impl Builder<'_> {
    fn settings(&mut self, ingress: &Ingress) -> Settings {
        let refusals = &mut self.routes.refusals;
        let draft = annotations::read(&ingress.name, &ingress.annotations, refusals);
        let context = Context {
            secrets: &self.objects.secrets,
            namespace: &ingress.name.namespace,
            auth_local: self.auth_local,
        };
        let mut settings = draft.finish(&context, &mut |field, reason| {
            refusals.push(Refusal::ingress(&ingress.name, field, reason));
        });
        // As in ingress-nginx: a rewrite compares paths as regular expressions.
        let mut paths = ingress.rules.iter().flat_map(|rule| &rule.paths);
        settings.use_regex |= paths.any(|path| settings.rewrites(path));
        settings
    }

    pub(super) fn refuse(&mut self, ingress: &Ingress, field: String, reason: impl Into<Reason>) {
        self.refuse_by_name(&ingress.name, field, reason);
    }

    pub(super) fn refuse_by_name(
        &mut self,
        name: &NamespacedName,
        field: String,
        reason: impl Into<Reason>,
    ) {
        let refusal = Refusal::ingress(name, field, reason);
        self.routes.refusals.push(refusal);
    }

    /// Every host with rules has an entry, so that no rule for more hosts gets its requests.
    fn add_owners(&mut self, read: &[(&Ingress, Settings)]) {
        for (ingress, settings) in read.iter().filter(|(_, main)| main.canary.is_none()) {
            self.owners.claim(ingress, settings);
        }
        let ruled = self.owners.ruled_hosts();
        self.hosts = ruled.map(|host| (host.clone(), Vec::new())).collect();
    }

    fn serve(&mut self, ingress: &Ingress, settings: &Settings) {
        self.routes.served.push(ingress.name.clone());
        let parameters = refuse_parameters(ingress, &self.objects.classes);
        self.routes.refusals.extend(parameters);
        self.add_tls(ingress, settings.passthrough);
    }

    /// Rules that name a host and path come before those that fill gaps.
    fn add_all(&mut self, read: &[(&Ingress, Settings)]) {
        let main = || read.iter().filter(|(_, main)| main.canary.is_none());
        for (ingress, settings) in main() {
            match settings.passthrough {
                true => self.add_passthrough(ingress, settings),
                false => self.add_rules(ingress, settings),
            }
        }
        // After all paths of the owners, with which they must not collide.
        for (ingress, settings) in main() {
            self.add_guests(ingress, settings);
        }
        for (ingress, settings) in main() {
            self.add_default_backend(ingress, settings);
        }
        for (ingress, settings) in main() {
            self.add_app_root(ingress, settings);
        }
        for (ingress, settings) in read {
            if let Some(rules) = &settings.canary {
                self.add_canary(ingress, settings, rules);
            }
        }
        for (ingress, settings) in main() {
            self.add_aliases(ingress, settings);
        }
        for (ingress, settings) in main() {
            self.add_www(ingress, settings);
        }
    }

    /// Adds the rules for hosts of the Ingress's own namespace.
    fn add_rules(&mut self, ingress: &Ingress, settings: &Settings) {
        for (index, rule) in ingress.rules.iter().enumerate() {
            if self.owners.other(&rule.host, ingress).is_none() {
                let site = self.site(ingress, settings, &rule.host);
                for (number, path) in rule.paths.iter().enumerate() {
                    let field = format!("spec.rules[{index}].http.paths[{number}]");
                    self.add_path(&site, path, &field, |_| Ok(()));
                }
            }
        }
    }

    pub(super) fn site<'a>(
        &mut self,
        ingress: &'a Ingress,
        settings: &'a Settings,
        host: &'a str,
    ) -> Site<'a> {
        Site {
            ingress,
            settings,
            host,
            policy: self.policy(ingress, settings, host),
        }
    }

    /// Adds a path, unless `check` refuses what it matches, or another Ingress has it.
    pub(super) fn add_path(
        &mut self,
        site: &Site<'_>,
        path: &IngressPath,
        field: &str,
        check: impl FnOnce(&PathMatch) -> Result<(), String>,
    ) {
        let path_match = path_match(path, site.settings.use_regex);
        let path_match = match path_match.and_then(|found| check(&found).map(|()| found)) {
            Ok(path_match) => path_match,
            Err(reason) => return self.refuse(site.ingress, format!("{field}.path"), reason),
        };
        let backend = format!("{field}.backend");
        let mut candidate =
            self.candidate(site, path_match, written(path), &path.backend, &backend);
        if !site.settings.rewrites(path) {
            candidate.leave_path();
        }
        let candidates = self.hosts.entry(site.host.into()).or_default();
        match candidates.iter().find(|older| older.excludes(&candidate)) {
            Some(older) => {
                let owner = &older.route.origin.name;
                let reason = format!("{} of host `{}` belongs to {owner}", path.path, site.host);
                self.refuse(site.ingress, format!("{field}.path"), reason);
            }
            None => candidates.push(candidate),
        }
    }

    /// `spec.defaultBackend`: for requests to the hosts of the rules that no rule matches, or to
    /// every host if there are no rules.
    fn add_default_backend(&mut self, ingress: &Ingress, settings: &Settings) {
        let Some(backend) = &ingress.default_backend else {
            return;
        };
        if settings.passthrough {
            return;
        }
        let mut hosts: BTreeSet<&str> = ingress.rules.iter().map(|rule| &*rule.host).collect();
        if hosts.is_empty() {
            hosts.insert("");
        }
        for host in hosts {
            match self.owners.other(host, ingress) {
                Some(owner) => {
                    let reason = belongs(host, owner);
                    self.refuse(ingress, "spec.defaultBackend".into(), reason);
                }
                None => {
                    let site = self.site(ingress, settings, host);
                    self.add_root(&site, backend);
                }
            }
        }
    }

    fn add_root(&mut self, site: &Site<'_>, backend: &IngressBackend) {
        let field = "spec.defaultBackend";
        match self.root_owner(site) {
            // Its own rules match every request.
            Some(owner) if *owner == site.ingress.name => {}
            Some(owner) => {
                let reason = format!(
                    "the default backend of host `{}` belongs to {owner}",
                    site.host
                );
                self.refuse(site.ingress, field.into(), reason);
            }
            None => {
                let everything = PathMatch::Prefix(String::new());
                let candidate = self.candidate(site, everything, 1, backend, field);
                let candidates = self.hosts.entry(site.host.into()).or_default();
                candidates.push(candidate);
            }
        }
    }

    /// The Ingress whose route matches everything that the default backend of this one would get.
    fn root_owner(&self, site: &Site<'_>) -> Option<&NamespacedName> {
        let mut candidates = self.hosts.get(site.host).into_iter().flatten();
        let takes_all = |known: &&PathCandidate| {
            let conditions = &known.route.conditions;
            known.is_root() && (conditions.is_empty() || *conditions == site.settings.conditions)
        };
        candidates
            .find(takes_all)
            .map(|known| &known.route.origin.name)
    }

    fn candidate(
        &mut self,
        site: &Site<'_>,
        path: PathMatch,
        written: usize,
        backend: &IngressBackend,
        field: &str,
    ) -> PathCandidate {
        let Site {
            ingress, settings, ..
        } = site;
        PathCandidate {
            route: Route {
                origin: RouteOrigin::ingress(ingress.name.clone()),
                conditions: settings.conditions.clone(),
                targets: WeightedTarget::only(self.target(
                    ingress,
                    backend,
                    &with_cookie_path(&settings.upstream, &path),
                    field,
                )),
                path,
                canary: None,
                policy: site.policy.clone(),
            },
            written,
        }
    }

    /// The target for a backend. An invalid one is refused, and the route stays: it answers 503 if
    /// an object may still appear, 404 if the backend is not supported.
    pub(super) fn target(
        &mut self,
        ingress: &Ingress,
        backend: &IngressBackend,
        policy: &Arc<UpstreamPolicy>,
        field: &str,
    ) -> Target {
        match backend {
            IngressBackend::Resource { kind, name } => {
                let reason = format!("{kind} {name} is not supported as a backend");
                self.refuse(ingress, format!("{field}.resource"), reason);
                Target::Missing
            }
            IngressBackend::Service { name, port } => {
                let service = NamespacedName::new(&ingress.name.namespace, name);
                match upstream(&self.objects.services, &service, port, policy) {
                    Ok(key) => Target::Upstream(key),
                    Err(reason) => {
                        self.refuse(ingress, format!("{field}.service"), reason);
                        Target::Unavailable
                    }
                }
            }
        }
    }

    pub(super) fn policy(
        &mut self,
        ingress: &Ingress,
        settings: &Settings,
        host: &str,
    ) -> Arc<Policy> {
        let is_secure = self.is_secure(host);
        let mut policy = Policy {
            to_https: settings.force_ssl_redirect || settings.ssl_redirect && is_secure,
            mirrors: self.mirror(ingress, settings).into_iter().collect(),
            error_pages: self.error_pages(ingress, settings),
            ..settings.policy.clone()
        };
        self.fill_in_host(ingress, settings, &mut policy, host);
        Arc::new(policy)
    }

    /// Replaces `$host` in `auth-url`. For a wildcard the client would choose the host, and with it
    /// the service that checks it; this is refused.
    fn fill_in_host(
        &mut self,
        ingress: &Ingress,
        settings: &Settings,
        policy: &mut Policy,
        host: &str,
    ) {
        let externals = policy.auth.iter_mut().filter_map(|auth| match auth {
            Auth::External(external) => Some(external),
            _ => None,
        });
        let is_one = !host.is_empty() && !host.starts_with("*.");
        for external in externals {
            let has_host = external.url.authority().variables().next().is_some();
            if is_one {
                external.url.fill_in_host(host);
            } else if has_host {
                let reason = "$host needs rules of a single host";
                policy.closed.get_or_insert(format!("auth-url: {reason}"));
                self.refuse(ingress, settings.field("auth-url"), reason);
            }
        }
    }

    fn mirror(&mut self, ingress: &Ingress, settings: &Settings) -> Option<Mirror> {
        let (service, port, percent) = settings.mirror.as_ref()?;
        let service = NamespacedName::new(&ingress.name.namespace, service);
        let port = PortName::Number(*port);
        match upstream(&self.objects.services, &service, &port, &Arc::default()) {
            Ok(upstream) => Some(Mirror {
                upstream,
                share: Share::percent(*percent),
            }),
            Err(reason) => {
                self.refuse(ingress, settings.field("mirror-service"), reason);
                None
            }
        }
    }

    fn error_pages(&mut self, ingress: &Ingress, settings: &Settings) -> Option<ErrorPages> {
        let (codes, service) = settings.error_pages.as_ref()?;
        let service = NamespacedName::new(&ingress.name.namespace, service);
        let found = self.objects.services.get(&service);
        let port = found.and_then(|found| Some(found.ports.first()?.port));
        let port = PortName::Number(port.unwrap_or(80));
        match upstream(&self.objects.services, &service, &port, &Arc::default()) {
            Ok(upstream) => Some(ErrorPages {
                upstream,
                codes: codes.clone(),
            }),
            Err(reason) => {
                self.refuse(ingress, settings.field("default-backend"), reason);
                None
            }
        }
    }

    fn add_defaults(&mut self, options: &IngressOptions) {
        if let Some((service, port)) = &options.default_backend {
            let port = PortName::Number(*port);
            let target = match upstream(&self.objects.services, service, &port, &Arc::default()) {
                Ok(key) => Target::Upstream(key),
                Err(Reason(kind, reason)) => {
                    let object = ObjectName::Service(service.clone());
                    let refusal = Refusal::new(object, "--default-backend", reason);
                    self.routes.refusals.push(Refusal { kind, ..refusal });
                    Target::Unavailable
                }
            };
            self.routes.listener.default = Some(Arc::new(Route {
                origin: RouteOrigin::ingress(service.clone()),
                path: PathMatch::Prefix(String::new()),
                conditions: Vec::new(),
                targets: WeightedTarget::only(target),
                canary: None,
                policy: Arc::default(),
            }));
        }
        if let Some(name) = &options.default_certificate {
            match certificate(self.objects, name) {
                Ok(certificate) => {
                    self.routes.listener.default_certificate = Some(Arc::new(certificate))
                }
                Err(reason) => {
                    let object = ObjectName::Secret(name.clone());
                    let refusal = Refusal::new(object, "--default-certificate", reason);
                    self.routes.refusals.push(refusal);
                }
            }
        }
    }

    fn finish(mut self) -> Routes {
        self.withhold_certificates();
        let mut routes = self.routes;
        for (host, mut candidates) in self.hosts {
            let mut all: Vec<&mut Route> =
                candidates.iter_mut().map(|one| &mut one.route).collect();
            let owner = self.owners.owner(&host);
            let asks_certificate =
                client_certificates::demand_on_all(&mut all, owner, &mut routes.refusals);
            // Stable: among equals the older Ingress stays first.
            candidates.sort_by_key(PathCandidate::rank);
            let in_order = candidates
                .into_iter()
                .map(|candidate| Arc::new(candidate.route));
            routes.listener.hosts.insert(
                host,
                Host {
                    asks_certificate,
                    routes: in_order.collect(),
                },
            );
        }
        // The same refusal may occur at each host of an Ingress.
        let mut seen = BTreeSet::new();
        let is_new = |refusal: &Refusal| seen.insert(refusal.clone());
        routes.refusals.retain(is_new);
        routes
    }
}

/// Length of a path in its decoded form; an empty one means `/`.
pub(super) fn written(path: &IngressPath) -> usize {
    let form = path::of_rule(&path.path);
    form.map_or(path.path.len(), |form| form.len()).max(1)
}

pub(super) fn path_match(path: &IngressPath, use_regex: bool) -> Result<PathMatch, String> {
    let text = &path.path;
    match path.path_type {
        PathType::Exact => path::of_rule(text).map(PathMatch::Exact),
        PathType::Prefix | PathType::ImplementationSpecific if use_regex => {
            Pattern::of_path(text).map(PathMatch::Regex)
        }
        PathType::Prefix | PathType::ImplementationSpecific if text.is_empty() => {
            Ok(PathMatch::Prefix(String::new()))
        }
        PathType::Prefix | PathType::ImplementationSpecific => {
            let form = path::of_rule(text)?;
            let prefix = form.strip_suffix('/').unwrap_or(&form);
            Ok(PathMatch::Prefix(prefix.into()))
        }
    }
}
