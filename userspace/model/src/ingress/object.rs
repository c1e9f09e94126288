//! The objects that routes are made from.

use std::collections::BTreeMap;

use crate::{
    EndpointSlice, NamespacedName,
    edge::{PortName, Secret, UpstreamService},
};

/// The objects that routes are made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Ingresses.
    pub ingresses: BTreeMap<NamespacedName, Ingress>,
    /// Classes, by name.
    pub classes: BTreeMap<String, IngressClass>,
    /// Secrets.
    pub secrets: BTreeMap<NamespacedName, Secret>,
    /// Services, headless ones as well.
    pub services: BTreeMap<NamespacedName, UpstreamService>,
    /// EndpointSlices, by Service and name.
    pub slices: BTreeMap<NamespacedName, BTreeMap<NamespacedName, EndpointSlice>>,
}

/// An Ingress (`networking.k8s.io/v1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Its name.
    pub name: NamespacedName,
    /// Creation time in seconds since 1970; `None` counts as the youngest.
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
    /// The host in lower case, perhaps with `*.` in front for any one label; empty for every host.
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
    /// Like `Prefix`, or a regular expression with `use-regex`.
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
    /// An object of another kind, which is not supported.
    Resource {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// One of `spec.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressTls {
    /// Hosts in lower case; empty means those of the rules.
    pub hosts: Vec<String>,
    /// Secret with the certificate; without one the default certificate is used.
    pub secret: Option<String>,
}

/// An IngressClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressClass {
    /// `spec.controller`.
    pub controller: String,
    /// Annotation `ingressclass.kubernetes.io/is-default-class`.
    pub is_default: bool,
    /// Kind and name of `spec.parameters`, which is not supported.
    pub parameters: Option<String>,
}
