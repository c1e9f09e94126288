//! What exists.

use std::{collections::BTreeMap, fmt};

use crate::{EndpointSlice, NamespacedName, Service};

/// Everything that Ingresses are made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Ingresses.
    pub ingresses: BTreeMap<NamespacedName, Ingress>,
    /// Classes, by name.
    pub classes: BTreeMap<String, IngressClass>,
    /// Secrets.
    pub secrets: BTreeMap<NamespacedName, Secret>,
    /// Services, headless ones as well.
    pub services: BTreeMap<NamespacedName, Service>,
    /// Slices of their endpoints, by Service and name.
    pub slices: BTreeMap<NamespacedName, BTreeMap<NamespacedName, EndpointSlice>>,
}

/// An Ingress (`networking.k8s.io/v1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Its name.
    pub name: NamespacedName,
    /// When it was created, in seconds since 1970; objects without are the youngest.
    pub created_s: Option<i64>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec.ingressClassName`.
    pub class: Option<String>,
    /// `spec.defaultBackend`.
    pub default_backend: Option<IngressBackend>,
    /// `spec.rules`.
    pub rules: Vec<IngressRule>,
    /// `spec.tls`.
    pub tls: Vec<IngressTls>,
}

/// One of `spec.rules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRule {
    /// The host in lower case, `*.` for any one label in front; empty for every host.
    pub host: String,
    /// `http.paths`.
    pub paths: Vec<IngressPath>,
}

/// One of `http.paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPath {
    /// `path`; starts with `/` or is empty.
    pub path: String,
    /// `pathType`.
    pub path_type: PathType,
    /// `backend`.
    pub backend: IngressBackend,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathType {
    /// The whole path.
    Exact,
    /// Its first elements.
    Prefix,
    /// As the class says: like `Prefix`, or a regular expression if the Ingress asks for it.
    ImplementationSpecific,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressBackend {
    /// A port of a Service in the namespace of the Ingress.
    Service {
        /// Its name.
        name: String,
        /// Its port.
        port: PortName,
    },
    /// An object of some other kind, which nobody here can serve.
    Resource {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// By name.
    Name(String),
    /// By number.
    Number(u16),
}

impl fmt::Display for PortName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Number(number) => write!(out, "{number}"),
        }
    }
}

/// One of `spec.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressTls {
    /// Hosts in lower case; empty means those of the rules.
    pub hosts: Vec<String>,
    /// Secret with the certificate; without one the default certificate is shown.
    pub secret: Option<String>,
}

/// An IngressClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressClass {
    /// `spec.controller`.
    pub controller: String,
    /// Annotation `ingressclass.kubernetes.io/is-default-class`.
    pub is_default: bool,
    /// Kind and name of `spec.parameters`, which nobody here reads.
    pub parameters: Option<String>,
}

/// A Secret. Its values are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// `type`.
    pub type_: String,
    /// `data`, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.data.keys();
        write!(
            out,
            "Secret({}, {:?})",
            self.type_,
            keys.collect::<Vec<_>>()
        )
    }
}
