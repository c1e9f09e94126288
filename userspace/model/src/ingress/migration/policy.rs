//! RoutePolicies for settings that the Gateway API has no field for.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Read, metadata};
use crate::{
    edge::Policy,
    gateway::{
        PolicyField,
        object::{POLICY_GROUP, route_policy_crd},
        policy_fields,
    },
    ingress::{
        Ingress,
        annotations::{NGINX, OWN},
    },
};

/// Most targets of a policy.
const MOST_TARGETS: usize = 16;

/// Names that are not those of fields.
const OTHER_NAMES: [(&str, &str); 3] = [
    ("whitelist-source-range", "allowlist-source-range"),
    ("limit-whitelist", "limit-allowlist"),
    ("session-cookie-expires", "session-cookie-max-age"),
];

/// The values of the annotations of an Ingress, by their names. Own ones replace those of ingress-nginx, and newer names
/// the older ones.
fn values(ingress: &Ingress) -> BTreeMap<&str, &str> {
    let mut values = BTreeMap::new();
    for prefix in [NGINX, OWN] {
        for (key, text) in &ingress.annotations {
            if let Some(name) = key.strip_prefix(prefix) {
                values.insert(name, text.trim());
            }
        }
    }
    for (older, name) in OTHER_NAMES {
        if let Some(text) = values.remove(older) {
            values.entry(name).or_insert(text);
        }
    }
    values
}

/// The settings of the policy for the routes of an Ingress: what it asks for, and what every Ingress has.
pub(super) fn settings(read: &Read<'_>) -> Value {
    let defaults = Policy::default();
    let size = defaults.limits.body_bytes.unwrap_or_default();
    let mut spec = json!({
        "maxBodySize": size.to_string(),
        "hsts": defaults.hsts,
        "retry": {"when": ["error", "timeout"], "tries": defaults.retry.tries},
    });
    let crd = route_policy_crd();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let values = values(read.ingress);
    let auth_type = values.get("auth-type").copied();
    let kinds = policy_fields().filter(|field| field.annotation == "auth-type");
    let kind = kinds.into_iter().find(|field| field.value == auth_type);
    for field in policy_fields() {
        let section = field.path.split('.').next().unwrap_or_default();
        let is_meant = match section {
            // One of the ways, and what all of them have.
            "authentication" => {
                let is_shared = field.path.starts_with("authentication.external.")
                    || field.path == "authentication.caSecret";
                let is_of_kind = kind.is_some_and(|kind| {
                    let rest = field.path.strip_prefix(kind.path);
                    rest.is_some_and(|rest| rest.starts_with('.'))
                });
                !read.settings.policy.auth.is_empty() && (is_shared || is_of_kind)
            }
            "affinity" => read.settings.upstream.sticky.is_some(),
            "rewriteTarget" => false,
            "healthCheck" => read.settings.upstream.probe.is_some(),
            _ => true,
        };
        if let Some(text) = values.get(field.annotation).filter(|_| is_meant) {
            put(&mut spec, &field, typed(schema, field.path, text));
        }
    }
    spec
}

/// Puts a value at the path of a field.
fn put(spec: &mut Value, field: &PolicyField, value: Value) {
    let mut place = spec;
    for name in field.path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = match field.value {
        Some(_) => Value::Object(Map::new()),
        None => value,
    };
}

/// The value of an annotation as its field has it.
fn typed(schema: &Value, path: &str, text: &str) -> Value {
    let mut schema = schema;
    for name in path.split('.') {
        schema = &schema["properties"][name];
    }
    let items = |text: &str| -> Vec<String> {
        let is_separator = |one: char| one == ',' || one.is_whitespace();
        let items = text.split(is_separator).filter(|item| !item.is_empty());
        items.map(Into::into).collect()
    };
    match schema["type"].as_str() {
        Some("integer") => text
            .parse::<u32>()
            .map_or_else(|_| json!(text), Value::from),
        Some("boolean") => json!(["1", "t", "T", "true", "TRUE", "True", "on"].contains(&text)),
        Some("array") => json!(items(text)),
        Some("object") => {
            let items = items(text);
            let pairs = items.iter().filter_map(|item| item.split_once('='));
            pairs
                .map(|(key, value)| (key.to_owned(), json!(value)))
                .collect()
        }
        _ => json!(text),
    }
}

/// A target of a policy.
pub(super) fn target(kind: &str, name: &str, section: Option<&str>) -> Value {
    let mut target = json!({
        "group": "gateway.networking.k8s.io",
        "kind": kind,
        "name": name,
    });
    if let Some(section) = section {
        target["sectionName"] = section.into();
    }
    target
}

/// Policies with these settings for all targets.
pub(super) fn documents(
    namespace: &str,
    name: &str,
    targets: &[Value],
    settings: &Value,
) -> Vec<Value> {
    let chunks = targets.chunks(MOST_TARGETS).enumerate();
    let policies = chunks.map(|(number, targets)| {
        let name = match number {
            0 => name.to_owned(),
            number => format!("{name}-{}", number + 1),
        };
        let mut spec = settings.clone();
        spec["targetRefs"] = json!(targets);
        json!({
            "apiVersion": format!("{POLICY_GROUP}/v1alpha1"),
            "kind": "RoutePolicy",
            "metadata": metadata(namespace, &name),
            "spec": spec,
        })
    });
    policies.collect()
}
