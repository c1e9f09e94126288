//! What HTTPRoutes and GRPCRoutes have in common: rules become routes of a proxy.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::{
    Problem, World,
    backend::{Backends, Carried},
    backend_tls::Policies,
    filters::{self, Filters},
    object::{Age, BackendRef, Filter, GROUP, MatchType, Meta, NamedMatch},
    patterns::{RoutePatterns, Used},
    reference::Referrer,
};
use crate::{
    NamespacedName,
    edge::{
        Condition, Cors, HeaderEdit, Mirror, PathChange, PathMatch, Policy, Redirect, Route,
        RouteKind, RouteOrigin, Target, Template, Text, UpstreamService, WeightedTarget,
    },
};

/// The reason of a value that is not known or not valid.
const UNSUPPORTED: &str = "UnsupportedValue";

/// The order of routes of a host: what matches more exactly first, then older objects, then earlier rules
/// and matches.
pub(super) type Rank = (Reverse<[usize; 5]>, Age, usize, usize);

/// The rules of a route, judged.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Routes of a proxy.
    pub(super) routes: Vec<(Rank, Arc<Route>)>,
    /// Services that are named, as they were.
    pub(super) services: BTreeMap<NamespacedName, Option<UpstreamService>>,
    /// Regular expressions.
    pub(super) patterns: Used,
    /// The first reference that is not valid.
    pub(super) unresolved: Option<Problem>,
    /// Why no rule can be served.
    pub(super) refusal: Option<Problem>,
    /// Why some rules cannot be served.
    pub(super) partial: Option<Problem>,
}

/// A rule, as both kinds have it.
pub(super) struct Rule<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) filters: &'a [Filter],
    pub(super) backends: &'a [BackendRef],
    /// Conditions of each match, with what its rank depends on.
    pub(super) matches: Result<Vec<Match>, Problem>,
    /// What else is done with requests.
    pub(super) policy: Result<Policy, Problem>,
}

/// A match of a rule.
pub(super) struct Match {
    pub(super) path: PathMatch,
    pub(super) conditions: Vec<Condition>,
    /// The larger the more exact.
    pub(super) exactness: [usize; 5],
}

/// Judges the rules of an object.
pub(super) fn judge<'a>(
    world: &World<'_>,
    policies: &Policies,
    meta: &Meta,
    kind: RouteKind,
    rules: impl Iterator<Item = Rule<'a>>,
) -> Judged {
    let kind_name = kind.to_string();
    let from = Referrer {
        group: GROUP,
        kind: &kind_name,
        namespace: &meta.name.namespace,
    };
    let carried = match kind {
        RouteKind::GrpcRoute => Carried::Grpc,
        _ => Carried::Http,
    };
    let mut backends = Backends::new(world, policies, from, carried);
    let mut judged = Judged::default();
    let mut dropped: Vec<(String, Problem)> = Vec::new();
    let mut kept = 0;
    for (index, rule) in rules.enumerate() {
        let name = rule.name.map_or_else(|| index.to_string(), Into::into);
        let rule_filters = filters::read(rule.filters, &mut backends);
        let targets = targets(rule.backends, &mut backends);
        let matches = match rule.matches {
            Ok(matches) => matches,
            Err(problem) => {
                dropped.push((name, problem));
                continue;
            }
        };
        let mut is_kept = true;
        let mut policy = match rule.policy {
            Ok(policy) => policy,
            Err(problem) => {
                dropped.push((name, problem));
                continue;
            }
        };
        let rule_filters = match rule_filters {
            Filters::Valid(changes) if changes.replaces_prefix() && !is_prefix(&matches) => {
                let why = "ReplacePrefixMatch needs exactly one match, of type PathPrefix";
                Filters::Closed(unsupported(why.into()))
            }
            filters => filters,
        };
        let targets = match rule_filters {
            Filters::Valid(changes) => {
                changes.apply(&mut policy);
                targets
            }
            Filters::Dropped(problem) => {
                dropped.push((name, problem));
                continue;
            }
            // The filter may be a guard: its requests must not reach the backend, nor another rule.
            Filters::Closed(problem) => {
                let closed = WeightedTarget::only(Target::Invalid(problem.message.clone()));
                is_kept = problem.reason != UNSUPPORTED;
                match is_kept {
                    true => backends.problems.push(problem),
                    false => dropped.push((name.clone(), problem)),
                }
                closed
            }
        };
        kept += usize::from(is_kept);
        let policy = Arc::new(policy);
        let origin = RouteOrigin {
            kind,
            name: meta.name.clone(),
            rule: Some(name),
        };
        for (number, one) in matches.into_iter().enumerate() {
            let rank = (Reverse(one.exactness), meta.age(), index, number);
            let route = Route {
                origin: origin.clone(),
                path: one.path,
                conditions: one.conditions,
                targets: targets.clone(),
                canary: None,
                policy: policy.clone(),
            };
            judged.routes.push((rank, Arc::new(route)));
        }
    }
    judged.services = backends.services;
    judged.unresolved = backends.problems.into_iter().next();
    if let Some((_, first)) = dropped.first() {
        let names: Vec<&str> = dropped.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        let problem = Problem::new(first.reason, format!("rule {names}: {}", first.message));
        match kept {
            0 => judged.refusal = Some(problem),
            _ => {
                let message = format!("Dropped Rule {names}: {}", first.message);
                judged.partial = Some(Problem::new(first.reason, message));
            }
        }
    }
    judged
}

