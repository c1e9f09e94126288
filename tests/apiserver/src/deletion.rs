//! The DELETE verb, and what follows when an object is gone.

use serde_json::{Value, json};

use crate::convert;
use crate::definitions;
use crate::error::ApiError;
use crate::garbage;
use crate::operations::{Write, key, now};
use crate::resource::Resource;
use crate::storage::{Key, State};

/// The outcome of a DELETE.
pub(crate) enum Deleted {
    /// The object is deleted; this was its last state.
    Gone(Value),
    /// The object has finalizers and is marked as deleted.
    Marked(Value),
}

/// `preconditions` of DeleteOptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

impl Write {
    pub(crate) fn delete(
        &self,
        state: &mut State,
        resource: &Resource,
        namespace: &str,
        name: &str,
        only_if: &Preconditions,
    ) -> Result<Deleted, ApiError> {
        let key = key(resource, namespace, name);
        let Some(old) = state.get(&key).cloned() else {
            return Err(ApiError::not_found(resource, name));
        };
        let metadata = &old["metadata"];
        for (what, wanted, found) in [
            ("UID", &only_if.uid, &metadata["uid"]),
            (
                "ResourceVersion",
                &only_if.resource_version,
                &metadata["resourceVersion"],
            ),
        ] {
            if let Some(wanted) = wanted
                && found != wanted
            {
                return Err(ApiError::conflict(
                    resource,
                    name,
                    &format!(
                        "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have been deleted and then recreated"
                    ),
                ));
            }
        }
        if resource.table == definitions::TABLE && !self.dry_run {
            definitions::terminate(self, state, name)?;
            return Ok(match state.get(&key) {
                Some(marked) => Deleted::Marked(Value::clone(marked)),
                None => Deleted::Gone(Value::clone(&old)),
            });
        }
        let held = metadata["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
        if held {
            let mut marked = Value::clone(&old);
            if marked["metadata"]["deletionTimestamp"].is_null() {
                marked["metadata"]["deletionTimestamp"] = json!(now());
                marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                if let Some(generation) = marked["metadata"]["generation"].as_u64() {
                    marked["metadata"]["generation"] = json!(generation + 1);
                }
                if !self.dry_run {
                    marked = Value::clone(&*state.put(&key, marked));
                }
            }
            return Ok(Deleted::Marked(convert::from_stored(resource, marked)));
        }
        if !self.dry_run {
            remove(state, resource, &key);
            garbage::collect(state);
        }
        let last = Value::clone(&old);
        Ok(Deleted::Gone(convert::from_stored(resource, last)))
    }
}

/// Removes an object, and does what follows from it.
pub(crate) fn remove(state: &mut State, resource: &Resource, key: &Key) {
    state.remove(key);
    match resource.table {
        "namespaces" => empty_namespace(state, &key.name),
        definitions::TABLE => state.resources.replace(&key.name, Vec::new()),
        table => definitions::settle(state, table),
    }
}

/// Deletes the objects of a namespace at once, as the namespace controller does later.
fn empty_namespace(state: &mut State, namespace: &str) {
    for resource in state.resources.clone().iter().filter(|r| r.namespaced) {
        for object in state.list(resource.table, Some(namespace)) {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            remove(state, resource, &key(resource, namespace, name));
        }
    }
}
