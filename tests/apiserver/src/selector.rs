//! Label and field selectors of lists and watches.

use serde_json::Value;

use crate::error::ApiError;
use crate::resource::Resource;

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// The labels and fields of selected objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    /// Field path, value, and whether it must be equal.
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    pub(crate) fn parse(
        resource: &Resource,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, ApiError> {
        let labels = labels.map(parse_labels).transpose()?.unwrap_or_default();
        let fields = fields
            .map(|text| parse_fields(resource, text))
            .transpose()?
            .unwrap_or_default();
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Adds `metadata.name=name`, as a request for one object does.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.fields
            .push(("metadata.name".to_owned(), name.to_owned(), true));
        self
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|found| values.iter().any(|v| v == found))
            }
            // An object without the label matches `!=` and `notin`.
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|found| values.iter().all(|v| v != found))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        }) && self
            .fields
            .iter()
            .all(|(path, wanted, equal)| (field(object, path) == *wanted) == *equal)
    }
}

/// The value at a field path as a selector compares it; a missing field is the empty string.
fn field(object: &Value, path: &str) -> String {
    let found = path.split('.').fold(object, |value, key| &value[key]);
    match found {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        // `spec.unschedulable=false` selects nodes without the field, too.
        Value::Null if path == "spec.unschedulable" => "false".to_owned(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

fn parse_fields(resource: &Resource, text: &str) -> Result<Vec<(String, String, bool)>, ApiError> {
    let mut fields = Vec::new();
    for term in text.split(',').filter(|t| !t.is_empty()) {
        let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
            (path, value, false)
        } else if let Some((path, value)) = term.split_once("==") {
            (path, value, true)
        } else if let Some((path, value)) = term.split_once('=') {
            (path, value, true)
        } else {
            return Err(ApiError::bad_request(format!(
                "invalid selector: '{text}'; can't understand '{term}'"
            )));
        };
        let known = path == "metadata.name"
            || (path == "metadata.namespace" && resource.namespaced)
            || resource.fields.contains(&path);
        if !known {
            return Err(ApiError::bad_request(format!(
                "field label not supported: {path}"
            )));
        }
        fields.push((path.to_owned(), value.to_owned(), equal));
    }
    Ok(fields)
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    let mut requirements = Vec::new();
    for term in terms(text) {
        requirements.push(parse_label(term.trim()).ok_or_else(|| {
            ApiError::bad_request(format!("unable to parse requirement: {term:?}"))
        })?);
    }
    Ok(requirements)
}

/// Splits at the commas outside of parentheses.
fn terms(text: &str) -> Vec<&str> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found.retain(|term| !term.trim().is_empty());
    found
}

fn parse_label(term: &str) -> Option<Requirement> {
    if let Some(key) = term.strip_prefix('!') {
        return Some(Requirement::Missing(label_key(key)?));
    }
    if let Some((left, values)) = term.split_once('(') {
        let values: Vec<String> = values
            .strip_suffix(')')?
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect();
        let (key, operator) = left.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Requirement::In(label_key(key)?, values)),
            "notin" => Some(Requirement::NotIn(label_key(key)?, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some(Requirement::NotIn(
            label_key(key)?,
            vec![value.trim().to_owned()],
        ));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some(Requirement::In(
            label_key(key)?,
            vec![value.trim().to_owned()],
        ));
    }
    Some(Requirement::Exists(label_key(term)?))
}

fn label_key(text: &str) -> Option<String> {
    let key = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!key.is_empty() && key.chars().all(allowed)).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::find;

    fn matches(labels: &str, object: &Value) -> bool {
        let services = find("", "v1", "services").unwrap();
        Selector::parse(&services, Some(labels), None)
            .unwrap()
            .matches(object)
    }

    #[test]
    fn label_selectors_follow_the_documented_grammar() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        for (selector, expected) in [
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("zone!=a", true),
            ("app in (db, web),tier", true),
            ("app notin (db,web)", false),
            ("zone notin (a)", true),
            ("!zone", true),
            ("!app", false),
            ("zone", false),
            ("service.kubernetes.io/headless", false),
            ("", true),
        ] {
            assert_eq!(matches(selector, &object), expected, "{selector}");
        }
    }

    #[test]
    fn invalid_selectors_are_refused() {
        let services = find("", "v1", "services").unwrap();
        for labels in ["a in b", "app within (a)", "in (a)", "a b"] {
            assert!(
                Selector::parse(&services, Some(labels), None).is_err(),
                "{labels}"
            );
        }
        assert!(Selector::parse(&services, None, Some("spec.ports=1")).is_err());
    }

    #[test]
    fn field_selectors_compare_names() {
        let services = find("", "v1", "services").unwrap();
        let selector = Selector::parse(
            &services,
            None,
            Some("metadata.name=a,metadata.namespace!=b"),
        )
        .unwrap();
        assert!(selector.matches(&json!({"metadata": {"name": "a", "namespace": "c"}})));
        assert!(!selector.matches(&json!({"metadata": {"name": "a", "namespace": "b"}})));
    }
}
