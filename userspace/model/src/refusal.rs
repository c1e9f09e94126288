//! What was asked for and is not done.

use std::fmt;

use crate::NamespacedName;

/// What a refusal is about.
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
    /// A file of manifests.
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

/// Something that was asked for and is not done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Who asked.
    pub object: ObjectName,
    /// The field; empty if it is about the whole object.
    pub field: String,
    /// Why not.
    pub reason: String,
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
