//! Parts that several kinds have in common.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::GROUP;
use crate::NamespacedName;

/// Defines an enum that keeps a value that it does not know as text.
macro_rules! open_enum {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
            /// A value that this version does not know.
            Other(String),
        }

        impl $name {
            /// Returns the value as it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Other(text),
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from).map(Self::from)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(self.as_str())
            }
        }
    };
}
pub(super) use open_enum;

pub(super) fn group() -> String {
    GROUP.into()
}

fn gateway() -> String {
    "Gateway".into()
}

fn secret() -> String {
    "Secret".into()
}

fn service() -> String {
    "Service".into()
}

fn one() -> i32 {
    1
}

/// A parent of a route, or of a ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group.
    #[serde(default = "group")]
    pub group: String,
    /// Kind.
    #[serde(default = "gateway")]
    pub kind: String,
    /// Namespace; that of the object itself if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Name of a listener; all if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Port of listeners; all if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

impl ParentRef {
    /// Returns the name of the parent, for an object of this namespace.
    pub fn target(&self, namespace: &str) -> NamespacedName {
        NamespacedName::new(self.namespace.as_deref().unwrap_or(namespace), &self.name)
    }

    /// Returns the name of the listener, if one is meant.
    pub fn section(&self) -> Option<&str> {
        self.section_name.as_deref().filter(|name| !name.is_empty())
    }
}

impl fmt::Display for ParentRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(out, "{namespace}/")?;
        }
        out.write_str(&self.name)?;
        if let Some(section) = self.section() {
            write!(out, " listener {section}")?;
        }
        match self.port {
            Some(port) => write!(out, " port {port}"),
            None => Ok(()),
        }
    }
}

/// A backend of a route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BackendRef {
    /// API group; empty for the core API.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "service")]
    pub kind: String,
    /// Namespace; that of the route if not given.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port of the Service.
    pub port: Option<i32>,
    /// Share of requests in relation to the sum of all weights.
    #[serde(default = "one")]
    pub weight: i32,
    /// Filters for requests to this backend alone; only HTTPRoutes and GRPCRoutes have them.
    #[serde(default)]
    pub filters: Vec<super::Filter>,
}

/// An object, perhaps of another namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ObjectRef {
    /// API group; empty for the core API.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace; that of the object itself if not given.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// A Secret, perhaps of another namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct CertificateRef {
    /// API group; empty for the core API.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "secret")]
    pub kind: String,
    /// Namespace; that of the object itself if not given.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// An object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct LocalRef {
    /// API group; empty for the core API.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// Parameters of a GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Parameters {
    /// API group; empty for the core API.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; none for objects of the cluster.
    pub namespace: Option<String>,
}

/// A kind of route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct RouteGroupKind {
    /// API group.
    #[serde(default = "group")]
    pub group: String,
    /// Kind.
    pub kind: String,
}

/// A selector of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels with these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    pub match_expressions: Vec<SelectorRequirement>,
}

/// A requirement for a label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SelectorRequirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values of `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Returns whether all requirements hold. An unknown operator never holds.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut pairs = self.match_labels.iter();
        let mut requirements = self.match_expressions.iter();
        pairs.all(|(key, value)| labels.get(key) == Some(value))
            && requirements.all(|one| one.holds(labels.get(&one.key)))
    }
}

impl SelectorRequirement {
    fn holds(&self, value: Option<&String>) -> bool {
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// A condition in a status.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The `metadata.generation` that it was computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` changed (RFC 3339).
    pub last_transition_time: String,
    /// The reason, as one word.
    pub reason: String,
    /// The reason, for people.
    pub message: String,
}
