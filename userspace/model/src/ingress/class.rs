//! Which Ingresses are served.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::{NamespacedName, ObjectName, Refusal};

use super::{Ingress, IngressClass};

/// The annotation that named a class before `spec.ingressClassName`.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// Options that apply to all Ingresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressOptions {
    /// `spec.controller` of the classes that are served.
    pub controller: String,
    /// Whether Ingresses without a class are served.
    pub without_class: bool,
    /// Namespaces that are served; empty means all.
    pub namespaces: BTreeSet<String>,
    /// Whether Ingresses of other namespaces than that of a host's oldest Ingress may add paths to
    /// the host.
    pub share_hosts: bool,
    /// Networks of the node that authentication services may be in.
    pub auth_local: Vec<IpNet>,
    /// Service and port for requests that no route matches.
    pub default_backend: Option<(NamespacedName, u16)>,
    /// Secret with the certificate for hosts without one.
    pub default_certificate: Option<NamespacedName>,
}

impl Default for IngressOptions {
    fn default() -> Self {
        Self {
            controller: "headgate.io/ingress".into(),
            without_class: false,
            namespaces: BTreeSet::new(),
            share_hosts: false,
            auth_local: Vec::new(),
            default_backend: None,
            default_certificate: None,
        }
    }
}

/// The class that an Ingress names, in `spec.ingressClassName` or the older annotation.
fn class_name(ingress: &Ingress) -> Option<&String> {
    let old = ingress.annotations.get(OLD_CLASS);
    ingress.class.as_ref().or(old)
}

/// Returns whether an Ingress is served: its namespace is, and its class has our controller.
/// Without a class it is served if a default class has our controller, or with `without_class`.
pub fn serves(
    ingress: &Ingress,
    classes: &BTreeMap<String, IngressClass>,
    options: &IngressOptions,
) -> bool {
    let namespace = &ingress.name.namespace;
    if !options.namespaces.is_empty() && !options.namespaces.contains(namespace) {
        return false;
    }
    let is_ours = |class: &IngressClass| class.controller == options.controller;
    match class_name(ingress) {
        Some(name) => classes.get(name).is_some_and(is_ours),
        None => {
            let mut classes = classes.values();
            options.without_class || classes.any(|class| class.is_default && is_ours(class))
        }
    }
}

/// Refuses `spec.parameters` of the class of an Ingress.
pub(super) fn refuse_parameters(
    ingress: &Ingress,
    classes: &BTreeMap<String, IngressClass>,
) -> Option<Refusal> {
    let name = class_name(ingress)?;
    let parameters = classes.get(name)?.parameters.as_ref()?;
    Some(Refusal::new(
        ObjectName::IngressClass(name.clone()),
        "spec.parameters",
        format!("{parameters} is not supported"),
    ))
}
