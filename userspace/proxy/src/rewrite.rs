//! Rewritten paths and queries.

use headgate_model::edge::{PathChange, PathMatch, RedirectParts, Rewrite, Scheme, path};
use http::{Response, StatusCode, Uri, request::Parts, uri::PathAndQuery};

use crate::{
    answer,
    body::Body,
    call::{Call, with_query as join},
    variables::Variables,
};

/// Sets the path that the backend gets: the result of the rewrite rule, the normal form where the
/// client's spelling is ambiguous, or that spelling.
pub(crate) fn rewrite(call: &Call, parts: &mut Parts) -> Result<(), Response<Body>> {
    let asked = call.target(&parts.uri);
    let change = call.route.policy().path.as_ref();
    let target = match (*call.route).as_ref().rewrite() {
        Some(rule) => rewritten(rule, &Variables::of(call, parts, &asked)),
        None if change.is_some() => change.map(|change| changed(change, call, &asked)),
        None if call.spelling.is_some() => Some(asked.into_owned()),
        None => return Ok(()),
    };
    let target = target.and_then(|target| PathAndQuery::try_from(target).ok());
    let bad = || answer::error(StatusCode::BAD_REQUEST, "the path is invalid");
    parts.uri = Uri::from(target.ok_or_else(bad)?);
    Ok(())
}

/// Path and query after a rewrite rule; `None` if the path is invalid.
fn rewritten(rule: &Rewrite, variables: &Variables<'_>) -> Option<String> {
    let mut decoded = variables.render_path(&rule.target);
    if !decoded.starts_with('/') {
        decoded.insert(0, '/');
    }
    let form = path::decoded(&path::encoded(&decoded))?.into_owned();
    let path = path::encoded(&form).into_owned();
    Some(with_query(path, rule, variables))
}

/// Path and query after a change of the path: the query stays.
fn changed(change: &PathChange, call: &Call, target: &str) -> String {
    let path = match (change, &(*call.route).as_ref().path) {
        (PathChange::Full(path), _) => path::encoded(path),
        (PathChange::Prefix(new), PathMatch::Prefix(old)) => {
            let rest = call.path.strip_prefix(old.as_str()).unwrap_or(&call.path);
            let path = match (new.trim_end_matches('/'), rest) {
                ("", "") => "/".into(),
                (new, rest) => format!("{new}{rest}"),
            };
            path::encoded(&path).into_owned().into()
        }
        (PathChange::Prefix(_), _) => path::encoded(&call.path),
    };
    let query = target.split_once('?').map(|(_, query)| query);
    join(&path, query)
}

/// The address that clients are redirected to: that of the request, with other parts.
pub(crate) fn redirected(to: &RedirectParts, call: &Call, target: &str) -> String {
    let asked = match call.origin.is_secure {
        true => Scheme::Https,
        false => Scheme::Http,
    };
    let scheme = to.scheme.unwrap_or(asked);
    let named = to.port.or_else(|| to.scheme.map(Scheme::default_port));
    let port = named.unwrap_or(call.origin.port);
    let host = to.host.as_deref().unwrap_or(&call.host);
    let port = match port == scheme.default_port() {
        true => String::new(),
        false => format!(":{port}"),
    };
    let target = match &to.path {
        Some(change) => changed(change, call, target),
        None => target.into(),
    };
    format!("{}://{host}{port}{target}", scheme.as_str())
}

/// The address that clients are redirected to by a rewrite rule.
pub(crate) fn location(rule: &Rewrite, variables: &Variables<'_>) -> String {
    with_query(variables.render(&rule.target), rule, variables)
}

/// Adds the query of a rule, then that of the request unless the rule removes it.
fn with_query(mut text: String, rule: &Rewrite, variables: &Variables<'_>) -> String {
    let own = rule
        .query
        .as_ref()
        .map(|query| variables.render_query(query));
    let asked = variables.query().filter(|_| rule.keeps_query);
    for (number, query) in own.as_deref().into_iter().chain(asked).enumerate() {
        text.push(if number == 0 { '?' } else { '&' });
        text.push_str(query);
    }
    text
}
