//! The version that every JSON and YAML output carries.

use serde::{Deserialize, Serialize};

/// Version of the outputs. It grows when a field is removed, renamed, or changes its meaning; new
/// fields leave it as it is.
const VERSION: u32 = 1;

/// An output with `"version"` before its own fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    pub(crate) value: T,
}

/// A list as an output: its rows are `"items"`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct List<'a, T> {
    pub(crate) items: &'a [T],
}

impl<T> Versioned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            version: VERSION,
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{List, Versioned};

    #[test]
    fn outputs_begin_with_their_version() {
        let list = Versioned::new(List { items: &["a", "b"] });
        let list = serde_json::to_string(&list).unwrap();
        assert_eq!(list, r#"{"version":1,"items":["a","b"]}"#);
        let object = Versioned::new(json!({"node": "n1", "backends": 7}));
        let text = serde_json::to_string(&object).unwrap();
        assert!(text.starts_with(r#"{"version":1,"#), "{text}");
        let read: Versioned<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.value["backends"], 7);
    }
}
