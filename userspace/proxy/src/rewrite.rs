//! Rewritten paths and queries.

use headgate_model::ingress::{Rewrite, path};
use http::{Response, StatusCode, Uri, request::Parts, uri::PathAndQuery};

use crate::{answer, body::Body, call::Call, variables::Variables};

/// Sets the path that the backend gets: the result of the rewrite rule, the normal form where the
/// client's spelling is ambiguous, or that spelling.
pub(crate) fn rewrite(call: &Call, parts: &mut Parts) -> Result<(), Response<Body>> {
    let asked = call.target(&parts.uri);
    let target = match (*call.route).as_ref().rewrite() {
        Some(rule) => rewritten(rule, &Variables::of(call, parts, &asked)),
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
