//! The objects that routes are made from.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{EndpointSlice, NamespacedName};

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

/// A Service, reduced to what a proxy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamService {
    /// Its random id (`metadata.uid`), which all nodes know and clients do not. May be empty in
    /// manifests: then namespace and name stand for it, which clients may guess.
    pub uid: String,
    /// Its TCP ports.
    pub ports: Vec<UpstreamPort>,
    /// Cluster IPs of one or two families; empty if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether its type is `ExternalName`: it cannot be a backend.
    pub is_external: bool,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamPort {
    /// Name; may be empty if it is the only one.
    pub name: String,
    /// Port of the cluster IP, not 0.
    pub port: u16,
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
