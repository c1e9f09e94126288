//! Routes of an Ingress, with their policies.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::{Value, json};

use super::{
    GATEWAY_API, Migration, Place, Read,
    hosts::Hosts,
    metadata, policy,
    rules::{
        Rewrite, add_rewrite, backend, canary, filters, host, path_match, redirect,
        redirect_filter, to_https,
    },
};
use crate::{
    NamespacedName,
    edge::{CanaryRule, Trust, UpstreamProtocol},
    ingress::{Ingress, IngressBackend, IngressPath, PathType, rules::written},
};

/// Most rules of a route.
const MOST_RULES: usize = 16;

/// Namespace, host and path of a rule, and whether the path is exact.
type PathKey = (String, String, String, bool);

/// Canaries that no route has yet.
pub(super) struct Canaries<'a>(
    BTreeMap<PathKey, (&'a Ingress, &'a IngressBackend, &'a [CanaryRule])>,
);

impl<'a> Canaries<'a> {
    pub(super) fn new(canaries: &'a [Read<'a>]) -> Self {
        let mut all = BTreeMap::new();
        for Read { ingress, settings } in canaries {
            let rules = settings.canary.as_deref().unwrap_or_default();
            for rule in &ingress.rules {
                for path in &rule.paths {
                    let key = key(ingress, &rule.host, path);
                    all.entry(key).or_insert((*ingress, &path.backend, rules));
                }
            }
        }
        Self(all)
    }

    pub(super) fn note_rest(&self, migration: &mut Migration) {
        for ((_, host, path, _), (ingress, ..)) in &self.0 {
            let text = format!("no Ingress of the namespace has path {path} of host `{host}`");
            migration.note(ingress, "canary", text);
        }
    }
}

fn key(ingress: &Ingress, host: &str, path: &IngressPath) -> PathKey {
    let is_exact = path.path_type == PathType::Exact;
    let namespace = ingress.name.namespace.clone();
    let path = if path.path.is_empty() {
        "/"
    } else {
        &path.path
    };
    (namespace, host.to_owned(), path.to_owned(), is_exact)
}

/// The key of all paths of a host.
fn root(ingress: &Ingress, host: &str) -> PathKey {
    let namespace = ingress.name.namespace.clone();
    (namespace, host.to_owned(), "/".to_owned(), false)
}

/// A rule of a route.
struct Rule {
    /// Those that are decided first are first.
    rank: (bool, Reverse<usize>, Reverse<usize>),
    matches: Value,
    filters: Vec<Value>,
    backends: Vec<Value>,
    /// The target of its rewrite, if a policy has it.
    rewrite: Option<String>,
}

/// Which Ingress has which path.
#[derive(Default)]
pub(super) struct Claims {
    /// Paths that rules name: default backends come after all of them.
    ruled: BTreeSet<PathKey>,
    /// Paths that are printed.
    owners: BTreeMap<PathKey, NamespacedName>,
}

