//! Refusals: fields that are not served as written.

use std::fmt;

use crate::NamespacedName;

/// The object of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectName {
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
    /// A Node.
    Node(String),
    /// An Ingress.
    Ingress(NamespacedName),
    /// An IngressClass.
    IngressClass(String),
    /// A Secret.
    Secret(NamespacedName),
    /// A manifest file, by path.
    File(String),
}

impl fmt::Display for ObjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(out, "Service {name}"),
            Self::EndpointSlice(name) => write!(out, "EndpointSlice {name}"),
            Self::Node(name) => write!(out, "Node {name}"),
            Self::Ingress(name) => write!(out, "Ingress {name}"),
            Self::IngressClass(name) => write!(out, "IngressClass {name}"),
            Self::Secret(name) => write!(out, "Secret {name}"),
            Self::File(name) => out.write_str(name),
        }
    }
}

/// A field of an object that is not served as written. Its text is `object: field: reason`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The object.
    pub object: ObjectName,
    /// The field; empty if the refusal is about the whole object.
    pub field: String,
    /// The reason.
    pub reason: String,
}

impl Refusal {
    /// A refusal of a field of an Ingress.
    pub(crate) fn ingress(name: &NamespacedName, field: String, reason: String) -> Self {
        Self {
            object: ObjectName::Ingress(name.clone()),
            field,
            reason,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            field,
            reason,
        } = self;
        if field.is_empty() {
            return write!(out, "{object}: {reason}");
        }
        write!(out, "{object}: {field}: {reason}")
    }
}
