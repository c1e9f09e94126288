//! Rules of GRPCRoutes.

use super::{
    Problem, World,
    object::{GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRule, MatchType},
    rules::{self, Judged, Match, Rule, named, pattern, unsupported},
};
use crate::edge::{Condition, PathMatch, Policy, RouteKind};

/// Judges the rules of a GRPCRoute.
pub(super) fn judge(world: &World<'_>, route: &GrpcRoute) -> Judged {
    let rules = route.spec.rules.iter().map(|rule| Rule {
        name: rule.name.as_deref().filter(|name| !name.is_empty()),
        filters: &rule.filters,
        backends: &rule.backend_refs,
        matches: matches(rule),
        policy: match rule.session_persistence.is_some() {
            true => Err(unsupported("sessionPersistence is not supported".into())),
            false => Ok(Policy::neutral()),
        },
    });
    rules::judge(world, &route.meta, RouteKind::GrpcRoute, rules)
}

fn matches(rule: &GrpcRule) -> Result<Vec<Match>, Problem> {
    if rule.matches.is_empty() {
        return Ok(vec![call_match(&GrpcMatch::default())?]);
    }
    rule.matches.iter().map(call_match).collect()
}

fn call_match(one: &GrpcMatch) -> Result<Match, Problem> {
    let (path, service, method) = match &one.method {
        Some(method) => path(method)?,
        None => (PathMatch::Prefix(String::new()), 0, 0),
    };
    let headers = named(&one.headers, str::to_ascii_lowercase, Condition::Header)?;
    Ok(Match {
        path,
        exactness: [service, method, headers.len(), 0, 0],
        conditions: headers,
    })
}

/// The path of a call is `/service/method`. Returns the lengths of both as well.
fn path(given: &GrpcMethodMatch) -> Result<(PathMatch, usize, usize), Problem> {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let (service, method) = (text(&given.service), text(&given.method));
    let lengths = (service.chars().count(), method.chars().count());
    let any = |part: &str| match part.is_empty() {
        true => "[^/]+".to_owned(),
        false => format!("(?:{part})"),
    };
    let path = match (&given.type_, service.is_empty(), method.is_empty()) {
        (MatchType::Other(other), ..) => {
            return Err(unsupported(format!(
                "method match {other} is not supported"
            )));
        }
        (_, true, true) => PathMatch::Prefix(String::new()),
        (MatchType::Exact, false, false) => PathMatch::Exact(format!("/{service}/{method}")),
        (MatchType::Exact, false, true) => PathMatch::Prefix(format!("/{service}")),
        (MatchType::Exact, true, false) => {
            let method = regex_syntax::escape(&method);
            PathMatch::Regex(pattern(&format!("/[^/]+/{method}"))?)
        }
        (MatchType::RegularExpression, ..) => {
            let text = format!("/{}/{}", any(&service), any(&method));
            PathMatch::Regex(pattern(&text)?)
        }
    };
    Ok((path, lengths.0, lengths.1))
}
