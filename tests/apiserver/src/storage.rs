//! Objects and their history: one counter, one map, one log of changes.
//!
//! The log makes watches, exact lists and paging consistent. `compact` removes its oldest part; a request
//! for an older version fails as expired. This module knows nothing about kinds, HTTP or validity: it
//! holds the list of resources for the others, since a write of a definition changes both at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::allocation::Allocations;
use crate::error::ApiError;
use crate::resource::Resources;

/// The key of an object. The order is the order of lists: by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) table: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// One write: an object before and after.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Value>>,
    pub(crate) after: Option<Arc<Value>>,
}

/// All objects, and the changes that led to them.
pub(crate) struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    log: VecDeque<Change>,
    version: u64,
    compacted: u64,
    history: usize,
    /// Addresses and node ports in use.
    pub(crate) allocations: Allocations,
    /// The last patch of each field manager, from server-side apply.
    pub(crate) applied: HashMap<(Key, String), Value>,
    /// The resources that are served. Stored CustomResourceDefinitions change them.
    pub(crate) resources: Resources,
    /// Objects without a living owner are deleted.
    pub(crate) collects_garbage: bool,
}

impl State {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// Stores an object with the next version, and returns it with that version.
    pub(crate) fn put(&mut self, key: &Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.allocations
            .replace(key, before.as_deref(), Some(&object));
        self.record(key, before, Some(Arc::clone(&object)));
        object
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.version += 1;
        self.allocations.replace(key, Some(&before), None);
        self.applied.retain(|(applied, _), _| applied != key);
        self.record(key, Some(Arc::clone(&before)), None);
        Some(before)
    }

    fn record(&mut self, key: &Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.log.push_back(Change {
            version: self.version,
            key: key.clone(),
            before,
            after,
        });
        while self.log.len() > self.history {
            if let Some(oldest) = self.log.pop_front() {
                self.compacted = oldest.version;
            }
        }
    }

    /// Forgets the changes up to and including `version`.
    pub(crate) fn compact(&mut self, version: u64) {
        let version = version.min(self.version);
        self.compacted = self.compacted.max(version);
        while self
            .log
            .front()
            .is_some_and(|change| change.version <= version)
        {
            self.log.pop_front();
        }
    }

    /// All objects of all tables.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    pub(crate) fn has_objects(&self, table: &'static str) -> bool {
        self.range(table, None).next().is_some()
    }

    /// The objects of a table, of one namespace or of all.
    pub(crate) fn list(&self, table: &'static str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.range(table, namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    fn range<'a>(
        &'a self,
        table: &'static str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let first = Key {
            table,
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
        };
        self.objects.range(first..).take_while(move |(key, _)| {
            key.table == table && namespace.is_none_or(|wanted| key.namespace == wanted)
        })
    }

    /// The objects of a table at `version`: the log is undone from its end.
    pub(crate) fn list_at(
        &self,
        table: &'static str,
        namespace: Option<&str>,
        version: u64,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        if version > self.version {
            return Err(ApiError::too_large(version, self.version));
        }
        if version < self.compacted {
            return Err(ApiError::too_old(version, self.compacted));
        }
        if version == self.version {
            return Ok(self.list(table, namespace));
        }
        let mut then: BTreeMap<&Key, &Arc<Value>> = self.range(table, namespace).collect();
        let undone = self.log.iter().rev().filter(|change| {
            change.key.table == table
                && namespace.is_none_or(|wanted| change.key.namespace == wanted)
        });
        for change in undone.take_while(|change| change.version > version) {
            match &change.before {
                Some(before) => then.insert(&change.key, before),
                None => then.remove(&change.key),
            };
        }
        Ok(then.into_values().map(Arc::clone).collect())
    }

    /// The changes of a table after `version`, oldest first.
    pub(crate) fn since(&self, table: &'static str, version: u64) -> Result<Vec<Change>, ApiError> {
        if version > self.version {
            return Err(ApiError::too_large(version, self.version));
        }
        if version < self.compacted {
            return Err(ApiError::too_old(version, self.compacted));
        }
        let first = self.log.partition_point(|c| c.version <= version);
        Ok(self
            .log
            .range(first..)
            .filter(|change| change.key.table == table)
            .cloned()
            .collect())
    }
}

/// The shared state, and the signal that it changed.
pub(crate) struct Store {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

impl Store {
    pub(crate) fn new(history: usize, allocations: Allocations) -> Self {
        Self {
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                log: VecDeque::new(),
                version: 0,
                compacted: 0,
                history,
                allocations,
                applied: HashMap::new(),
                resources: Resources::built_in(),
                collects_garbage: false,
            }),
            version: watch::Sender::new(0),
        }
    }

    /// Runs `work` on the locked state, and wakes the watches if it wrote.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let version = state.version;
        self.version
            .send_if_modified(|seen| std::mem::replace(seen, version) != version);
        result
    }

    /// Follows the version of the latest write.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            table: "things",
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    fn store() -> Store {
        Store::new(100, Allocations::new(&[], 30000..=30010))
    }

    fn names(objects: &[Arc<Value>]) -> Vec<String> {
        objects.iter().map(|o| o["n"].to_string()).collect()
    }

    #[test]
    fn list_at_a_version_shows_the_objects_of_that_version() {
        store().with(|state| {
            state.put(&key("a"), json!({"n": 1}));
            state.put(&key("b"), json!({"n": 2}));
            state.put(&key("a"), json!({"n": 3}));
            state.remove(&key("b"));
            let at = |v| names(&state.list_at("things", None, v).unwrap());
            assert_eq!(at(0), Vec::<String>::new());
            assert_eq!(at(1), ["1"]);
            assert_eq!(at(2), ["1", "2"]);
            assert_eq!(at(3), ["3", "2"]);
            assert_eq!(at(4), ["3"]);
        });
    }

    #[test]
    fn versions_before_a_compaction_are_expired() {
        store().with(|state| {
            for n in 0..5 {
                state.put(&key("a"), json!({"n": n}));
            }
            state.compact(3);
            assert_eq!(state.since("things", 2).unwrap_err().code, 410);
            assert_eq!(state.since("things", 3).unwrap().len(), 2);
            assert_eq!(state.since("things", 9).unwrap_err().code, 504);
            assert_eq!(state.list_at("things", None, 2).unwrap_err().code, 410);
        });
    }

    #[test]
    fn history_is_bounded() {
        let store = Store::new(2, Allocations::new(&[], 30000..=30010));
        store.with(|state| {
            for n in 0..5 {
                state.put(&key("a"), json!({"n": n}));
            }
            assert_eq!(state.compacted(), 3);
        });
    }
}
