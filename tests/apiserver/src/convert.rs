//! Objects that exist in several versions are stored in one.
//!
//! Events exist in two API groups: they are stored as `v1` and translated to `events.k8s.io/v1`. The
//! versions of a custom resource differ only by their name.

use serde_json::{Value, json};

use crate::resource::Resource;

/// Stored name, name in `events.k8s.io/v1`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn is_translated(resource: &Resource) -> bool {
    resource.group == "events.k8s.io"
}

fn rename(object: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    if let Some(object) = object.as_object_mut() {
        for (from, to) in names {
            if let Some(value) = object.remove(from) {
                object.insert(to.to_owned(), value);
            }
        }
    }
}

/// Converts from the version of a request to the stored one.
pub(crate) fn to_stored(resource: &Resource, mut object: Value) -> Value {
    if is_translated(resource) {
        rename(
            &mut object,
            EVENT_FIELDS.iter().map(|(old, new)| (*new, *old)),
        );
        object["apiVersion"] = json!("v1");
    }
    if let Some(custom) = resource.custom() {
        object["apiVersion"] = json!(custom.stored);
    }
    object
}

/// Converts from the stored version to that of a request.
pub(crate) fn from_stored(resource: &Resource, mut object: Value) -> Value {
    if is_translated(resource) {
        rename(&mut object, EVENT_FIELDS.iter().copied());
        object["apiVersion"] = json!("events.k8s.io/v1");
    }
    if resource.custom().is_some() {
        object["apiVersion"] = json!(resource.api_version());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::find;

    #[test]
    fn events_survive_conversion_in_both_directions() {
        let events = find("events.k8s.io", "v1", "events").unwrap();
        let new =
            json!({"apiVersion": "events.k8s.io/v1", "note": "n", "regarding": {"name": "a"}});
        let stored = to_stored(&events, new.clone());
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(from_stored(&events, stored), new);
    }
}
