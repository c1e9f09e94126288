//! Structural schemas of custom resources: unknown fields are pruned, defaults filled in, objects checked.

use serde_json::Value;

use crate::error::Cause;
use crate::schema_rules::Rules;

/// Fields that every object has, whatever its schema.
const TYPE_AND_METADATA: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The `openAPIV3Schema` of a version.
pub(crate) struct Schema {
    document: Value,
    rules: Rules,
}

impl Schema {
    pub(crate) fn new(document: &Value) -> Result<Self, String> {
        Ok(Self {
            document: document.clone(),
            rules: Rules::new(document)?,
        })
    }

    /// Drops the fields that the schema does not know, and returns their paths.
    pub(crate) fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(&self.document, object, "", &mut unknown);
        unknown
    }

    /// Fills in defaults, and drops nulls of fields that are not nullable.
    pub(crate) fn complete(&self, object: &mut Value) {
        complete(&self.document, object);
    }

    /// The reasons why an object cannot be stored. Those that the stored object has, too, are accepted, so
    /// that a stricter schema does not refuse changes of other fields.
    pub(crate) fn check(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = self.rules.check(object);
        check_lists(&self.document, object, "", &mut causes);
        if let Some(old) = old
            && !causes.is_empty()
        {
            let before = self.check(old, None);
            causes.retain(|cause| !before.contains(cause));
        }
        causes
    }
}

/// `spec` in the root, `spec.listeners` below `spec`.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The schema of the values of a map.
fn of_values(schema: &Value) -> Option<&Value> {
    let values = &schema["additionalProperties"];
    values.is_object().then_some(values)
}

fn is(schema: &Value, property: &str) -> bool {
    schema[property] == true
}

fn prune(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let keeps_unknown = is(schema, "x-kubernetes-preserve-unknown-fields")
                || is(schema, "additionalProperties");
            let is_resource = path.is_empty() || is(schema, "x-kubernetes-embedded-resource");
            fields.retain(|name, field| {
                if is_resource && TYPE_AND_METADATA.contains(&name.as_str()) {
                    return true;
                }
                let at = child(path, name);
                let known = schema["properties"].get(name).or(of_values(schema));
                match known {
                    Some(schema) => prune(schema, field, &at, unknown),
                    None if !keeps_unknown => unknown.push(at),
                    None => {}
                }
                known.is_some() || keeps_unknown
            });
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (index, item) in items.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn complete(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let properties = schema["properties"].as_object();
            for (name, property) in properties.into_iter().flatten() {
                if fields.get(name).is_some_and(Value::is_null) && !is(property, "nullable") {
                    fields.remove(name);
                }
                if let Some(default) = property.get("default")
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    complete(property, field);
                }
            }
            if let Some(schema) = of_values(schema) {
                fields
                    .values_mut()
                    .for_each(|field| complete(schema, field));
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| complete(&schema["items"], item)),
        _ => {}
    }
}

/// Finds items of a set that are equal, and items of a map with equal keys.
fn check_lists(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let known = schema["properties"].get(name).or(of_values(schema));
                if let Some(schema) = known {
                    check_lists(schema, field, &child(path, name), causes);
                }
            }
        }
        Value::Array(items) => {
            let identities = identities(schema, items);
            for (index, item) in items.iter().enumerate() {
                let at = format!("{path}[{index}]");
                if let Some(identity) = identities.get(index)
                    && identities[..index].contains(identity)
                {
                    causes.push(Cause::duplicate(&at, identity));
                }
                check_lists(&schema["items"], item, &at, causes);
            }
        }
        _ => {}
    }
}