/// The targets of a rule.
pub(super) fn targets(
    references: &[BackendRef],
    backends: &mut Backends<'_>,
) -> Vec<WeightedTarget> {
    let targets = references.iter().map(|reference| {
        let target = backends.target(reference);
        let (target, request_headers, response_headers) =
            match filters::of_backend(&reference.filters) {
                Ok((request, response)) => (target, request, response),
                Err(problem) => {
                    let closed = Target::Invalid(problem.message.clone());
                    backends.problems.push(problem);
                    (closed, Vec::new(), Vec::new())
                }
            };
        WeightedTarget {
            weight: u32::try_from(reference.weight).unwrap_or_default(),
            target,
            request_headers,
            response_headers,
        }
    });
    targets.collect()
}

/// What the filters of a rule change.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) request_headers: Vec<HeaderEdit>,
    pub(super) response_headers: Vec<HeaderEdit>,
    pub(super) redirect: Option<Redirect>,
    pub(super) rewrite: Option<(Option<PathChange>, Option<String>)>,
    pub(super) cors: Option<Cors>,
    pub(super) mirrors: Vec<Mirror>,
}

/// Whether requests match by one prefix of their path.
fn is_prefix(matches: &[Match]) -> bool {
    matches!(matches, [one] if matches!(one.path, PathMatch::Prefix(_)))
}

impl Changes {
    /// Whether the part of the path that matched is replaced.
    fn replaces_prefix(&self) -> bool {
        let rewrite = self.rewrite.as_ref().and_then(|(path, _)| path.as_ref());
        let redirect = match &self.redirect {
            Some(Redirect::Parts(parts)) => parts.path.as_ref(),
            _ => None,
        };
        let mut changes = rewrite.into_iter().chain(redirect);
        changes.any(|change| matches!(change, PathChange::Prefix(_)))
    }

    fn apply(self, policy: &mut Policy) {
        policy.request_headers = self.request_headers;
        policy.response_headers = self.response_headers;
        policy.redirect = self.redirect;
        policy.cors = self.cors;
        policy.mirrors = self.mirrors;
        if let Some((path, host)) = self.rewrite {
            policy.path = path;
            policy.host = host.map(Template::plain);
        }
    }
}

/// Conditions on headers or query parameters: of one name twice the first counts.
pub(super) fn named(
    patterns: &mut RoutePatterns<'_>,
    matches: &[NamedMatch],
    normal: fn(&str) -> String,
    condition: fn(String, Text) -> Condition,
) -> Result<Vec<Condition>, Problem> {
    let mut names: Vec<String> = Vec::new();
    let mut conditions = Vec::new();
    for one in matches {
        let name = normal(&one.name);
        if names.contains(&name) {
            continue;
        }
        names.push(name.clone());
        let text = match &one.type_ {
            MatchType::Exact => Text::OneOf(vec![one.value.clone()]),
            MatchType::RegularExpression => Text::Regex(patterns.whole(&one.value)?),
            MatchType::Other(type_) => {
                return Err(unsupported(format!("match type {type_} is not supported")));
            }
        };
        conditions.push(condition(name, text));
    }
    Ok(conditions)
}

pub(super) fn unsupported(message: String) -> Problem {
    Problem::new(UNSUPPORTED, message)
}
