//! CustomResourceDefinitions: checks, status, and what follows a change of one.
//!
//! The controllers of the real server set the status and delete the objects of a deleted definition a
//! moment later; here both are done at once, as part of the write.

use serde_json::{Value, json};

use crate::custom;
use crate::deletion::Preconditions;
use crate::error::{ApiError, Cause};
use crate::operations::{Write, now};
use crate::resource::{Resource, intern};
use crate::storage::{Key, State};

/// The table of definitions.
pub(crate) const TABLE: &str = "customresourcedefinitions";
/// Holds a deleted definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Annotation that definitions need in groups of the Kubernetes project.
const APPROVED: &str = "api-approved.kubernetes.io";

fn key(name: &str) -> Key {
    Key {
        table: TABLE,
        namespace: String::new(),
        name: name.to_owned(),
    }
}

/// Fills in defaults and the status of a definition. Returns its resources if they changed.
///
/// # Errors
///
/// The reasons why it cannot be stored.
pub(crate) fn admit(
    definition: &mut Value,
    old: Option<&Value>,
) -> Result<Option<Vec<Resource>>, Vec<Cause>> {
    complete(definition);
    set_status(definition);
    if old.is_some_and(|old| old["spec"] == definition["spec"]) {
        return Ok(None);
    }
    let causes = check(definition);
    if causes.is_empty() {
        custom::resources(definition).map(Some)
    } else {
        Err(causes)
    }
}

fn complete(definition: &mut Value) {
    let spec = &mut definition["spec"];
    let names = &mut spec["names"];
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    if names["singular"].is_null() {
        names["singular"] = json!(kind.to_lowercase());
    }
    if names["listKind"].is_null() {
        names["listKind"] = json!(format!("{kind}List"));
    }
    if spec["conversion"].is_null() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    whole_numbers(spec);
}

/// Writes whole numbers without a fraction, as the API does. The typed schema has only floats.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            // Larger ones have no exact integer.
            if let Some(float) = number.as_f64()
                && float.fract() == 0.0
                && float.abs() < 9e15
            {
                *value = json!(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// The reasons why a definition cannot be stored, except for those in its schemas.
fn check(definition: &Value) -> Vec<Cause> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let mut causes = Vec::new();
    for (field, value) in [
        ("spec.group", &group),
        ("spec.names.plural", &plural),
        ("spec.names.kind", &text(&spec["names"]["kind"])),
    ] {
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if !group.is_empty() && !group.contains('.') {
        let why = "should be a domain with at least one dot";
        causes.push(Cause::invalid("spec.group", &spec["group"], why));
    }
    let name = &definition["metadata"]["name"];
    if *name != format!("{plural}.{group}") {
        let why = r#"must be spec.names.plural+"."+spec.group"#;
        causes.push(Cause::invalid("metadata.name", name, why));
    }
    let scopes = ["Cluster", "Namespaced"];
    if !scopes.contains(&text(&spec["scope"]).as_str()) {
        causes.push(Cause::not_supported("spec.scope", &spec["scope"], &scopes));
    }
    let versions = spec["versions"].as_array().into_iter().flatten();
    if versions
        .filter(|version| version["storage"] == true)
        .count()
        != 1
    {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], why));
    }
    let is_protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    if is_protected && definition["metadata"]["annotations"][APPROVED].is_null() {
        causes.push(Cause::required(
            format!("metadata.annotations[{APPROVED}]"),
            &format!(
                "protected groups must have approval annotation \"{APPROVED}\", see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ));
    }
    causes
}

/// Accepts the names, and records the storage version. Other conditions stay.
fn set_status(definition: &mut Value) {
    let spec = &definition["spec"];
    let names = spec["names"].clone();
    let versions = spec["versions"].as_array().into_iter().flatten();
    let storage = versions
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .next();
    let status = &mut definition["status"];
    status["acceptedNames"] = names;
    if let Some(storage) = storage {
        let versions = array(&mut status["storedVersions"]);
        if !versions.contains(&storage) {
            versions.push(storage);
        }
    }
    let accepted = ("NamesAccepted", "NoConflicts", "no conflicts found");
    let established = (
        "Established",
        "InitialNamesAccepted",
        "the initial names have been accepted",
    );
    for (kind, reason, message) in [accepted, established] {
        set_condition(status, kind, reason, message);
    }
}

/// Sets a condition to true, unless it is already.
fn set_condition(status: &mut Value, kind: &str, reason: &str, message: &str) {
    let conditions = array(&mut status["conditions"]);
    if conditions
        .iter()
        .any(|one| one["type"] == kind && one["status"] == "True")
    {
        return;
    }
    conditions.retain(|one| one["type"] != kind);
    conditions.push(json!({
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": now(),
    }));
}

/// A list in a field, made if it is missing.
fn array(field: &mut Value) -> &mut Vec<Value> {
    if !field.is_array() {
        *field = json!([]);
    }
    match field {
        Value::Array(items) => items,
        _ => unreachable!("it is an array"),
    }
}

/// Whether the definition of a table is deleted and waits for its objects.
pub(crate) fn is_terminating(state: &State, table: &str) -> bool {
    state
        .get(&key(table))
        .is_some_and(|definition| !definition["metadata"]["deletionTimestamp"].is_null())
}

/// Marks a definition as deleted, and deletes its objects. Objects with finalizers hold it.
pub(crate) fn terminate(write: &Write, state: &mut State, name: &str) -> Result<(), ApiError> {
    let key = key(name);
    if let Some(definition) = state.get(&key).cloned()
        && !is_terminating(state, name)
    {
        let mut marked = Value::clone(&definition);
        let metadata = &mut marked["metadata"];
        metadata["deletionTimestamp"] = json!(now());
        metadata["deletionGracePeriodSeconds"] = json!(0);
        array(&mut metadata["finalizers"]).push(json!(CLEANUP));
        set_condition(
            &mut marked["status"],
            "Terminating",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        );
        state.put(&key, marked);
    }
    let table = intern(name);
    let resource = state.resources.iter().find(|r| r.table == table).cloned();
    for object in state.list(table, None) {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        let name = metadata["name"].as_str().unwrap_or_default();
        if let Some(resource) = &resource {
            let only_if = Preconditions::default();
            write.delete(state, resource, namespace, name, &only_if)?;
        }
    }
    settle(state, table);
    Ok(())
}

/// Removes a deleted definition after its last object.
pub(crate) fn settle(state: &mut State, table: &'static str) {
    if !is_terminating(state, table) || state.has_objects(table) {
        return;
    }
    let key = key(table);
    let Some(definition) = state.get(&key) else {
        return;
    };
    let mut next = Value::clone(definition);
    let finalizers = array(&mut next["metadata"]["finalizers"]);
    let before = finalizers.len();
    finalizers.retain(|finalizer| finalizer != CLEANUP);
    if finalizers.is_empty() {
        state.remove(&key);
        state.resources.replace(table, Vec::new());
    } else if finalizers.len() < before {
        state.put(&key, next);
    }
}