/// What must be unique among the items of a list; nothing for an atomic list.
fn identities(schema: &Value, items: &[Value]) -> Vec<Value> {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => items.to_vec(),
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let keys: Vec<&str> = keys
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let of = |item: &Value| {
                let pairs = keys.iter().filter_map(|key| {
                    let value = item.get(key)?;
                    Some(((*key).to_owned(), value.clone()))
                });
                Value::Object(pairs.collect())
            };
            items.iter().map(of).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(spec: &Value) -> Schema {
        Schema::new(&json!({"type": "object", "properties": {"spec": spec}})).unwrap()
    }

    #[test]
    fn unknown_fields_are_pruned_and_named_by_path() {
        let schema = schema(&json!({"type": "object", "properties": {
            "known": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {
                "type": "object", "properties": {"a": {"type": "string"}}}},
            "any": {"type": "object", "additionalProperties": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"strict": {"type": "object"}}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true},
        }}));
        let mut object = json!({
            "apiVersion": "example.org/v1", "kind": "A", "metadata": {"name": "a"}, "data": 1,
            "spec": {
                "known": "k", "unknown": {"a": 1},
                "list": [{"a": "1"}, {"a": "1", "b": 2}],
                "map": {"key": {"a": "1", "b": 2}},
                "any": {"x": {"y": 1}},
                "free": {"x": {"y": 1}, "strict": {"z": 1}},
                "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
            },
        });
        let mut unknown = schema.prune(&mut object);
        unknown.sort();
        assert_eq!(
            unknown,
            [
                "data",
                "spec.free.strict.z",
                "spec.list[1].b",
                "spec.map.key.b",
                "spec.template.spec",
                "spec.unknown",
            ]
        );
        assert_eq!(
            object,
            json!({
                "apiVersion": "example.org/v1", "kind": "A", "metadata": {"name": "a"},
                "spec": {
                    "known": "k",
                    "list": [{"a": "1"}, {"a": "1"}],
                    "map": {"key": {"a": "1"}},
                    "any": {"x": {"y": 1}},
                    "free": {"x": {"y": 1}, "strict": {}},
                    "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}},
                },
            })
        );
    }

    #[test]
    fn defaults_fill_missing_fields_and_replace_nulls() {
        let schema = schema(&json!({"type": "object", "default": {}, "properties": {
            "port": {"type": "integer", "default": 80},
            "from": {"type": "object", "default": {"where": "Same"}, "properties": {
                "where": {"type": "string", "default": "All"},
                "other": {"type": "boolean", "default": true}}},
            "optional": {"type": "string"},
            "null": {"type": "string", "nullable": true, "default": "x"},
            "list": {"type": "array", "items": {"type": "object", "properties": {
                "weight": {"type": "integer", "default": 1}}}},
        }}));
        let from = json!({"where": "Same", "other": true});
        for (given, expected) in [
            (
                json!({}),
                json!({"spec": {"port": 80, "from": from, "null": "x"}}),
            ),
            (
                json!({"spec": {"port": null, "from": {}, "optional": null, "null": null,
                                "list": [{}, {"weight": 2}]}}),
                json!({"spec": {"port": 80, "from": {"where": "All", "other": true}, "null": null,
                                "list": [{"weight": 1}, {"weight": 2}]}}),
            ),
        ] {
            let mut object = given;
            schema.complete(&mut object);
            assert_eq!(object, expected);
        }
    }

    #[test]
    fn items_of_sets_and_maps_are_unique() {
        let schema = schema(&json!({"type": "object", "properties": {
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "map": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name", "port"], "items": {"type": "object"}},
            "atomic": {"type": "array", "items": {"type": "string"}},
        }}));
        let causes = schema.check(
            &json!({"spec": {
                "set": ["a", "b", "a"],
                "map": [{"name": "a", "port": 1}, {"name": "a", "port": 2}, {"port": 1, "name": "a", "x": 1}],
                "atomic": ["a", "a"],
            }}),
            None,
        );
        let mut texts: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        texts.sort();
        assert_eq!(
            texts,
            [
                r#"spec.map[2]: Duplicate value: {"name":"a","port":1}"#,
                r#"spec.set[2]: Duplicate value: "a""#,
            ]
        );
    }

    #[test]
    fn what_was_wrong_before_does_not_refuse_a_change() {
        let schema = schema(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1}}}));
        let old = json!({"spec": {"a": "long", "b": "b"}});
        assert_eq!(schema.check(&old, None).len(), 1);
        let next = json!({"spec": {"a": "long", "b": "c"}});
        assert_eq!(schema.check(&next, Some(&old)), []);
        let next = json!({"spec": {"a": "long", "b": "long"}});
        let causes = schema.check(&next, Some(&old));
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0].field, "spec.b");
    }
}
