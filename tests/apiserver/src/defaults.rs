//! Defaults of built-in kinds other than Service.

use serde_json::{Value, json};

use crate::resource::Resource;

/// The status of a new object.
pub(crate) fn initial_status(resource: &Resource) -> Value {
    if resource.custom().is_some() {
        return Value::Null;
    }
    match resource.table {
        "services" | "ingresses" => json!({"loadBalancer": {}}),
        "namespaces" => json!({"phase": "Active"}),
        "pods" => json!({"phase": "Pending"}),
        _ => json!({}),
    }
}

/// Fills in the defaults of built-in kinds other than Service.
pub(crate) fn complete(resource: &Resource, object: &mut Value) {
    match resource.table {
        "namespaces" => {
            let name = object["metadata"]["name"].clone();
            if !object["metadata"]["labels"].is_object() {
                object["metadata"]["labels"] = json!({});
            }
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        "secrets" => {
            if object["type"].is_null() {
                object["type"] = json!("Opaque");
            }
            write_string_data(object);
        }
        "endpointslices" => {
            for port in object["ports"].as_array_mut().into_iter().flatten() {
                for (field, default) in [("name", ""), ("protocol", "TCP")] {
                    if port[field].is_null() {
                        port[field] = json!(default);
                    }
                }
            }
        }
        _ => {}
    }
}

/// Moves `stringData`, which is write-only, base64-encoded into `data`.
fn write_string_data(secret: &mut Value) {
    use base64::Engine as _;
    let Some(plain) = secret.as_object_mut().and_then(|s| s.remove("stringData")) else {
        return;
    };
    for (name, text) in plain.as_object().into_iter().flatten() {
        let text = text.as_str().unwrap_or_default();
        if !secret["data"].is_object() {
            secret["data"] = json!({});
        }
        secret["data"][name] = json!(base64::engine::general_purpose::STANDARD.encode(text));
    }
}
