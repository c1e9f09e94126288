//! The CustomResourceDefinition of RoutePolicies.

use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Value, json};

use super::{POLICY_GROUP, RoutePolicySpec};

/// Returns the CustomResourceDefinition of RoutePolicies, made from their type.
pub fn route_policy_crd() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let spec = settings
        .into_generator()
        .into_root_schema_for::<RoutePolicySpec>();
    let mut spec = Schema::to_value(spec);
    make_structural(&mut spec);
    let condition = json!({
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "format": "int64"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "reason": {"type": "string"},
            "message": {"type": "string"},
        },
    });
    let texts = ["group", "kind", "namespace", "name", "sectionName"];
    let texts = texts.map(|name| (name.to_owned(), json!({"type": "string"})));
    let mut reference: serde_json::Map<String, Value> = texts.into_iter().collect();
    reference.insert("port".into(), json!({"type": "integer", "format": "int32"}));
    let status = json!({
        "type": "object",
        "description": "By Gateway: whether the policy is served.",
        "properties": {"ancestors": {"type": "array", "maxItems": 16, "items": {
            "type": "object",
            "required": ["ancestorRef", "controllerName"],
            "properties": {
                "ancestorRef": {"type": "object", "required": ["name"], "properties": reference},
                "controllerName": {"type": "string"},
                "conditions": {
                    "type": "array",
                    "items": condition,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                },
            },
        }}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "routepolicies.headgate.io",
            "labels": {"gateway.networking.k8s.io/policy": "Inherited"},
        },
        "spec": {
            "group": POLICY_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "RoutePolicy",
                "listKind": "RoutePolicyList",
                "plural": "routepolicies",
                "singular": "routepolicy",
                "categories": ["gateway-api"],
            },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{
                    "name": "Age",
                    "type": "date",
                    "jsonPath": ".metadata.creationTimestamp",
                }],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "Access rules and other settings for requests of routes.",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                        "status": status,
                    },
                }},
            }],
        },
    })
}

/// Makes a JSON schema structural, as definitions of custom resources need it. The API server keeps unknown fields:
/// if it removed one, a policy would be served without the guard that the field asks for.
fn make_structural(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    fields.remove("title");
    let is_null = |one: &Value| one.is_null() || one.get("type") == Some(&json!("null"));
    // An optional field may be absent; `null` is the same.
    if let Some(Value::Array(types)) = fields.get("type") {
        let mut types = types.iter().filter(|one| **one != json!("null"));
        let type_ = types.next().cloned().unwrap_or_default();
        fields.insert("type".into(), type_);
    }
    if let Some(Value::Array(mut all)) = fields.remove("anyOf") {
        all.retain(|one| !is_null(one));
        if let Some(Value::Object(one)) = all.pop() {
            for (key, value) in one {
                fields.entry(key).or_insert(value);
            }
            fields.remove("title");
        }
    }
    if let Some(Value::Array(all)) = fields.remove("oneOf") {
        let values = all.iter().filter_map(|one| one.get("const").cloned());
        let values: Vec<Value> = values.collect();
        fields.insert("type".into(), json!("string"));
        fields.insert("enum".into(), values.into());
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if fields.get("format") == Some(&json!("uint32")) {
        fields.insert("format".into(), json!("int64"));
        fields.insert("maximum".into(), json!(u32::MAX));
    }
    if fields.contains_key("properties") {
        fields.remove("additionalProperties");
        fields.insert("x-kubernetes-preserve-unknown-fields".into(), json!(true));
    }
    for key in ["items", "additionalProperties"] {
        fields.get_mut(key).into_iter().for_each(make_structural);
    }
    let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
    for (_, schema) in properties.into_iter().flatten() {
        make_structural(schema);
    }
}
