//! Objects by name, of which some come, change and go.

use std::collections::BTreeMap;

/// Sets or removes a value; returns whether that changed anything.
pub fn put<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    value: Option<V>,
) -> bool {
    match value {
        Some(value) => {
            let is_new = map.get(key) != Some(&value);
            if is_new {
                map.insert(key.clone(), value);
            }
            is_new
        }
        None => map.remove(key).is_some(),
    }
}
