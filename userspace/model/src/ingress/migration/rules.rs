//! Rules: matches, filters and backends.

use serde_json::{Value, json};

use super::{Place, Read};
use crate::{
    NamespacedName,
    edge::{CanaryRule, CorsOrigins, HeaderEdit, PortName, Redirect, Template, Text},
    ingress::{IngressBackend, IngressPath, PathType, annotations::Settings},
};

/// How a path is rewritten.
pub(super) enum Rewrite {
    /// Not at all, or by a filter.
    Filter(Option<Value>),
    /// By a policy with this target.
    Policy(String),
}

/// The match for a path, and how it is rewritten.
pub(super) fn path_match(path: &IngressPath, settings: &Settings) -> (Value, Rewrite) {
    let is_rewritten = settings.rewrites(path);
    let target = settings.rewrite_target.as_deref().filter(|_| is_rewritten);
    let value = match &*path.path {
        "" => "/",
        path => path,
    };
    let is_exact = path.path_type == PathType::Exact;
    let prefix = value.strip_suffix("(/|$)(.*)");
    let prefix = prefix.filter(|prefix| prefix.starts_with('/') && is_plain(prefix));
    if let (Some(prefix), Some("/$2"), false) = (prefix, target, is_exact) {
        let rewrite = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"});
        let found = json!({"type": "PathPrefix", "value": prefix});
        return (found, Rewrite::Filter(Some(url_rewrite(rewrite))));
    }
    let found = match (is_exact, settings.use_regex) {
        (true, _) => json!({"type": "Exact", "value": value}),
        (false, false) => json!({"type": "PathPrefix", "value": value}),
        // A Gateway compares whole paths, with case.
        (false, true) => json!({"type": "RegularExpression", "value": format!("(?i){value}.*")}),
    };
    let rewrite = match target {
        None => Rewrite::Filter(None),
        Some(target) if target.starts_with('/') && !target.contains(['$', '?']) => {
            let rewrite = json!({"type": "ReplaceFullPath", "replaceFullPath": target});
            Rewrite::Filter(Some(url_rewrite(rewrite)))
        }
        Some(target) => Rewrite::Policy(target.to_owned()),
    };
    (found, rewrite)
}

/// Whether a text of a regular expression stands for itself.
fn is_plain(text: &str) -> bool {
    let is_plain = |one: char| one.is_ascii_alphanumeric() || "/-_~".contains(one);
    text.chars().all(is_plain)
}

fn url_rewrite(path: Value) -> Value {
    json!({"type": "URLRewrite", "urlRewrite": {"path": path}})
}

/// The redirect to HTTPS.
pub(super) fn to_https() -> Value {
    redirect_filter(json!({"scheme": "https", "statusCode": 308}))
}

pub(super) fn redirect_filter(redirect: Value) -> Value {
    json!({"type": "RequestRedirect", "requestRedirect": redirect})
}

/// A redirect of every request, as the annotations have it.
///
/// # Errors
///
/// Why it has no equal.
pub(super) fn redirect(redirect: &Redirect) -> Result<Value, String> {
    let Redirect::Location { location, code } = redirect else {
        return Err("has no equal".into());
    };
    if ![301, 302, 303, 307, 308].contains(code) {
        return Err(format!("code {code} has no equal"));
    }
    let mut parts = json!({"statusCode": code});
    let text = location.to_string();
    let rest = match text.split_once("://") {
        Some((scheme, rest)) => {
            if ["http", "https"].contains(&scheme) {
                parts["scheme"] = scheme.into();
            }
            let end = rest.find(['/', '$']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) => (host, port.parse::<u16>().ok()),
                None => (authority, None),
            };
            parts["hostname"] = host.into();
            if let Some(port) = port {
                parts["port"] = port.into();
            }
            rest
        }
        None => &text,
    };
    match rest {
        "$request_uri" => {}
        rest if rest.contains(['$', '?']) => {
            return Err(format!(
                "`{text}` has no equal: only `$request_uri` at its end has one"
            ));
        }
        rest => {
            let path = if rest.is_empty() { "/" } else { rest };
            parts["path"] = json!({"type": "ReplaceFullPath", "replaceFullPath": path});
        }
    }
    Ok(redirect_filter(parts))
}

/// The text of a template without variables.
fn plain(template: &Template) -> Result<String, String> {
    match template.variables().next() {
        None => Ok(template.to_string()),
        Some(variable) => Err(format!("`${variable}` has no equal")),
    }
}

