//! Ingresses, their classes, and Secrets.
//!
//! A rule that loses a part could match more than was written: a rule without its invalid host
//! would be for every host, a `spec.tls` entry without its invalid hosts for the hosts of all
//! rules, and a default backend without rules for every host. These are left out as a whole.

use headgate_model::{
    NamespacedName,
    edge::{PortName, Secret},
    ingress::{
        Ingress, IngressBackend, IngressClass, IngressPath, IngressRule, IngressTls, PathType,
    },
};
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use kube::ResourceExt;

use super::{Refusals, names, port_number};

const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// Types of Secrets that no Ingress uses and clusters have many of.
pub(crate) const SKIPPED_SECRETS: [&str; 2] =
    ["kubernetes.io/service-account-token", "helm.sh/release.v1"];

/// An Ingress.
pub(super) fn ingress(
    object: &networking::Ingress,
    name: NamespacedName,
    refusals: &mut Refusals,
) -> Ingress {
    let spec = object.spec.clone().unwrap_or_default();
    let given = spec.rules.unwrap_or_default();
    if given.is_empty() && spec.default_backend.is_none() {
        refusals.add("spec", "either `defaultBackend` or `rules` must be given");
    }
    let default_backend = spec.default_backend.as_ref();
    let default_backend =
        default_backend.and_then(|backend| self::backend("spec.defaultBackend", backend, refusals));
    let rules = given.iter().enumerate().filter_map(|(index, rule)| {
        let field = format!("spec.rules[{index}]");
        ingress_rule(&field, rule, refusals)
    });
    let rules: Vec<IngressRule> = rules.collect();
    let lost_all = rules.is_empty() && !given.is_empty();
    let entries = spec.tls.iter().flatten().enumerate();
    let entries = entries.filter_map(|(index, entry)| {
        let field = format!("spec.tls[{index}]");
        tls(&field, entry, refusals)
    });
    let tls = entries.collect();
    Ingress {
        name,
        created_s: object.creation_timestamp().map(|time| time.0.as_second()),
        annotations: object.annotations().clone(),
        class: spec.ingress_class_name,
        default_backend: default_backend.filter(|_| !lost_all),
        rules,
        tls,
    }
}

fn ingress_rule(
    field: &str,
    rule: &networking::IngressRule,
    refusals: &mut Refusals,
) -> Option<IngressRule> {
    let host = match rule.host.as_deref() {
        None | Some("") => String::new(),
        Some(text) => refusals.keep(&format!("{field}.host"), names::host(text))?,
    };
    // A rule without paths is for the default backend.
    let paths = rule.http.iter().flat_map(|http| &http.paths).enumerate();
    let paths = paths.filter_map(|(index, path)| {
        let field = format!("{field}.http.paths[{index}]");
        ingress_path(&field, path, refusals)
    });
    Some(IngressRule {
        host,
        paths: paths.collect(),
    })
}

fn ingress_path(
    field: &str,
    path: &networking::HTTPIngressPath,
    refusals: &mut Refusals,
) -> Option<IngressPath> {
    let path_type = match path.path_type.as_str() {
        "Exact" => Ok(PathType::Exact),
        "Prefix" => Ok(PathType::Prefix),
        "ImplementationSpecific" => Ok(PathType::ImplementationSpecific),
        "" => Err("is missing".into()),
        other => Err(format!(
            "{other} is not one of Exact, Prefix, ImplementationSpecific"
        )),
    };
    // All fields are checked, so that all errors are reported together.
    let path_type = refusals.keep(&format!("{field}.pathType"), path_type);
    let text = path.path.clone().unwrap_or_default();
    let checked = check_path(&text, path_type);
    let text = refusals.keep(&format!("{field}.path"), checked.map(|()| text));
    let backend = backend(&format!("{field}.backend"), &path.backend, refusals);
    Some(IngressPath {
        path: text?,
        path_type: path_type?,
        backend: backend?,
    })
}

/// Applies the API server's rules for paths.
fn check_path(path: &str, path_type: Option<PathType>) -> Result<(), String> {
    const PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
    const ENDS: [&str; 2] = ["/..", "/."];
    let is_literal = matches!(path_type, Some(PathType::Exact | PathType::Prefix));
    if !path.starts_with('/') && (is_literal || !path.is_empty()) {
        return Err(format!("`{path}` does not start with `/`"));
    }
    let part = PARTS.iter().find(|part| path.contains(*part));
    let end = ENDS.iter().find(|end| path.ends_with(*end));
    match part.or(end) {
        Some(text) if is_literal => Err(format!("`{path}` must not contain `{text}`")),
        _ => Ok(()),
    }
}

