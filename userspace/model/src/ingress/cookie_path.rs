//! Paths of the cookies that pin clients to endpoints.

use std::sync::Arc;

use crate::edge::{PathMatch, UpstreamPolicy};

/// Returns a policy whose cookie, if it has none of its own, has the path of a rule: other rules of the
/// host may be for other Services, whose cookies have the same name.
pub(crate) fn with_cookie_path(
    policy: &Arc<UpstreamPolicy>,
    path: &PathMatch,
) -> Arc<UpstreamPolicy> {
    let mut policy = policy.clone();
    if policy
        .sticky
        .as_ref()
        .is_some_and(|sticky| sticky.path.is_empty())
        && let Some(sticky) = &mut Arc::make_mut(&mut policy).sticky
    {
        sticky.path = escaped(&cookie_path(path));
    }
    policy
}

/// The path that all paths of a rule are at or below.
fn cookie_path(path: &PathMatch) -> String {
    let common = match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        PathMatch::Regex(pattern) => return literal_start(pattern.as_written()),
    };
    match common.is_empty() {
        true => "/".into(),
        false => common.clone(),
    }
}

/// What a regular expression for paths begins with, up to a whole segment.
fn literal_start(pattern: &str) -> String {
    let is_plain = |other: char| other.is_alphanumeric() || "/-_~".contains(other);
    let end = pattern
        .find(|other| !is_plain(other))
        .unwrap_or(pattern.len());
    let (start, rest) = pattern.split_at(end);
    let mut ends = ["$", "(/", "(?:/"].iter();
    let whole = match rest.is_empty() || ends.any(|end| rest.starts_with(end)) {
        true => start,
        false => start.rsplit_once('/').map_or("", |(folder, _)| folder),
    };
    match whole.trim_end_matches('/') {
        "" => "/".into(),
        whole => whole.into(),
    }
}

/// Escapes what cannot be in an attribute of a cookie. Clients compare the path as it is sent.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' if !b"\";<>\\^`{|}".contains(&byte) => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
