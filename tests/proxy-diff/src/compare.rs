//! What is compared, and the differences that are meant.

use std::{cell::Cell, collections::BTreeMap};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{Request, client::Response};

/// What a client saw of a response, and its backend of the request, by field.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<String, String>);

/// Headers that say nothing about an Ingress: the length of a body that differs itself, the connection
/// between client and proxy, the clock.
const IGNORED: [&str; 6] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "server",
    "transfer-encoding",
];
/// Headers of requests whose value is random.
const BY_CHANCE: [&str; 1] = ["x-request-id"];

impl Seen {
    pub(crate) fn of(response: &Response) -> Self {
        let mut fields = BTreeMap::new();
        fields.insert("status".into(), response.status.to_string());
        let backend: Option<Value> = serde_json::from_slice(&response.body).ok();
        for (name, value) in &response.headers {
            // The body of an answer of the proxy itself is its own.
            let is_own = backend.is_none() && name == "content-type";
            if !IGNORED.contains(&name.as_str()) && !is_own {
                fields.insert(format!("header {name}"), value.clone());
            }
        }
        let Some(backend) = backend else {
            return Self(fields);
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        fields.insert("backend line".into(), text(&backend["line"]));
        fields.insert("backend body".into(), text(&backend["body"]));
        let headers = backend["headers"].as_object().into_iter().flatten();
        for (name, value) in headers {
            let value = match name.as_str() {
                name if BY_CHANCE.contains(&name) => format!("{} characters", text(value).len()),
                _ => text(value),
            };
            fields.insert(format!("backend header {name}"), value);
        }
        Self(fields)
    }

    /// What a client saw that got no response.
    pub fn failed(error: &anyhow::Error) -> Self {
        Self([("status".into(), format!("none: {error}"))].into())
    }

    fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("absent", String::as_str)
    }
}

/// The differences that are meant.
#[derive(Debug, Deserialize)]
pub struct Differences(Vec<Difference>);

/// A difference that is meant. `*` stands for any text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    #[serde(default = "any")]
    case: String,
    #[serde(default = "any")]
    request: String,
    field: String,
    /// What nginx answers; `absent` for nothing.
    #[serde(default = "any")]
    nginx: String,
    /// What we answer.
    #[serde(default = "any")]
    here: String,
    /// Why.
    reason: String,
    #[serde(skip)]
    is_used: Cell<bool>,
}

fn any() -> String {
    "*".into()
}

impl Differences {
    /// Reads `differences.yaml`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn read() -> Result<Self> {
        yaml_serde::from_str(include_str!("../differences.yaml")).context("differences.yaml")
    }

    /// The fields in which both answers differ and should not, one to a line.
    pub fn unexpected(
        &self,
        case: &str,
        request: &Request,
        nginx: &Seen,
        here: &Seen,
    ) -> Vec<String> {
        let mut fields: Vec<&String> = nginx.0.keys().chain(here.0.keys()).collect();
        fields.sort();
        fields.dedup();
        let mut lines = Vec::new();
        for field in fields {
            let (theirs, ours) = (nginx.get(field), here.get(field));
            if theirs == ours {
                continue;
            }
            let known = self.0.iter().find(|known| {
                fits(&known.case, case)
                    && fits(&known.request, &request.name)
                    && fits(&known.field, field)
                    && fits(&known.nginx, theirs)
                    && fits(&known.here, ours)
            });
            match known {
                Some(known) => known.is_used.set(true),
                None => lines.push(format!("  {field}: nginx {theirs:?}, here {ours:?}")),
            }
        }
        lines
    }

    /// The differences that no request showed: they are gone, or written wrong.
    pub fn unused(&self) -> Vec<String> {
        let unused = self.0.iter().filter(|known| !known.is_used.get());
        unused
            .map(|known| format!("{} {}: {}", known.case, known.field, known.reason))
            .collect()
    }
}

/// Whether a text is as a pattern in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let mut ends = (0..=text.len()).filter(|end| text.is_char_boundary(*end));
            ends.any(|end| fits(rest, &text[end..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn star_stands_for_any_text() {
        for (pattern, text, is_fit) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("a", "ab", false),
            ("*b*", "abc", true),
        ] {
            assert_eq!(fits(pattern, text), is_fit, "{pattern} {text}");
        }
    }
}
