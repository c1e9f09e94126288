//! The four kinds of PATCH, as functions from the current object and a patch to the next object.
//!
//! Strategic merge knows the merge keys of the fields in [`list_rule`], and treats every other
//! list as atomic. Server-side apply is a merge patch that also removes fields that the same manager
//! applied before and does not apply now. There is no ownership between managers and there are no
//! conflicts; lists are replaced as a whole.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::resource::Resource;

/// The kind of a PATCH, from its `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchKind {
    /// Custom resources have no Go type that says how to merge lists, so there is no strategic merge.
    pub(crate) fn of(resource: &Resource, media_type: &str) -> Result<Self, ApiError> {
        const CUSTOM: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
        const BUILT_IN: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
        let is_custom = resource.custom().is_some();
        match media_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if !is_custom => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(ApiError::unsupported_media_type(if is_custom {
                CUSTOM
            } else {
                BUILT_IN
            })),
        }
    }
}

/// A JSON patch (RFC 6902). A failed `test` or a missing path refuses the whole patch.
pub(crate) fn json_patch(current: &Value, patch: &Value) -> Result<Value, ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    let mut next = current.clone();
    json_patch::patch(&mut next, &patch).map_err(ApiError::patch_failed)?;
    Ok(next)
}

/// A JSON merge patch (RFC 7386).
pub(crate) fn merge_patch(current: &Value, patch: &Value) -> Value {
    let mut next = current.clone();
    json_patch::merge(&mut next, patch);
    next
}

/// Merges `patch`, and removes what `last`, the manager's previous patch, had and this one lacks.
pub(crate) fn apply_patch(current: &Value, last: Option<&Value>, patch: &Value) -> Value {
    let mut next = current.clone();
    if let Some(last) = last {
        remove_dropped(&mut next, last, patch);
    }
    json_patch::merge(&mut next, patch);
    next
}

fn remove_dropped(object: &mut Value, last: &Value, patch: &Value) {
    let (Some(object), Some(last)) = (object.as_object_mut(), last.as_object()) else {
        return;
    };
    for (field, before) in last {
        match patch.get(field) {
            None => {
                object.remove(field);
            }
            Some(now) => {
                if let Some(inner) = object.get_mut(field) {
                    remove_dropped(inner, before, now);
                }
            }
        }
    }
}

/// How a list is merged by a strategic merge patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListRule {
    /// Items with the same value of this field are merged.
    ByKey(&'static str),
    /// Values are added.
    Union,
    /// The new list replaces the old one.
    Replace,
}

/// `patchStrategy` and `patchMergeKey` of the Go types, for the lists that have them.
fn list_rule(kind: &str, path: &str) -> ListRule {
    match (kind, path) {
        (_, "metadata.ownerReferences") => ListRule::ByKey("uid"),
        (_, "metadata.finalizers") => ListRule::Union,
        (_, "status.conditions") | ("Node", "status.addresses") => ListRule::ByKey("type"),
        ("Service", "spec.ports") => ListRule::ByKey("port"),
        ("Node", "spec.podCIDRs") => ListRule::Union,
        ("Pod", "status.podIPs" | "status.hostIPs") => ListRule::ByKey("ip"),
        (
            "Pod",
            "spec.containers"
            | "spec.initContainers"
            | "spec.volumes"
            | "spec.imagePullSecrets"
            | "spec.containers.env"
            | "spec.initContainers.env",
        ) => ListRule::ByKey("name"),
        ("Pod", "spec.containers.ports" | "spec.initContainers.ports") => {
            ListRule::ByKey("containerPort")
        }
        ("Pod", "spec.containers.volumeMounts" | "spec.initContainers.volumeMounts") => {
            ListRule::ByKey("mountPath")
        }
        _ => ListRule::Replace,
    }
}

/// The Kubernetes strategic merge patch, with its directives.
pub(crate) fn strategic_merge(kind: &str, current: &Value, patch: &Value) -> Value {
    merge_value(kind, "", current, patch)
}

