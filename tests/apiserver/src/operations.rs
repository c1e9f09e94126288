//! The writing verbs, between a decoded request and the store.
//!
//! Every write but a deletion goes through [`Write::finish`]: decode, keep what clients may not set, default,
//! validate, compare, store. All of it runs under the store's lock, so that a write is atomic.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::convert;
use crate::defaults::{complete, initial_status};
use crate::definitions;
use crate::deletion;
use crate::error::ApiError;
use crate::garbage;
use crate::patch::{self, PatchKind};
use crate::resource::Resource;
use crate::service;
use crate::storage::{Key, State};
use crate::validation;

/// The value of `fieldValidation`: what to do with unknown fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The parts of a request that all writing verbs share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub(crate) validation: FieldValidation,
    pub(crate) dry_run: bool,
    /// Only `status` is written.
    pub(crate) status_only: bool,
    pub(crate) manager: String,
}

/// An object after a write, as the client gets it.
pub(crate) struct Written {
    pub(crate) object: Value,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    Key {
        table: resource.table,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

pub(crate) fn get(
    state: &State,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Value, ApiError> {
    state
        .get(&key(resource, namespace, name))
        .map(|object| convert::from_stored(resource, Value::clone(object)))
        .ok_or_else(|| ApiError::not_found(resource, name))
}

/// Compares kind, name and namespace of an object with the path of the request.
fn place(
    resource: &Resource,
    namespace: &str,
    name: Option<&str>,
    object: &mut Value,
) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request(
            "the body of the request is not an object",
        ));
    }
    let api_version = resource.api_version();
    for (field, expected) in [("kind", resource.kind), ("apiVersion", &*api_version)] {
        let given = object[field].as_str().unwrap_or_default();
        if !given.is_empty() && given != expected {
            return Err(ApiError::bad_request(format!(
                "{field} in body ({given}) does not match the expected {field} ({expected})"
            )));
        }
        object[field] = json!(expected);
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let metadata = &mut object["metadata"];
    if resource.namespaced {
        let given = metadata["namespace"].as_str().unwrap_or_default();
        if !given.is_empty() && given != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata["namespace"] = json!(namespace);
    } else if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("namespace");
    }
    if let Some(name) = name {
        let given = metadata["name"].as_str().unwrap_or_default();
        if !given.is_empty() && given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        metadata["name"] = json!(name);
    }
    Ok(())
}

/// A name from `generateName`: the prefix and five random consonants and digits.
fn generated_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    let suffix = random
        .as_bytes()
        .iter()
        .take(5)
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    prefix.chars().chain(suffix).collect()
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