/// Filters for requests of all rules of an Ingress, with the annotations that have no equal.
pub(super) fn filters(read: &Read<'_>) -> (Vec<Value>, Vec<(&'static str, String)>) {
    let policy = &read.settings.policy;
    let mut filters = Vec::new();
    let mut lacks = Vec::new();
    if let Some(cors) = &policy.cors {
        let origins = match &cors.origins {
            CorsOrigins::All | CorsOrigins::Each => vec!["*".to_owned()],
            CorsOrigins::Listed(origins) => {
                let origins = origins.iter().map(|origin| {
                    let wildcard = if origin.wildcard.is_some() { "*." } else { "" };
                    format!("{}{wildcard}{}", origin.scheme, origin.host)
                });
                origins.collect()
            }
        };
        let list = |list: &crate::edge::CorsList| match list {
            crate::edge::CorsList::Listed(text) => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                items.map(Into::into).collect()
            }
            crate::edge::CorsList::Asked => vec!["*".to_owned()],
        };
        let mut filter = json!({
            "allowOrigins": origins,
            "allowMethods": list(&cors.methods),
            "allowHeaders": list(&cors.headers),
            "allowCredentials": cors.credentials,
            "maxAge": cors.max_age_s,
        });
        if let Some(expose) = &cors.expose {
            filter["exposeHeaders"] = json!(expose.split(", ").collect::<Vec<_>>());
        }
        filters.push(json!({"type": "CORS", "cors": filter}));
    }
    let mut request_headers = policy.request_headers.clone();
    if let Some(prefix) = &policy.forwarded_prefix {
        match plain(prefix) {
            Ok(text) => request_headers.push(HeaderEdit::Set("x-forwarded-prefix".into(), text)),
            Err(reason) => lacks.push(("x-forwarded-prefix", reason)),
        }
    }
    let edits = [
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            &request_headers,
        ),
        (
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            &policy.response_headers,
        ),
    ];
    for (type_, field, edits) in edits {
        let mut modifier = json!({});
        for edit in edits {
            let (list, item) = match edit {
                HeaderEdit::Set(name, value) => ("set", json!({"name": name, "value": value})),
                HeaderEdit::Add(name, value) => ("add", json!({"name": name, "value": value})),
                HeaderEdit::Remove(name) => ("remove", json!(name)),
            };
            if modifier[list].is_null() {
                modifier[list] = json!([]);
            }
            modifier[list]
                .as_array_mut()
                .into_iter()
                .for_each(|list| list.push(item.clone()));
        }
        if !edits.is_empty() {
            let mut filter = json!({"type": type_});
            filter[field] = modifier;
            filters.push(filter);
        }
    }
    if let Some((service, port, percent)) = &read.settings.mirror {
        let reference = json!({"name": service, "port": port});
        let mirror = json!({"backendRef": reference, "percent": percent});
        filters.push(json!({"type": "RequestMirror", "requestMirror": mirror}));
    }
    (filters, lacks)
}

/// The host that backends get.
pub(super) fn host(read: &Read<'_>) -> Result<Option<String>, String> {
    read.settings.policy.host.as_ref().map(plain).transpose()
}

/// Adds a filter that rewrites; there may be one for the path already.
pub(super) fn add_rewrite(filters: &mut Vec<Value>, path: Option<Value>, host: Option<&str>) {
    let mut filter = path.unwrap_or_else(|| json!({"type": "URLRewrite", "urlRewrite": {}}));
    if let Some(host) = host {
        filter["urlRewrite"]["hostname"] = host.into();
    }
    let is_empty = filter["urlRewrite"]
        .as_object()
        .is_none_or(|rewrite| rewrite.is_empty());
    if !is_empty {
        filters.push(filter);
    }
}

/// A backend of a route.
///
/// # Errors
///
/// Why it has no equal.
pub(super) fn backend(
    place: Place<'_>,
    namespace: &str,
    backend: &IngressBackend,
) -> Result<Value, String> {
    match backend {
        IngressBackend::Resource { kind, name } => {
            Err(format!("{kind} {name} is not supported as a backend"))
        }
        IngressBackend::Service { name, port } => {
            let number = match port {
                PortName::Number(number) => Some(*number),
                PortName::Name(port) => {
                    let service = NamespacedName::new(namespace, name);
                    let service = place.objects.services.get(&service);
                    let mut ports = service.iter().flat_map(|service| &service.ports);
                    ports
                        .find(|known| known.name == *port)
                        .map(|known| known.port)
                }
            };
            let missing = || {
                format!(
                    "port {port} of Service {name} must be a number: add the Service to the folder"
                )
            };
            Ok(json!({"name": name, "port": number.ok_or_else(missing)?}))
        }
    }
}

/// Rules of a canary that headers decide: a match of a header, and whether the canary gets the requests. Then its
/// weight, out of a sum.
pub(super) fn canary(rules: &[CanaryRule]) -> (Vec<(Value, bool)>, (u32, u32)) {
    let mut by_header = Vec::new();
    let mut weight = (0, 100);
    for rule in rules {
        match rule {
            CanaryRule::Header(name, None) => {
                for (value, is_canary) in [("always", true), ("never", false)] {
                    let header = json!({"type": "Exact", "name": name, "value": value});
                    by_header.push((header, is_canary));
                }
            }
            CanaryRule::Header(name, Some(text)) => {
                let values = match text {
                    Text::Any => vec![("RegularExpression", ".*".to_owned())],
                    Text::OneOf(values) => values
                        .iter()
                        .map(|value| ("Exact", value.clone()))
                        .collect(),
                    Text::Regex(pattern) => {
                        let text = pattern.regex().as_str();
                        let inner = text
                            .strip_prefix("^(?:")
                            .and_then(|text| text.strip_suffix(")$"));
                        vec![("RegularExpression", inner.unwrap_or(text).to_owned())]
                    }
                };
                for (type_, value) in values {
                    by_header.push((json!({"type": type_, "name": name, "value": value}), true));
                }
            }
            CanaryRule::Cookie(name) => {
                for (value, is_canary) in [("always", true), ("never", false)] {
                    let escaped = regex::escape(name);
                    let value = format!("(.*; *)?{escaped}={value}(;.*)?");
                    let header =
                        json!({"type": "RegularExpression", "name": "cookie", "value": value});
                    by_header.push((header, is_canary));
                }
            }
            CanaryRule::Weight {
                weight: part,
                total,
            } => weight = (*part, *total),
        }
    }
    (by_header, weight)
}
