//! Hosts and their listeners. Each host has its own, so that no other one gets its requests, as with Ingresses.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{GATEWAY_API, Migration, Read, metadata};
use crate::{
    NamespacedName,
    edge::for_host,
    ingress::{Ingress, certificates::named_hosts},
};

/// Most listeners of a ListenerSet.
const MOST_LISTENERS: usize = 64;

/// A host.
pub(super) struct Host {
    namespace: String,
    /// Whether `spec.tls` names it.
    pub(super) is_secure: bool,
    /// The Secret with its certificate.
    secret: Option<String>,
    pub(super) is_passed: bool,
    /// The number of its ListenerSet; those of a namespace are numbered.
    set: usize,
}

impl Host {
    pub(super) fn has_https(&self) -> bool {
        self.secret.is_some()
    }
}

/// All hosts, by name.
pub(super) struct Hosts(BTreeMap<String, Host>);

impl Hosts {
    /// A host belongs to the namespace of the oldest Ingress that has it.
    pub(super) fn new(mains: &[Read<'_>], migration: &mut Migration) -> Self {
        let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
        // By namespace and host; `None` for the default certificate.
        let mut named: BTreeMap<(&str, String), Option<&String>> = BTreeMap::new();
        for Read { ingress, .. } in mains {
            for tls in &ingress.tls {
                for host in named_hosts(ingress, &tls.hosts) {
                    let key = (&*ingress.name.namespace, host);
                    let known = named.entry(key).or_default();
                    *known = known.or(tls.secret.as_ref());
                }
            }
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for Read { ingress, settings } in mains {
            let namespace = &*ingress.name.namespace;
            for name in names(ingress, &settings.aliases) {
                if hosts.contains_key(&name) {
                    continue;
                }
                let of = |host: &str| named.get(&(namespace, host.to_owned())).copied();
                let known = for_host(&name, of);
                let secret = known.flatten().or_else(|| of("").flatten());
                let is_passed = settings.passthrough && !name.is_empty();
                if known.is_some() && secret.is_none() && !is_passed {
                    let text = format!(
                        "host `{name}` has no Secret with a certificate, so it has no HTTPS"
                    );
                    migration.note(ingress, "spec.tls", text);
                }
                if name.starts_with("*.") {
                    let text = format!("`{name}` has hosts with any number of labels at a Gateway");
                    migration.note(ingress, "spec.rules", text);
                }
                let count = counts.entry(namespace).or_default();
                let host = Host {
                    namespace: namespace.to_owned(),
                    is_secure: known.is_some(),
                    secret: secret.cloned(),
                    is_passed,
                    set: *count / (MOST_LISTENERS / 2),
                };
                *count += 1;
                hosts.insert(name, host);
            }
        }
        Self(hosts)
    }

    /// A host, if it belongs to a namespace.
    pub(super) fn of(&self, name: &str, namespace: &str) -> Option<&Host> {
        let host = self.0.get(name);
        host.filter(|host| host.namespace == namespace)
    }

    /// The namespace that a host belongs to.
    pub(super) fn owner(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |host| &host.namespace)
    }

    /// A listener of a host as a parent of routes.
    pub(super) fn parent(&self, name: &str, scheme: &str, gateway: &NamespacedName) -> Value {
        let set = self.0.get(name).map_or(0, |host| host.set);
        match (name, scheme) {
            ("", "http") => json!({
                "name": gateway.name,
                "namespace": gateway.namespace,
                "sectionName": "http",
            }),
            _ => json!({
                "kind": "ListenerSet",
                "name": set_name(gateway, set),
                "sectionName": listener_name(scheme, name),
            }),
        }
    }

    /// ListenerSets, in the namespaces of the hosts.
    pub(super) fn listener_sets(&self, gateway: &NamespacedName) -> Vec<Value> {
        let mut sets: BTreeMap<(&str, usize), Vec<Value>> = BTreeMap::new();
        for (name, host) in &self.0 {
            let listeners = sets.entry((&host.namespace, host.set)).or_default();
            if !name.is_empty() && !host.is_passed {
                listeners.push(listener(
                    name,
                    "http",
                    json!({"port": 80, "protocol": "HTTP"}),
                ));
            }
            if host.is_passed {
                let tls = json!({"port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}});
                listeners.push(listener(name, "https", tls));
            } else if let Some(secret) = &host.secret {
                let tls = json!({"certificateRefs": [{"name": secret}]});
                let https = json!({"port": 443, "protocol": "HTTPS", "tls": tls});
                listeners.push(listener(name, "https", https));
            }
        }
        let sets = sets
            .into_iter()
            .filter(|(_, listeners)| !listeners.is_empty());
        let sets = sets.map(|((namespace, number), listeners)| {
            json!({
                "apiVersion": GATEWAY_API,
                "kind": "ListenerSet",
                "metadata": metadata(namespace, &set_name(gateway, number)),
                "spec": {
                    "parentRef": {
                        "group": "gateway.networking.k8s.io",
                        "kind": "Gateway",
                        "name": gateway.name,
                        "namespace": gateway.namespace,
                    },
                    "listeners": listeners,
                },
            })
        });
        sets.collect()
    }
}

/// Hosts of the rules of an Ingress, and of its default backend.
fn names(ingress: &Ingress, aliases: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ingress.rules.iter().map(|rule| rule.host.clone()).collect();
    if names.is_empty() && ingress.default_backend.is_some() {
        names.push(String::new());
    }
    names.extend(aliases.iter().cloned());
    names
}

fn set_name(gateway: &NamespacedName, number: usize) -> String {
    match number {
        0 => gateway.name.clone(),
        number => format!("{}-{}", gateway.name, number + 1),
    }
}

fn listener_name(scheme: &str, host: &str) -> String {
    match host {
        "" => scheme.to_owned(),
        host => format!("{scheme}-{}", host.replace('*', "any")),
    }
}

fn listener(host: &str, scheme: &str, mut listener: Value) -> Value {
    listener["name"] = listener_name(scheme, host).into();
    if !host.is_empty() {
        listener["hostname"] = host.into();
    }
    listener
}