impl Claims {
    pub(super) fn new(mains: &[Read<'_>]) -> Self {
        let mut ruled = BTreeSet::new();
        for Read { ingress, settings } in mains {
            for (name, paths) in by_host(ingress, &settings.aliases) {
                ruled.extend(paths.into_iter().map(|path| key(ingress, &name, path)));
            }
        }
        Self {
            ruled,
            owners: BTreeMap::new(),
        }
    }
}

/// Prints the routes of an Ingress, but for paths of older ones.
pub(super) fn print(
    place: Place<'_>,
    hosts: &Hosts,
    canaries: &mut Canaries<'_>,
    claims: &mut Claims,
    read: &Read<'_>,
    migration: &mut Migration,
) {
    let Read { ingress, settings } = read;
    let namespace = &*ingress.name.namespace;
    let (shared, mut lacks) = filters(read);
    let backend_host = host(read).unwrap_or_else(|reason| {
        lacks.push(("upstream-vhost", reason));
        None
    });
    if settings.www_redirect {
        lacks.push((
            "from-to-www-redirect",
            "write a route with a redirect".into(),
        ));
    }
    for (name, reason) in lacks {
        migration.note(ingress, name, reason);
    }
    let redirected = settings.policy.redirect.as_ref().map(redirect).transpose();
    let redirected = match redirected {
        Ok(redirected) => redirected,
        Err(reason) => {
            migration.leave_out(ingress, format!("its redirect: {reason}"));
            return;
        }
    };
    note_backends(read, migration);
    let mut targets = Targets::default();
    let mut names = BTreeMap::<String, usize>::new();
    for (name, paths) in by_host(ingress, &settings.aliases) {
        let Some(known) = hosts.of(&name, namespace) else {
            let text = format!("host `{name}` belongs to namespace {}", hosts.owner(&name));
            migration.note(ingress, "spec.rules", text);
            continue;
        };
        if known.is_passed {
            migration
                .documents
                .extend(tls_route(place, hosts, ingress, &name, &paths));
            continue;
        }
        let mut rules = Vec::new();
        for path in &paths {
            let key = key(ingress, &name, path);
            if let Some(owner) = claims.owners.get(&key) {
                let text = format!("path {} of host `{name}` belongs to {owner}", path.path);
                migration.note(ingress, "spec.rules", text);
                continue;
            }
            let canary = canaries.0.remove(&key);
            claims.owners.insert(key, ingress.name.clone());
            let main = match (backend(place, namespace, &path.backend), &redirected) {
                (Ok(main), _) => main,
                (Err(_), Some(_)) => Value::Null,
                (Err(reason), None) => {
                    migration.note(
                        ingress,
                        "spec.rules",
                        format!("path {}: {reason}", path.path),
                    );
                    continue;
                }
            };
            let (found, rewrite) = path_match(path, settings);
            let mut filters = shared.clone();
            let rewrite = match (&redirected, rewrite) {
                (Some(redirect), _) => {
                    filters.push(redirect.clone());
                    None
                }
                (None, Rewrite::Filter(filter)) => {
                    if filter.is_some() && found["type"] == "PathPrefix" {
                        let text = format!("path {} is compared with case", path.path);
                        migration.note(ingress, "rewrite-target", text);
                    }
                    add_rewrite(&mut filters, filter, backend_host.as_deref());
                    None
                }
                (None, Rewrite::Policy(target)) => {
                    add_rewrite(&mut filters, None, backend_host.as_deref());
                    Some(target)
                }
            };
            let is_exact = path.path_type == PathType::Exact;
            let rule = |headers: Vec<Value>, backends: Vec<Value>| Rule {
                rank: (!is_exact, Reverse(written(path)), Reverse(headers.len())),
                matches: match headers.is_empty() {
                    true => json!([{"path": found}]),
                    false => json!([{"path": found, "headers": headers}]),
                },
                filters: filters.clone(),
                backends,
                rewrite: rewrite.clone(),
            };
            if redirected.is_some() {
                rules.push(rule(Vec::new(), Vec::new()));
                continue;
            }
            let Some((owner, other, conditions)) = canary else {
                rules.push(rule(Vec::new(), vec![main]));
                continue;
            };
            let other = match backend(place, namespace, other) {
                Ok(other) => other,
                Err(reason) => {
                    migration.note(owner, "spec.rules", reason);
                    rules.push(rule(Vec::new(), vec![main]));
                    continue;
                }
            };
            let (by_header, (weight, total)) = self::canary(conditions);
            for (header, is_canary) in by_header {
                let chosen = if is_canary { &other } else { &main };
                rules.push(rule(vec![header], vec![chosen.clone()]));
            }
            let share = |backend: &Value, weight: u32| {
                let mut backend = backend.clone();
                backend["weight"] = weight.into();
                backend
            };
            let both = match weight {
                0 => vec![main],
                weight => vec![share(&main, total - weight), share(&other, weight)],
            };
            rules.push(rule(Vec::new(), both));
        }
        let mut gaps = Gaps {
            read,
            shared: &shared,
            redirect: redirected.as_ref(),
            backend_host: backend_host.as_deref(),
            rules: &mut rules,
        };
        gaps.add_root();
        let root = root(ingress, &name);
        let has_default = ingress.default_backend.is_some();
        let is_free = !claims.ruled.contains(&root) && !claims.owners.contains_key(&root);
        if has_default && is_free {
            gaps.add_default(place, migration);
            claims.owners.insert(root, ingress.name.clone());
        }
        rules.sort_by_key(|rule| rule.rank);
        if rules.is_empty() {
            continue;
        }
        let redirects = settings.force_ssl_redirect || settings.ssl_redirect && known.is_secure;
        let parent = |scheme| hosts.parent(&name, scheme, place.gateway);
        let mut parents = Vec::new();
        if known.has_https() {
            parents.push(parent("https"));
        }
        if !redirects {
            parents.push(parent("http"));
        }
        for (number, rules) in rules.chunks(MOST_RULES).enumerate() {
            let mut make = |suffix: &str| {
                let base = format!("{}{suffix}", ingress.name.name);
                let count = names.entry(base.clone()).or_default();
                *count += 1;
                match *count {
                    1 => base,
                    count => format!("{base}-{count}"),
                }
            };
            if redirects {
                let route = make("-to-https");
                let rules = rules
                    .iter()
                    .map(|rule| json!({"matches": rule.matches, "filters": [to_https()]}));
                let rules: Vec<Value> = rules.collect();
                migration.documents.push(http_route(
                    namespace,
                    &route,
                    &name,
                    &[parent("http")],
                    &rules,
                ));
                targets
                    .redirects
                    .push(policy::target("HTTPRoute", &route, None));
            }
            if parents.is_empty() {
                let text = format!(
                    "host `{name}` has no certificate: only its redirect to HTTPS is printed"
                );
                migration.note(ingress, "force-ssl-redirect", text);
                continue;
            }
            let route = make("");
            let documents = rules.iter().enumerate().map(|(index, rule)| {
                let mut document = json!({"matches": rule.matches});
                if let Some(target) = &rule.rewrite {
                    let section = format!("rewrite-{}", number * MOST_RULES + index + 1);
                    let target_ref = policy::target("HTTPRoute", &route, Some(&section));
                    targets
                        .rewrites
                        .entry(target.clone())
                        .or_default()
                        .push(target_ref);
                    document["name"] = section.into();
                }
                if !rule.filters.is_empty() {
                    document["filters"] = json!(rule.filters);
                }
                if !rule.backends.is_empty() {
                    document["backendRefs"] = json!(rule.backends);
                }
                document
            });
            let documents: Vec<Value> = documents.collect();
            let document = http_route(namespace, &route, &name, &parents, &documents);
            migration.documents.push(document);
            targets
                .routes
                .push(policy::target("HTTPRoute", &route, None));
        }
    }
    targets.print(read, migration);
    migration.documents.extend(backend_tls(read));
}

/// What the policies of an Ingress are for.
#[derive(Default)]
struct Targets {
    routes: Vec<Value>,
    /// Routes that redirect to HTTPS: of all settings only the sources are decided before that.
    redirects: Vec<Value>,
    /// Rules by the target of their rewrite.
    rewrites: BTreeMap<String, Vec<Value>>,
}

impl Targets {
    fn print(&self, read: &Read<'_>, migration: &mut Migration) {
        let name = &read.ingress.name;
        let (namespace, name) = (&*name.namespace, &*name.name);
        let settings = policy::settings(read);
        let documents = &mut migration.documents;
        documents.extend(policy::documents(namespace, name, &self.routes, &settings));
        if let Some(sources) = settings.get("sources") {
            let name = format!("{name}-to-https");
            let settings = json!({"sources": sources});
            documents.extend(policy::documents(
                namespace,
                &name,
                &self.redirects,
                &settings,
            ));
        }
        for (number, (target, rules)) in self.rewrites.iter().enumerate() {
            let name = match number {
                0 => format!("{name}-rewrite"),
                number => format!("{name}-rewrite-{}", number + 1),
            };
            let settings = json!({"rewriteTarget": target});
            documents.extend(policy::documents(namespace, &name, rules, &settings));
        }
    }
}

/// The paths of each host.
fn by_host<'a>(ingress: &'a Ingress, aliases: &[String]) -> BTreeMap<String, Vec<&'a IngressPath>> {
    let mut hosts: BTreeMap<String, Vec<&IngressPath>> = BTreeMap::new();
    for rule in &ingress.rules {
        hosts
            .entry(rule.host.clone())
            .or_default()
            .extend(&rule.paths);
    }
    if hosts.is_empty() && ingress.default_backend.is_some() {
        hosts.insert(String::new(), Vec::new());
    }
    for alias in aliases {
        let mut paths: Vec<&IngressPath> = Vec::new();
        let mut known = BTreeSet::new();
        for path in ingress.rules.iter().flat_map(|rule| &rule.paths) {
            if known.insert((&path.path, path.path_type)) {
                paths.push(path);
            }
        }
        hosts.entry(alias.clone()).or_insert(paths);
    }
    hosts
}

