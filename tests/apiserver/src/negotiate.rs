//! Content negotiation: the shape of a response.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::resource::Resource;
use crate::table;

/// How much of each object a Table row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowObject {
    None,
    Metadata,
    Object,
}

/// The shape a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects themselves.
    Plain,
    /// `kubectl get`: rows and columns.
    Table(RowObject),
    /// Type and metadata only.
    Metadata,
}

/// One media range of an `Accept` header.
pub(crate) struct Accepted<'a> {
    pub(crate) media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Accepted<'_> {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    }

    pub(crate) fn is_json(&self) -> bool {
        matches!(
            self.media_type,
            "application/json" | "application/*" | "*/*" | ""
        )
    }
}

/// The media ranges of an `Accept` header, in order; clients of the API do not use weights.
pub(crate) fn accepted(header: &str) -> Vec<Accepted<'_>> {
    header
        .split(',')
        .filter(|text| !text.trim().is_empty())
        .map(|text| {
            let mut parts = text.split(';').map(str::trim);
            Accepted {
                media_type: parts.next().unwrap_or_default(),
                parameters: parts.filter_map(|p| p.split_once('=')).collect(),
            }
        })
        .collect()
}

impl Shape {
    /// The first shape of the header that this server supports. An empty header selects the objects.
    pub(crate) fn negotiate(header: &str, include_object: Option<&str>) -> Result<Self, ApiError> {
        let ranges = accepted(header);
        if ranges.is_empty() {
            return Ok(Self::Plain);
        }
        let rows = match include_object {
            Some("None") => RowObject::None,
            Some("Object") => RowObject::Object,
            _ => RowObject::Metadata,
        };
        let shape = |range: &Accepted<'_>| {
            if !range.is_json() {
                return None;
            }
            let meta = range.parameter("g") == Some("meta.k8s.io");
            match range.parameter("as") {
                None => Some(Self::Plain),
                Some("Table") if meta && range.parameter("v") == Some("v1") => {
                    Some(Self::Table(rows))
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta => {
                    Some(Self::Metadata)
                }
                Some(_) => None,
            }
        };
        ranges
            .iter()
            .find_map(shape)
            .ok_or_else(|| ApiError::not_acceptable("application/json"))
    }

    /// One object in this shape. `with_columns` adds the columns to a Table in a watch.
    pub(crate) fn object(self, resource: &Resource, object: Value, with_columns: bool) -> Value {
        match self {
            Self::Plain => object,
            Self::Metadata => metadata_of(object),
            Self::Table(rows) => {
                let version = object["metadata"]["resourceVersion"].clone();
                let list = json!({ "resourceVersion": version });
                table::render(resource, vec![object], &list, rows, with_columns)
            }
        }
    }

    /// A list in this shape; `metadata` is that of the list.
    pub(crate) fn list(self, resource: &Resource, objects: Vec<Value>, metadata: &Value) -> Value {
        match self {
            Self::Plain => json!({
                "kind": format!("{}List", resource.kind),
                "apiVersion": resource.api_version(),
                "metadata": metadata,
                "items": objects.into_iter().map(without_type).collect::<Vec<_>>(),
            }),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": objects.into_iter().map(metadata_of).collect::<Vec<_>>(),
            }),
            Self::Table(rows) => table::render(resource, objects, metadata, rows, true),
        }
    }
}

/// Removes `kind` and `apiVersion`, which items of a list do not have.
fn without_type(mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.remove("kind");
        object.remove("apiVersion");
    }
    object
}

pub(crate) fn metadata_of(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"].take(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_shape_that_is_known_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (header, expected) in [
            ("", Some(Shape::Plain)),
            ("*/*", Some(Shape::Plain)),
            (kubectl, Some(Shape::Table(RowObject::Metadata))),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some(Shape::Plain),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Shape::Metadata),
            ),
        ] {
            assert_eq!(Shape::negotiate(header, None).ok(), expected, "{header}");
        }
    }
}
