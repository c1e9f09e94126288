//! Rules of HTTPRoutes.

use std::time::Duration;

use super::{
    Problem, World,
    backend_tls::Policies,
    object::{HttpMatch, HttpRoute, HttpRule, PathMatchType, RouteTimeouts, RuleRetry},
    patterns::{Patterns, RoutePatterns},
    rules::{self, Judged, Match, Rule, named, unsupported},
};
use crate::edge::{Condition, PathMatch, Policy, Resend, Retry, RouteKind, Text, Timeouts, path};

/// Methods of the schema.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
/// A time that no connection reaches.
pub(super) const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Judges the rules of an HTTPRoute.
pub(super) fn judge(
    world: &World<'_>,
    policies: &Policies,
    patterns: &mut Patterns,
    route: &HttpRoute,
) -> Judged {
    let mut patterns = RoutePatterns::new(patterns, &route.meta.name.namespace);
    let rules = route.spec.rules.iter().map(|rule| Rule {
        name: rule.name.as_deref().filter(|name| !name.is_empty()),
        filters: &rule.filters,
        backends: &rule.backend_refs,
        matches: matches(&mut patterns, rule),
        policy: policy(rule),
    });
    let judged = rules::judge(world, policies, &route.meta, RouteKind::HttpRoute, rules);
    Judged {
        patterns: patterns.used,
        ..judged
    }
}

fn matches(patterns: &mut RoutePatterns<'_>, rule: &HttpRule) -> Result<Vec<Match>, Problem> {
    if rule.matches.is_empty() {
        return Ok(vec![request_match(patterns, &HttpMatch::default())?]);
    }
    let matches = rule.matches.iter();
    matches.map(|one| request_match(patterns, one)).collect()
}

fn request_match(patterns: &mut RoutePatterns<'_>, one: &HttpMatch) -> Result<Match, Problem> {
    let given = one.path.clone().unwrap_or_default();
    let invalid = |reason| unsupported(format!("path `{}`: {reason}", given.value));
    let of_rule = || path::of_rule(&given.value).map_err(invalid);
    let (path, length) = match &given.type_ {
        PathMatchType::Exact => {
            let path = of_rule()?;
            (PathMatch::Exact(path.clone()), path.chars().count())
        }
        PathMatchType::PathPrefix => {
            let path = of_rule()?;
            let prefix = path.strip_suffix('/').unwrap_or(&path);
            (PathMatch::Prefix(prefix.into()), prefix.chars().count())
        }
        PathMatchType::RegularExpression => {
            let pattern = patterns.whole(&given.value)?;
            (PathMatch::Regex(pattern), given.value.chars().count())
        }
        PathMatchType::Other(other) => {
            return Err(unsupported(format!("path match {other} is not supported")));
        }
    };
    let headers = named(
        patterns,
        &one.headers,
        str::to_ascii_lowercase,
        Condition::Header,
    )?;
    let query = named(
        patterns,
        &one.query_params,
        str::to_owned,
        Condition::FirstQuery,
    )?;
    let method = match one.method.as_deref() {
        Some(method) if !METHODS.contains(&method) => {
            return Err(unsupported(format!("method {method} is not supported")));
        }
        method => method.map(|method| Condition::Method(Text::OneOf(vec![method.into()]))),
    };
    let exactness = [
        usize::from(matches!(path, PathMatch::Exact(_))),
        length,
        usize::from(method.is_some()),
        headers.len(),
        query.len(),
    ];
    Ok(Match {
        path,
        conditions: method.into_iter().chain(headers).chain(query).collect(),
        exactness,
    })
}

fn policy(rule: &HttpRule) -> Result<Policy, Problem> {
    if rule.session_persistence.is_some() {
        return Err(unsupported("sessionPersistence is not supported".into()));
    }
    let neutral = Policy::neutral();
    Ok(Policy {
        timeouts: match &rule.timeouts {
            Some(timeouts) => self::timeouts(timeouts)?,
            None => neutral.timeouts,
        },
        retry: match &rule.retry {
            Some(retry) => self::retry(retry)?,
            None => neutral.retry.clone(),
        },
        ..neutral
    })
}

/// A response may take as long as the rule says, and without a limit forever.
fn timeouts(timeouts: &RouteTimeouts) -> Result<Timeouts, Problem> {
    let limit = |text: &Option<String>| text.as_deref().map(duration).transpose();
    let (total, per_try) = (limit(&timeouts.request)?, limit(&timeouts.backend_request)?);
    let limit = |given: Option<Duration>| given.filter(|time| !time.is_zero());
    let neutral = Timeouts::default();
    let longest = match (limit(per_try), limit(total)) {
        (None, None) if total.or(per_try).is_some() => NEVER,
        (per_try, total) => per_try.or(total).unwrap_or(neutral.read).max(neutral.read),
    };
    Ok(Timeouts {
        read: longest,
        send: longest,
        total: limit(total),
        per_try: limit(per_try),
        ..neutral
    })
}

/// The most times that a request is sent again. The API has no upper bound.
const MOST_ATTEMPTS: i64 = 32;
/// The least time between two tries, if a rule does not say.
const LEAST_BACKOFF: Duration = Duration::from_millis(5);

fn retry(retry: &RuleRetry) -> Result<Retry, Problem> {
    let codes = retry.codes.iter().map(|code| {
        let number = u16::try_from(*code).ok();
        let number = number.filter(|code| (400..600).contains(code));
        number.ok_or_else(|| unsupported(format!("retry code {code} is not 400 to 599")))
    });
    let attempts = retry.attempts.unwrap_or(1);
    let attempts = u32::try_from(attempts.min(MOST_ATTEMPTS))
        .map_err(|_negative| unsupported(format!("{attempts} is not a number of attempts")))?;
    let backoff = retry.backoff.as_deref().map(duration).transpose()?;
    Ok(Retry {
        tries: attempts.saturating_add(1),
        on_error: true,
        on_timeout: true,
        on_codes: codes.collect::<Result<_, _>>()?,
        resend: Resend::Always,
        same_endpoint: true,
        backoff: backoff.unwrap_or(LEAST_BACKOFF),
    })
}

/// Parses a duration (GEP-2257): up to four numbers of at most five digits with `h`, `m`, `s` or `ms`.
pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
    let invalid = || unsupported(format!("`{text}` is not a duration like 1m30s"));
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        if digits == 0 || digits > 5 {
            return Err(invalid());
        }
        let number: u64 = number.parse().map_err(|_text| invalid())?;
        let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit);
        sum += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(invalid()),
        };
        if after.is_empty() {
            return Ok(sum);
        }
        rest = after;
    }
    Err(invalid())
}