impl Write {
    pub(crate) fn create(
        &self,
        state: &mut State,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
    ) -> Result<Written, ApiError> {
        place(resource, namespace, None, &mut object)?;
        let metadata = &mut object["metadata"];
        if metadata["resourceVersion"]
            .as_str()
            .is_some_and(|v| !v.is_empty())
        {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if metadata["name"].as_str().is_none_or(str::is_empty) {
            let prefix = metadata["generateName"].as_str().unwrap_or_default();
            if prefix.is_empty() {
                let cause = crate::error::Cause::required(
                    "metadata.name",
                    "name or generateName is required",
                );
                return Err(ApiError::invalid(resource, "", &[cause]));
            }
            metadata["name"] = json!(generated_name(prefix));
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        let key = key(resource, namespace, &name);
        if state.get(&key).is_some() {
            return Err(ApiError::already_exists(resource, &name));
        }
        if resource.namespaced {
            namespace_exists(state, namespace)?;
        }
        if definitions::is_terminating(state, resource.table) {
            return Err(ApiError::method_not_allowed(
                "create not allowed while custom resource definition is terminating",
            ));
        }
        self.finish(state, resource, &key, None, object)
    }

    pub(crate) fn update(
        &self,
        state: &mut State,
        resource: &Resource,
        namespace: &str,
        name: &str,
        mut object: Value,
    ) -> Result<Written, ApiError> {
        place(resource, namespace, Some(name), &mut object)?;
        let key = key(resource, namespace, name);
        let Some(old) = state.get(&key).cloned() else {
            if resource.create_on_update && !self.status_only {
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                }
                return self.create(state, resource, namespace, object);
            }
            return Err(ApiError::not_found(resource, name));
        };
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        if version.is_empty() && !resource.unconditional_update {
            let cause = crate::error::Cause::invalid(
                "metadata.resourceVersion",
                &json!(0),
                "must be specified for an update",
            );
            return Err(ApiError::invalid(resource, name, &[cause]));
        }
        self.finish(state, resource, &key, Some(old), object)
    }

    pub(crate) fn patch(
        &self,
        state: &mut State,
        resource: &Resource,
        namespace: &str,
        name: &str,
        kind: PatchKind,
        patch: &Value,
    ) -> Result<Written, ApiError> {
        let key = key(resource, namespace, name);
        let applying = (key.clone(), self.manager.clone());
        let Some(old) = state.get(&key).cloned() else {
            if kind != PatchKind::Apply || self.status_only {
                return Err(ApiError::not_found(resource, name));
            }
            let mut object = patch.clone();
            place(resource, namespace, Some(name), &mut object)?;
            let written = self.create(state, resource, namespace, object)?;
            if !self.dry_run {
                state.applied.insert(applying, patch.clone());
            }
            return Ok(written);
        };
        let current = convert::from_stored(resource, Value::clone(&old));
        let mut next = match kind {
            PatchKind::Json => patch::json_patch(&current, patch)?,
            PatchKind::Merge => patch::merge_patch(&current, patch),
            PatchKind::Strategic => patch::strategic_merge(resource.kind, &current, patch),
            PatchKind::Apply => patch::apply_patch(&current, state.applied.get(&applying), patch),
        };
        place(resource, namespace, Some(name), &mut next)?;
        let written = self.finish(state, resource, &key, Some(old), next)?;
        if kind == PatchKind::Apply && !self.dry_run {
            state.applied.insert(applying, patch.clone());
        }
        Ok(written)
    }

    /// Turns the object that a client sent into the one that is stored.
    fn finish(
        &self,
        state: &mut State,
        resource: &Resource,
        key: &Key,
        old: Option<Arc<Value>>,
        object: Value,
    ) -> Result<Written, ApiError> {
        // The definition of a custom resource may have been deleted since the request was routed.
        if state
            .resources
            .find(resource.group, resource.version, resource.plural)
            .is_none()
        {
            return Err(ApiError::no_such_path());
        }
        let (decoded, warnings) = self.decode(resource, object)?;
        let mut next = convert::to_stored(resource, decoded);
        match &old {
            Some(old) => self.keep(resource, key, old, &mut next)?,
            None => {
                let metadata = &mut next["metadata"];
                metadata["uid"] = json!(uuid::Uuid::new_v4().to_string());
                metadata["creationTimestamp"] = json!(now());
                if resource.generation {
                    metadata["generation"] = json!(1);
                }
                if resource.status && !resource.status_at_creation {
                    next["status"] = initial_status(resource);
                }
            }
        }
        let mut causes = Vec::new();
        if !self.status_only {
            causes.extend(validation::check(resource, &next, old.as_deref()));
            causes.extend(match resource.table {
                "services" => service::admit(key, &mut next, old.as_deref(), &state.allocations),
                _ => {
                    complete(resource, &mut next);
                    Vec::new()
                }
            });
        }
        if let Some(custom) = resource.custom() {
            custom.schema.complete(&mut next);
            causes.extend(custom.schema.check(&next, old.as_deref()));
        }
        let mut defined = None;
        if resource.table == definitions::TABLE {
            match definitions::admit(&mut next, old.as_deref()) {
                Ok(resources) => defined = resources,
                Err(refused) => causes.extend(refused),
            }
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid(resource, &key.name, &causes));
        }
        drop_nulls(resource, &mut next);
        if let Some(old) = old.as_deref().filter(|_| resource.generation) {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(1);
            let same = wanted(resource, old) == wanted(resource, &next);
            next["metadata"]["generation"] = json!(if same { generation } else { generation + 1 });
        }
        let unchanged = old.as_deref().is_some_and(|old| {
            next["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            *old == next
        });
        let released = !next["metadata"]["deletionTimestamp"].is_null()
            && next["metadata"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty);
        let object = if unchanged || self.dry_run {
            next
        } else if released {
            deletion::remove(state, resource, key);
            next
        } else {
            let stored = Value::clone(&*state.put(key, next));
            if let Some(defined) = defined {
                state.resources.replace(&key.name, defined);
            }
            stored
        };
        if !self.dry_run {
            garbage::collect(state);
        }
        Ok(Written {
            object: convert::from_stored(resource, object),
            created: old.is_none(),
            warnings,
        })
    }

    fn decode(&self, resource: &Resource, object: Value) -> Result<(Value, Vec<String>), ApiError> {
        let decoded = resource.decode(object).map_err(|why| {
            ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: json: {why}",
                kind = resource.kind,
                version = resource.version,
            ))
        })?;
        let warnings: Vec<String> = decoded
            .unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""))
            .collect();
        match self.validation {
            FieldValidation::Strict if !warnings.is_empty() => Err(ApiError::bad_request(format!(
                "strict decoding error: {}",
                warnings.join(", ")
            ))),
            FieldValidation::Ignore => Ok((decoded.object, Vec::new())),
            FieldValidation::Strict | FieldValidation::Warn => Ok((decoded.object, warnings)),
        }
    }

    /// Restores the fields that this request may not change, and checks its resourceVersion.
    fn keep(
        &self,
        resource: &Resource,
        key: &Key,
        old: &Value,
        next: &mut Value,
    ) -> Result<(), ApiError> {
        let before = &old["metadata"];
        let version = next["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        if !version.is_empty() && before["resourceVersion"] != version {
            return Err(ApiError::modified(resource, &key.name));
        }
        let uid = &next["metadata"]["uid"];
        if !uid.is_null() && *uid != before["uid"] {
            return Err(ApiError::conflict(
                resource,
                &key.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    before["uid"]
                ),
            ));
        }
        if self.status_only {
            let status = next["status"].take();
            *next = old.clone();
            next["status"] = status;
            return Ok(());
        }
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            next["metadata"][field] = before[field].clone();
        }
        if resource.status {
            next["status"] = old["status"].clone();
        }
        Ok(())
    }
}

/// Everything except metadata and, if it is written apart, status: `generation` counts changes of it.
fn wanted(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(object) = object.as_object_mut() {
        object.remove("metadata");
        if resource.status {
            object.remove("status");
        }
    }
    object
}

fn namespace_exists(state: &State, namespace: &str) -> Result<(), ApiError> {
    let Some(namespaces) = state.resources.find("", "v1", "namespaces") else {
        return Ok(());
    };
    match state.get(&key(namespaces, "", namespace)) {
        Some(_) => Ok(()),
        None => Err(ApiError::not_found(namespaces, namespace)),
    }
}

/// Removes fields that are null. In a custom resource only its schema can do so, below the metadata: fields
/// may be nullable.
fn drop_nulls(resource: &Resource, object: &mut Value) {
    if resource.custom().is_none() {
        drop_all_nulls(object);
    } else if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
        if let Some(metadata) = fields.get_mut("metadata") {
            drop_all_nulls(metadata);
        }
    }
}

fn drop_all_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_all_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_all_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