fn merge_value(kind: &str, path: &str, current: &Value, patch: &Value) -> Value {
    let Some(patch) = patch.as_object() else {
        return patch.clone();
    };
    let empty = Map::new();
    let mut next = match patch.get("$patch").and_then(Value::as_str) {
        Some("replace" | "delete") => empty.clone(),
        _ => current.as_object().unwrap_or(&empty).clone(),
    };
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        next.retain(|field, _| kept.iter().any(|k| k == field));
    }
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(items) = next.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if field.starts_with('$') {
            continue;
        }
        let at = if path.is_empty() {
            field.clone()
        } else {
            format!("{path}.{field}")
        };
        let before = next.get(field).unwrap_or(&Value::Null);
        let after = match value {
            Value::Null => {
                next.remove(field);
                continue;
            }
            Value::Array(items) => merge_list(kind, &at, before, items),
            _ => merge_value(kind, &at, before, value),
        };
        next.insert(field.clone(), after);
    }
    for (field, order) in patch {
        let Some(list) = field.strip_prefix("$setElementOrder/") else {
            continue;
        };
        let at = if path.is_empty() {
            list.to_owned()
        } else {
            format!("{path}.{list}")
        };
        let order = order.as_array().cloned().unwrap_or_default();
        if let Some(items) = next.get_mut(list).and_then(Value::as_array_mut) {
            let place = |item: &Value| {
                let same = |wanted: &Value| match list_rule(kind, &at) {
                    ListRule::ByKey(key) => wanted[key] == item[key],
                    ListRule::Union | ListRule::Replace => wanted == item,
                };
                order.iter().position(same).unwrap_or(usize::MAX)
            };
            items.sort_by_key(place);
        }
    }
    Value::Object(next)
}

fn merge_list(kind: &str, path: &str, current: &Value, patch: &[Value]) -> Value {
    let empty = Vec::new();
    let current = current.as_array().unwrap_or(&empty);
    let replaces = patch.iter().any(|item| item["$patch"] == "replace");
    let rule = if replaces {
        ListRule::Replace
    } else {
        list_rule(kind, path)
    };
    let mut next = current.clone();
    match rule {
        ListRule::Replace => {
            next = patch.to_vec();
            next.retain(|item| item.get("$patch").is_none());
        }
        ListRule::Union => {
            for item in patch {
                if !next.contains(item) {
                    next.push(item.clone());
                }
            }
        }
        ListRule::ByKey(key) => {
            for item in patch {
                let found = next.iter().position(|old| old[key] == item[key]);
                if item["$patch"] == "delete" {
                    next.retain(|old| old[key] != item[key]);
                } else if let Some(found) = found {
                    next[found] = merge_value(kind, path, &next[found], item);
                } else {
                    next.push(merge_value(kind, path, &Value::Null, item));
                }
            }
        }
    }
    Value::Array(next)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strategic_merge_joins_ports_by_their_number() {
        let current =
            json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/ports": [{"port": 82}, {"port": 80}],
            "ports": [{"port": 80, "name": "c"}, {"port": 82}, {"port": 81, "$patch": "delete"}],
        }});
        assert_eq!(
            strategic_merge("Service", &current, &patch),
            json!({"spec": {"ports": [{"port": 82}, {"port": 80, "name": "c"}]}})
        );
    }

    #[test]
    fn strategic_merge_of_a_list_without_key_replaces_it() {
        let current = json!({"endpoints": [{"addresses": ["10.0.0.1"]}]});
        let patch = json!({"endpoints": [{"addresses": ["10.0.0.2"]}]});
        assert_eq!(strategic_merge("EndpointSlice", &current, &patch), patch);
    }

    #[test]
    fn null_removes_and_directives_leave_no_trace() {
        let current = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]}});
        let patch = json!({"metadata": {
            "labels": {"a": null, "b": "2"},
            "$deleteFromPrimitiveList/finalizers": ["x"],
        }});
        assert_eq!(
            strategic_merge("Service", &current, &patch),
            json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["y"]}})
        );
    }

    #[test]
    fn apply_removes_fields_that_its_manager_no_longer_applies() {
        let current = json!({"metadata": {"labels": {"a": "1", "other": "x"}}, "spec": {"p": 1}});
        let last = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"p": 1}});
        let next = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"p": 2}});
        assert_eq!(
            apply_patch(&current, Some(&last), &next),
            json!({"metadata": {"labels": {"b": "2", "other": "x"}}, "spec": {"p": 2}})
        );
    }

    #[test]
    fn a_failed_test_refuses_a_json_patch() {
        let patch = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert_eq!(json_patch(&json!({"a": 1}), &patch).unwrap_err().code, 422);
        let patch = json!([{"op": "replace", "path": "/a", "value": 2}]);
        assert_eq!(
            json_patch(&json!({"a": 1}), &patch).unwrap(),
            json!({"a": 2})
        );
    }
}
