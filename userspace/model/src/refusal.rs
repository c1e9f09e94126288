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
    /// An object of the Gateway API, or one that only it uses: kind and name.
    Gateway(&'static str, NamespacedName),
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
            Self::Gateway(kind, name) => write!(out, "{kind} {name}"),
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
    /// What ends the refusal.
    pub kind: RefusalKind,
}

/// What ends a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalKind {
    /// Another object of this name, or fewer of others.
    #[default]
    Change,
    /// The Service that the field names.
    Service,
    /// The Ingress whose requests the canary takes.
    MainIngress,
}

/// A reason with its kind.
#[derive(Debug)]
pub(crate) struct Reason(pub(crate) RefusalKind, pub(crate) String);

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self(RefusalKind::default(), text)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Refusal {
    /// A refusal that a change of the object ends.
    pub fn new(object: ObjectName, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            object,
            field: field.into(),
            reason: reason.into(),
            kind: RefusalKind::default(),
        }
    }

    /// A refusal of a field of an Ingress.
    pub(crate) fn ingress(name: &NamespacedName, field: String, reason: impl Into<Reason>) -> Self {
        let Reason(kind, reason) = reason.into();
        Self {
            object: ObjectName::Ingress(name.clone()),
            field,
            reason,
            kind,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            field,
            reason,
            kind: _,
        } = self;
        if field.is_empty() {
            return write!(out, "{object}: {reason}");
        }
        write!(out, "{object}: {field}: {reason}")
    }
}
