//! Parsing of the paths and queries of the API.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::operations::FieldValidation;
use crate::resource::{Resource, Resources};
use crate::watch::Start;

/// The object or collection of a path.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    pub(crate) fn parse(resources: &Resources, segments: &[&str]) -> Option<Self> {
        let (group, version, rest) = match segments {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        if let ["namespaces", namespace, plural, more @ ..] = rest
            && let Some(resource) = resources.find(group, version, plural)
            && resource.namespaced
        {
            return Self::of(resource, Some((*namespace).to_owned()), more);
        }
        let (plural, more) = rest.split_first()?;
        let resource = resources.find(group, version, plural)?;
        // The path of a namespaced object needs the namespace.
        if resource.namespaced && !more.is_empty() {
            return None;
        }
        Self::of(resource, None, more)
    }

    fn of(resource: &Arc<Resource>, namespace: Option<String>, more: &[&str]) -> Option<Self> {
        let (name, subresource) = match more {
            [] => (None, None),
            [name] => (Some((*name).to_owned()), None),
            [name, "status"] if resource.status => {
                (Some((*name).to_owned()), Some("status".to_owned()))
            }
            _ => return None,
        };
        Some(Self {
            resource: Arc::clone(resource),
            namespace,
            name,
            subresource,
        })
    }

    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// A parameter that is present and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse().map(Some).or(Err(ApiError::bad_request(format!(
            "invalid {name}: {text:?} is not a number"
        ))))
    }

    pub(crate) fn dry_run(&self) -> bool {
        self.get("dryRun") == Some("All")
    }

    pub(crate) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(ApiError::bad_request(format!(
                "invalid fieldValidation: {other:?}"
            ))),
        }
    }

    pub(crate) fn timeout(&self) -> Result<Duration, ApiError> {
        // The API picks between 30 and 60 minutes.
        let seconds = self.number("timeoutSeconds")?.unwrap_or(1800);
        Ok(Duration::from_secs(seconds))
    }

    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        let limit = self.number("limit")?.unwrap_or(0);
        Ok(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// The version of the collection that a list shows.
    pub(crate) fn list_version(&self) -> Result<ListVersion, ApiError> {
        if let Some(token) = self.get("continue") {
            return Ok(ListVersion::Continued(Continue::decode(token)?));
        }
        let version = self.number("resourceVersion")?;
        let limited = self.limit()? > 0;
        match (self.get("resourceVersionMatch"), version) {
            (None, None | Some(0)) => Ok(ListVersion::Current),
            (None, Some(version)) if limited => Ok(ListVersion::Exactly(version)),
            (None | Some("NotOlderThan"), Some(version)) => Ok(ListVersion::AtLeast(version)),
            (Some("Exact"), Some(version)) if version > 0 => Ok(ListVersion::Exactly(version)),
            (Some(other), _) => Err(ApiError::bad_request(format!(
                "resourceVersionMatch {other:?} does not fit the given resourceVersion"
            ))),
        }
    }

    /// The start of a watch.
    pub(crate) fn watch_start(&self) -> Result<Start, ApiError> {
        let version = self.number("resourceVersion")?.unwrap_or(0);
        let any = self.get("resourceVersion").is_none();
        match (
            self.get("sendInitialEvents"),
            self.get("resourceVersionMatch"),
        ) {
            (Some(_), found) if found != Some("NotOlderThan") => Err(ApiError::bad_request(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            (None, Some(_)) => Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
            (Some("true" | "1"), _) if self.flag("allowWatchBookmarks") => {
                Ok(Start::ExistingThenBookmark)
            }
            (Some("true" | "1"), _) => Ok(Start::Existing),
            (Some(_), _) if any => Ok(Start::Now),
            (None, _) if version == 0 => Ok(Start::Existing),
            _ => Ok(Start::After(version)),
        }
    }
}

/// The version of the collection that a list shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListVersion {
    Current,
    AtLeast(u64),
    Exactly(u64),
    Continued(Continue),
}

/// The start of the next page; opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Continue {
    pub(crate) version: u64,
    /// Namespace and name of the last object of the page before.
    pub(crate) after: (String, String),
}

impl Continue {
    pub(crate) fn encode(&self) -> String {
        let token = json!({"v": self.version, "ns": self.after.0, "name": self.after.1});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let decoded = || -> Option<Self> {
            let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
            let token: Value = serde_json::from_slice(&bytes).ok()?;
            Some(Self {
                version: token["v"].as_u64()?,
                after: (
                    token["ns"].as_str()?.to_owned(),
                    token["name"].as_str()?.to_owned(),
                ),
            })
        };
        decoded().ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<(String, Option<String>, Option<String>, bool)> {
        let segments: Vec<&str> = path.split('/').collect();
        let target = Target::parse(&Resources::built_in(), &segments)?;
        let status = target.subresource.is_some();
        Some((
            target.resource.plural.to_owned(),
            target.namespace,
            target.name,
            status,
        ))
    }

    #[test]
    fn paths_name_collections_objects_and_status() {
        let some = |text: &str| Some(text.to_owned());
        for (path, expected) in [
            ("api/v1/services", Some(("services", None, None, false))),
            (
                "api/v1/namespaces/a/services/b",
                Some(("services", some("a"), some("b"), false)),
            ),
            (
                "api/v1/namespaces/a/services/b/status",
                Some(("services", some("a"), some("b"), true)),
            ),
            (
                "api/v1/namespaces/a",
                Some(("namespaces", None, some("a"), false)),
            ),
            (
                "api/v1/namespaces/a/status",
                Some(("namespaces", None, some("a"), true)),
            ),
            (
                "apis/discovery.k8s.io/v1/endpointslices",
                Some(("endpointslices", None, None, false)),
            ),
            ("api/v1/services/b", None),
            ("api/v1/namespaces/a/configmaps/b/status", None),
            ("apis/apps/v1/deployments", None),
        ] {
            let expected = expected.map(|(p, ns, n, s)| (p.to_owned(), ns, n, s));
            assert_eq!(parse(path), expected, "{path}");
        }
    }

    #[test]
    fn watches_start_where_the_documentation_says() {
        for (query, expected) in [
            ("", Some(Start::Existing)),
            ("resourceVersion=0", Some(Start::Existing)),
            ("resourceVersion=7", Some(Start::After(7))),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                Some(Start::ExistingThenBookmark),
            ),
            (
                "sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
                Some(Start::Now),
            ),
            ("sendInitialEvents=true", None),
            ("resourceVersionMatch=NotOlderThan", None),
            ("resourceVersion=x", None),
        ] {
            assert_eq!(Query::parse(query).watch_start().ok(), expected, "{query}");
        }
    }

    #[test]
    fn a_continue_token_survives_the_client() {
        let token = Continue {
            version: 7,
            after: ("a".to_owned(), "b".to_owned()),
        };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        assert!(Continue::decode("nonsense").is_err());
    }
}