/// Adds the rules for requests that no path has.
struct Gaps<'a> {
    read: &'a Read<'a>,
    /// Filters of all rules.
    shared: &'a [Value],
    /// The redirect of every request.
    redirect: Option<&'a Value>,
    backend_host: Option<&'a str>,
    rules: &'a mut Vec<Rule>,
}

impl Gaps<'_> {
    /// `app-root`.
    fn add_root(&mut self) {
        let root = self.read.settings.policy.app_root.as_ref();
        let Some(root) = root.filter(|_| self.redirect.is_none()) else {
            return;
        };
        let path = json!({"type": "Exact", "value": "/"});
        self.rules.retain(|rule| rule.matches[0]["path"] != path);
        let redirect = json!({
            "path": {"type": "ReplaceFullPath", "replaceFullPath": root},
            "statusCode": 302,
        });
        self.rules.push(Rule {
            rank: (false, Reverse(1), Reverse(0)),
            matches: json!([{"path": path}]),
            filters: vec![redirect_filter(redirect)],
            backends: Vec::new(),
            rewrite: None,
        });
    }

    /// The default backend.
    fn add_default(&mut self, place: Place<'_>, migration: &mut Migration) {
        let ingress = self.read.ingress;
        let Some(default) = &ingress.default_backend else {
            return;
        };
        let mut filters = self.shared.to_vec();
        let backends = match (
            self.redirect,
            backend(place, &ingress.name.namespace, default),
        ) {
            (Some(redirect), _) => {
                filters.push(redirect.clone());
                Vec::new()
            }
            (None, Ok(backend)) => {
                add_rewrite(&mut filters, None, self.backend_host);
                vec![backend]
            }
            (None, Err(reason)) => {
                return migration.note(ingress, "spec.defaultBackend", reason);
            }
        };
        self.rules.push(Rule {
            rank: (true, Reverse(0), Reverse(0)),
            matches: json!([{"path": {"type": "PathPrefix", "value": "/"}}]),
            filters,
            backends,
            rewrite: None,
        });
    }
}

