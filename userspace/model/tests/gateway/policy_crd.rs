//! The definition of RoutePolicies in the manifests.

use headgate_model::{
    gateway::{
        PolicyField,
        object::{RoutePolicyDocument, TargetKind, route_policy_crd},
        policy_fields,
    },
    ingress::ANNOTATIONS,
};
use serde_json::{Value, json};

const WRITTEN: &str = include_str!("../../../../deploy/gateway/routepolicies.yaml");

/// Keys of a structural schema that the definition uses.
const KEYS: [&str; 12] = [
    "type",
    "description",
    "properties",
    "required",
    "items",
    "enum",
    "format",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "additionalProperties",
];

#[test]
fn l182_the_manifests_have_the_definition_that_the_types_make() {
    let made = format!(
        "# Made from the types by the test of this file: edit those.\n{}",
        yaml_serde::to_string(&route_policy_crd()).unwrap()
    );
    if std::env::var_os("HG_WRITE").is_some() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/gateway/routepolicies.yaml"
        );
        std::fs::write(path, &made).unwrap();
    }
    assert!(
        WRITTEN == made,
        "deploy/gateway/routepolicies.yaml differs from the types; `HG_WRITE=1` writes it"
    );
    let crd = route_policy_crd();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_structural("", schema);
}

/// The API server rejects other definitions.
fn assert_structural(path: &str, schema: &Value) {
    let keys = schema.as_object().unwrap();
    for key in keys.keys() {
        let is_known = KEYS.contains(&key.as_str()) || key.starts_with("x-kubernetes-");
        assert!(is_known, "{path} has {key}");
    }
    assert!(keys["type"].is_string(), "{path} has no type");
    let is_both = keys.contains_key("properties") && keys.contains_key("additionalProperties");
    assert!(!is_both, "{path} has both");
    for key in ["items", "additionalProperties"] {
        let schema = keys.get(key).into_iter();
        schema.for_each(|schema| assert_structural(&format!("{path}.{key}"), schema));
    }
    let properties = keys.get("properties").and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        assert_structural(&format!("{path}.{name}"), schema);
    }
}

/// Every field that the definition has is read.
#[test]
fn l183_every_field_of_a_policy_has_a_meaning() {
    let crd = route_policy_crd();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let read: Vec<_> = policy_fields().collect();
    let mut leaves = Vec::new();
    collect("", spec, &mut leaves);
    for leaf in &leaves {
        let is_read = read.iter().any(|field| field.path == leaf);
        assert!(
            is_read || leaf.starts_with("targetRefs"),
            "{leaf} is not read"
        );
    }
    for PolicyField {
        path, annotation, ..
    } in read
    {
        let is_field = leaves.iter().any(|leaf| leaf.starts_with(path));
        assert!(is_field, "{path} is not a field");
        let mut known = ANNOTATIONS.iter();
        assert!(known.any(|known| known.name == annotation), "{annotation}");
    }
    // A field that no version has.
    let document = json!({
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a", "new": 1}, {"kind": 1}],
        "limits": {"requestsPerSecnod": 5},
    });
    let document: RoutePolicyDocument = serde_json::from_value(document).unwrap();
    assert!(document.spec.is_err());
    assert_eq!(document.targets.len(), 1);
    assert_eq!(document.targets[0].kind, TargetKind::Gateway);
}

fn collect(path: &str, schema: &Value, leaves: &mut Vec<String>) {
    match schema.get("properties").and_then(Value::as_object) {
        None => leaves.push(path.to_owned()),
        Some(properties) => {
            for (name, schema) in properties {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                collect(&path, schema, leaves);
            }
        }
    }
}