fn backend(
    field: &str,
    backend: &networking::IngressBackend,
    refusals: &mut Refusals,
) -> Option<IngressBackend> {
    match (&backend.service, &backend.resource) {
        (Some(service), None) => {
            let field = format!("{field}.service");
            let name = refusals.keep(&format!("{field}.name"), names::service(&service.name));
            let port = port(&field, service.port.as_ref(), refusals);
            Some(IngressBackend::Service {
                name: name?,
                port: port?,
            })
        }
        (None, Some(resource)) => Some(IngressBackend::Resource {
            kind: resource.kind.clone(),
            name: resource.name.clone(),
        }),
        (Some(_), Some(_)) => {
            refusals.add(field, "both a service and a resource are given");
            None
        }
        (None, None) => {
            refusals.add(field, "neither a service nor a resource is given");
            None
        }
    }
}

fn port(
    field: &str,
    port: Option<&networking::ServiceBackendPort>,
    refusals: &mut Refusals,
) -> Option<PortName> {
    let name = port.and_then(|port| port.name.as_deref());
    let number = port.and_then(|port| port.number);
    // 0 and the empty text mean: not given.
    match (name.filter(|name| !name.is_empty()), number) {
        (Some(name), None | Some(0)) => {
            let name = refusals.keep(&format!("{field}.port.name"), names::port(name));
            name.map(PortName::Name)
        }
        (None, Some(number)) if number != 0 => {
            let number = refusals.keep(&format!("{field}.port.number"), port_number(number));
            number.map(PortName::Number)
        }
        (Some(_), Some(_)) => {
            refusals.add(format!("{field}.port"), "both name and number are given");
            None
        }
        (None, _) => {
            refusals.add(format!("{field}.port"), "neither name nor number is given");
            None
        }
    }
}

fn tls(field: &str, tls: &networking::IngressTLS, refusals: &mut Refusals) -> Option<IngressTls> {
    let texts = tls.hosts.iter().flatten();
    let hosts = texts.clone().enumerate().filter_map(|(index, text)| {
        let field = format!("{field}.hosts[{index}]");
        refusals.keep(&field, names::host(text))
    });
    let hosts: Vec<String> = hosts.collect();
    let secret = match tls.secret_name.as_deref() {
        None | Some("") => None,
        Some(text) => Some(refusals.keep(&format!("{field}.secretName"), names::secret(text))?),
    };
    let lost_all = hosts.is_empty() && texts.count() > 0;
    (!lost_all).then_some(IngressTls { hosts, secret })
}

/// An IngressClass, or `None` if it names no controller.
pub(super) fn class(
    object: &networking::IngressClass,
    refusals: &mut Refusals,
) -> Option<IngressClass> {
    let spec = object.spec.clone().unwrap_or_default();
    let controller = spec.controller.filter(|controller| !controller.is_empty());
    let controller = controller.ok_or_else(|| "is missing".to_owned());
    let is_default = object.annotations().get(DEFAULT_CLASS);
    let parameters = spec.parameters;
    Some(IngressClass {
        controller: refusals.keep("spec.controller", controller)?,
        is_default: is_default.is_some_and(|text| text == "true"),
        parameters: parameters.map(|object| format!("{} {}", object.kind, object.name)),
    })
}

/// A Secret, or `None` if no Ingress uses its type.
pub(super) fn secret(object: &core::Secret) -> Option<Secret> {
    let type_ = object.type_.clone().unwrap_or_else(|| "Opaque".into());
    if SKIPPED_SECRETS.contains(&type_.as_str()) {
        return None;
    }
    let data = object.data.iter().flatten();
    let data = data.map(|(key, value)| (key.clone(), value.0.clone()));
    // The API server converts `stringData` to `data`, where it wins too; manifests still have it.
    let texts = object.string_data.iter().flatten();
    let texts = texts.map(|(key, text)| (key.clone(), text.clone().into_bytes()));
    Some(Secret {
        type_,
        data: data.chain(texts).collect(),
    })
}