fn http_route(
    namespace: &str,
    name: &str,
    host: &str,
    parents: &[Value],
    rules: &[Value],
) -> Value {
    let mut spec = json!({"parentRefs": parents, "rules": rules});
    if !host.is_empty() {
        spec["hostnames"] = json!([host]);
    }
    json!({
        "apiVersion": GATEWAY_API,
        "kind": "HTTPRoute",
        "metadata": metadata(namespace, name),
        "spec": spec,
    })
}

/// The route of a host whose connections are not decrypted.
fn tls_route(
    place: Place<'_>,
    hosts: &Hosts,
    ingress: &Ingress,
    host: &str,
    paths: &[&IngressPath],
) -> Option<Value> {
    let first = paths.first().map(|path| &path.backend);
    let first = first.or(ingress.default_backend.as_ref())?;
    let backend = backend(place, &ingress.name.namespace, first).ok()?;
    let name = format!("{}-{}", ingress.name.name, host.replace('*', "any"));
    Some(json!({
        "apiVersion": GATEWAY_API,
        "kind": "TLSRoute",
        "metadata": metadata(&ingress.name.namespace, &name),
        "spec": {
            "parentRefs": [hosts.parent(host, "https", place.gateway)],
            "hostnames": [host],
            "rules": [{"backendRefs": [backend]}],
        },
    }))
}

/// The names of the Services of an Ingress.
fn services(ingress: &Ingress) -> BTreeSet<&str> {
    let paths = ingress.rules.iter().flat_map(|rule| &rule.paths);
    let backends = paths.map(|path| &path.backend);
    let backends = backends.chain(&ingress.default_backend);
    let names = backends.filter_map(|backend| match backend {
        IngressBackend::Service { name, .. } => Some(&**name),
        IngressBackend::Resource { .. } => None,
    });
    names.collect()
}

/// Reports what the protocol of the backends needs.
fn note_backends(read: &Read<'_>, migration: &mut Migration) {
    let upstream = &read.settings.upstream;
    let services: Vec<&str> = services(read.ingress).into_iter().collect();
    let services = services.join(", ");
    let protocol = upstream.protocol;
    if protocol.is_http2() {
        let text =
            format!("set `appProtocol: kubernetes.io/h2c` at the port of Service {services}");
        migration.note(read.ingress, "backend-protocol", text);
    }
    if protocol.is_tls() {
        let text = format!(
            "certificates of backends are always verified: make the ConfigMaps of the BackendTLSPolicies of {services}, \
             with the CA certificates in `ca.crt`"
        );
        migration.note(read.ingress, "backend-protocol", text);
    }
    if upstream.tls.identity.is_some() {
        let text = "a Gateway has one certificate for all backends (`spec.tls.backend`)";
        migration.note(read.ingress, "proxy-ssl-secret", text);
    }
    if protocol != UpstreamProtocol::Http || upstream.tls.trust == Trust::Unverified {
        return;
    }
    migration.note(
        read.ingress,
        "proxy-ssl-verify",
        "has no effect without HTTPS",
    );
}

/// BackendTLSPolicies for the Services of an Ingress.
fn backend_tls(read: &Read<'_>) -> Vec<Value> {
    let upstream = &read.settings.upstream;
    if !upstream.protocol.is_tls() {
        return Vec::new();
    }
    let namespace = &read.ingress.name.namespace;
    let policies = services(read.ingress).into_iter().map(|service| {
        let own = || format!("{service}.{namespace}.svc");
        let name = upstream.tls.name.clone().unwrap_or_else(own);
        let authorities = format!("{service}-ca");
        json!({
            "apiVersion": GATEWAY_API,
            "kind": "BackendTLSPolicy",
            "metadata": metadata(namespace, service),
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": service}],
                "validation": {
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": authorities}],
                    "hostname": name,
                },
            },
        })
    });
    policies.collect()
}
