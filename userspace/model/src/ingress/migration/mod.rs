//! The way over: Ingresses as objects of the Gateway API, with RoutePolicies for what that has no field for.
//!
//! An Ingress with a guard that has no equal is left out: its requests must not pass without the guard.

mod hosts;
mod policy;
mod routes;
mod rules;

use std::fmt;

use serde_json::{Value, json};

use super::{
    Ingress, Objects,
    annotations::{self, Context, NGINX, OWN, Settings, Support, support},
    owners::age,
};
use crate::{NamespacedName, edge::Auth};
use hosts::Hosts;
use routes::{Canaries, Claims};

/// Objects of the Gateway API, and what they lack.
#[derive(Debug, Default)]
pub struct Migration {
    /// The objects.
    pub documents: Vec<Value>,
    /// What has no equal, or differs.
    pub notes: Vec<Note>,
}

/// What a part of an Ingress lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The Ingress.
    pub ingress: NamespacedName,
    /// An annotation or a field.
    pub part: String,
    /// The difference, or what is to be done.
    pub text: String,
}

/// An Ingress that is printed.
struct Read<'a> {
    ingress: &'a Ingress,
    settings: Settings,
}

/// Where the objects go.
#[derive(Clone, Copy)]
struct Place<'a> {
    objects: &'a Objects,
    gateway: &'a NamespacedName,
}

/// Returns the objects of the Gateway API for all Ingresses, whatever their class: a Gateway, ListenerSets for their
/// hosts, routes and policies.
pub fn to_gateway(objects: &Objects, gateway: &NamespacedName, class: &str) -> Migration {
    let mut migration = Migration::default();
    let mut ingresses: Vec<&Ingress> = objects.ingresses.values().collect();
    ingresses.sort_by_cached_key(|ingress| age(ingress));
    let read: Vec<Read<'_>> = ingresses
        .into_iter()
        .filter_map(|ingress| migration.read(objects, ingress))
        .collect();
    let place = Place { objects, gateway };
    let (canaries, mains): (Vec<_>, Vec<_>) = read
        .into_iter()
        .partition(|one| one.settings.canary.is_some());
    let hosts = Hosts::new(&mains, &mut migration);
    migration.documents.push(json!({
        "apiVersion": GATEWAY_API,
        "kind": "Gateway",
        "metadata": metadata(&gateway.namespace, &gateway.name),
        "spec": {
            "gatewayClassName": class,
            "listeners": [{
                "name": "http",
                "port": 80,
                "protocol": "HTTP",
                "allowedRoutes": {"namespaces": {"from": "All"}},
            }],
            "allowedListeners": {"namespaces": {"from": "All"}},
        },
    }));
    migration.documents.extend(hosts.listener_sets(gateway));
    let mut canaries = Canaries::new(&canaries);
    let mut claims = Claims::new(&mains);
    for main in &mains {
        routes::print(
            place,
            &hosts,
            &mut canaries,
            &mut claims,
            main,
            &mut migration,
        );
    }
    canaries.note_rest(&mut migration);
    migration
}

/// `apiVersion` of most objects.
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

fn metadata(namespace: &str, name: &str) -> Value {
    json!({"name": name, "namespace": namespace})
}

impl Note {
    /// Whether the Ingress is left out.
    fn is_left_out(&self) -> bool {
        self.text.starts_with(LEFT_OUT)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Ingress {}", self.ingress)?;
        if !self.part.is_empty() {
            write!(out, ": {}", self.part)?;
        }
        write!(out, ": {}", self.text)
    }
}

/// Annotations that neither a route nor a policy has a field for, each with the value that asks for nothing.
const WITHOUT_EQUAL: [(&str, &str); 12] = [
    ("custom-http-errors", ""),
    ("default-backend", ""),
    ("enable-access-log", "true"),
    ("enable-opentelemetry", "true"),
    ("max-requests", ""),
    ("opentelemetry-trust-incoming-span", "true"),
    ("outlier-ejection", ""),
    ("outlier-failures", ""),
    ("proxy-protocol", "false"),
    ("service-upstream", "false"),
    ("slow-start", "0s"),
    ("weights", ""),
];

/// Whether an annotation asks for something that is not printed.
fn is_without_equal(key: &str, value: &str) -> bool {
    let name = key.strip_prefix(NGINX).or(key.strip_prefix(OWN));
    let is_meant = |(without, nothing): &(&str, &str)| {
        name == Some(*without) && !value.trim().eq_ignore_ascii_case(nothing)
    };
    WITHOUT_EQUAL.iter().any(is_meant)
}

/// Begin of the notes about Ingresses that are left out.
const LEFT_OUT: &str = "NOT PRINTED: ";

impl Migration {
    /// Whether an Ingress is left out.
    pub fn lacks_ingress(&self) -> bool {
        self.notes.iter().any(Note::is_left_out)
    }

    fn leave_out(&mut self, ingress: &Ingress, reason: impl fmt::Display) {
        self.note(ingress, "", format!("{LEFT_OUT}{reason}"));
    }

    fn note(&mut self, ingress: &Ingress, part: impl Into<String>, text: impl Into<String>) {
        let note = Note {
            ingress: ingress.name.clone(),
            part: part.into(),
            text: text.into(),
        };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Reads an Ingress; `None` if it is not printed.
    fn read<'a>(&mut self, objects: &Objects, ingress: &'a Ingress) -> Option<Read<'a>> {
        for (key, support) in support(&ingress.annotations) {
            let value = ingress.annotations.get(&key).map_or("", |value| value);
            match support {
                Support::Unsupported(instead) | Support::Closes(instead) => {
                    self.note(ingress, key, instead);
                }
                Support::Same | Support::Different(_) if is_without_equal(&key, value) => {
                    self.note(ingress, key, "has no equal");
                }
                Support::Same | Support::Different(_) => {}
            }
        }
        let mut refusals = Vec::new();
        let draft = annotations::read(&ingress.name, &ingress.annotations, &mut refusals);
        let context = Context {
            secrets: &objects.secrets,
            namespace: &ingress.name.namespace,
            auth_local: &[],
        };
        let mut settings = draft.finish(&context, &mut |_, _| {});
        let mut paths = ingress.rules.iter().flat_map(|rule| &rule.paths);
        settings.use_regex |= paths.any(|path| settings.rewrites(path));
        let is_certificate = |auth: &Auth| matches!(auth, Auth::Certificate(_));
        let reason = if let Some(reason) = &settings.policy.closed {
            format!("it is closed: {reason}")
        } else if settings.policy.auth.iter().any(is_certificate) {
            "certificates of clients are verified for a whole port of a Gateway (`spec.tls.frontend`)".into()
        } else if !settings.conditions.is_empty() {
            format!("`{OWN}match-…` have no equal here: write the matches of the route")
        } else {
            return Some(Read { ingress, settings });
        };
        self.leave_out(ingress, reason);
        None
    }
}
