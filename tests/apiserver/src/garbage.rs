//! Garbage collection: objects whose owners are all gone are deleted, as the controller manager does.

use std::collections::HashSet;

use serde_json::Value;

use crate::deletion::Preconditions;
use crate::operations::Write;
use crate::storage::{Key, State};

/// Deletes the objects without a living owner, if the server collects garbage.
pub(crate) fn collect(state: &mut State) {
    if !state.collects_garbage {
        return;
    }
    let living: HashSet<&str> = state
        .objects()
        .filter_map(|(_, object)| object["metadata"]["uid"].as_str())
        .collect();
    let orphans: Vec<Key> = state
        .objects()
        .filter(|(_, object)| is_orphan(object, &living))
        .map(|(key, _)| key.clone())
        .collect();
    for key in orphans {
        let resource = state.resources.iter().find(|r| r.table == key.table);
        let Some(resource) = resource.cloned() else {
            continue;
        };
        let only_if = Preconditions::default();
        let deleted =
            Write::default().delete(state, &resource, &key.namespace, &key.name, &only_if);
        if let Err(error) = deleted {
            // Its own deletion collected garbage, and this object was part of it.
            tracing::debug!(%error, "an object without owners is gone already");
        }
    }
}

/// Whether an object has owners, none of which exists. One that is being deleted already is left alone.
fn is_orphan(object: &Value, living: &HashSet<&str>) -> bool {
    let metadata = &object["metadata"];
    let owners = metadata["ownerReferences"].as_array();
    owners.is_some_and(|owners| {
        let lives = |owner: &Value| {
            owner["uid"]
                .as_str()
                .is_some_and(|uid| living.contains(uid))
        };
        !owners.is_empty() && !owners.iter().any(lives)
    }) && metadata["deletionTimestamp"].is_null()
}
