//! Rules of GRPCRoutes.

use super::{
    Problem, World,
    backend_tls::Policies,
    http::NEVER,
    object::{GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRule, MatchType},
    patterns::{Patterns, RoutePatterns},
    rules::{self, Judged, Match, Rule, named, unsupported},
};
use crate::edge::{Condition, PathMatch, Policy, RouteKind, Timeouts};

/// Judges the rules of a GRPCRoute.
pub(super) fn judge(
    world: &World<'_>,
    policies: &Policies,
    patterns: &mut Patterns,
    route: &GrpcRoute,
) -> Judged {
    let mut patterns = RoutePatterns::new(patterns, &route.meta.name.namespace);
    let rules = route.spec.rules.iter().map(|rule| Rule {
        name: rule.name.as_deref().filter(|name| !name.is_empty()),
        filters: &rule.filters,
        backends: &rule.backend_refs,
        matches: matches(&mut patterns, rule),
        policy: match rule.session_persistence.is_some() {
            true => Err(unsupported("sessionPersistence is not supported".into())),
            false => Ok(policy()),
        },
    });
    let judged = rules::judge(world, policies, &route.meta, RouteKind::GrpcRoute, rules);
    Judged {
        patterns: patterns.used,
        ..judged
    }
}

/// Calls may be silent: they last as long as client and endpoint want.
fn policy() -> Policy {
    let neutral = Policy::neutral();
    Policy {
        timeouts: Timeouts {
            read: NEVER,
            send: NEVER,
            ..neutral.timeouts
        },
        ..neutral
    }
}

fn matches(patterns: &mut RoutePatterns<'_>, rule: &GrpcRule) -> Result<Vec<Match>, Problem> {
    if rule.matches.is_empty() {
        return Ok(vec![call_match(patterns, &GrpcMatch::default())?]);
    }
    let matches = rule.matches.iter();
    matches.map(|one| call_match(patterns, one)).collect()
}

fn call_match(patterns: &mut RoutePatterns<'_>, one: &GrpcMatch) -> Result<Match, Problem> {
    let (path, service, method) = match &one.method {
        Some(method) => path(patterns, method)?,
        None => (PathMatch::Prefix(String::new()), 0, 0),
    };
    let headers = named(
        patterns,
        &one.headers,
        str::to_ascii_lowercase,
        Condition::Header,
    )?;
    Ok(Match {
        path,
        exactness: [service, method, headers.len(), 0, 0],
        conditions: headers,
    })
}

/// The path of a call is `/service/method`. Returns the lengths of both as well.
fn path(
    patterns: &mut RoutePatterns<'_>,
    given: &GrpcMethodMatch,
) -> Result<(PathMatch, usize, usize), Problem> {
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
            PathMatch::Regex(patterns.whole(&format!("/[^/]+/{method}"))?)
        }
        (MatchType::RegularExpression, ..) => {
            let text = format!("/{}/{}", any(&service), any(&method));
            PathMatch::Regex(patterns.whole(&text)?)
        }
    };
    Ok((path, lengths.0, lengths.1))
}
