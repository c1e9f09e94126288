//! Host names of listeners and routes. An empty one stands for all names; `*.a.b` for all names with one
//! or more labels before `.a.b`, and not for `a.b`.

/// Returns a host name in lower case.
pub(super) fn normal(hostname: &str) -> String {
    hostname.to_ascii_lowercase()
}

/// Whether all names of `narrow` are names of `wide`.
fn covers(wide: &str, narrow: &str) -> bool {
    if wide.is_empty() || wide == narrow {
        return true;
    }
    let name = narrow.strip_prefix('*').unwrap_or(narrow);
    let longer = |suffix: &str| name.len() > suffix.len() && name.ends_with(suffix);
    // The suffix of a wildcard begins with a dot.
    wide.strip_prefix('*').is_some_and(longer)
}

/// Returns the names that both have, or `None` if there is no such name.
pub fn intersect<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    match (covers(one, other), covers(other, one)) {
        (true, _) => Some(other),
        (false, true) => Some(one),
        (false, false) => None,
    }
}
