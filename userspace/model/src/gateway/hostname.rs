//! Host names of listeners and routes. An empty one stands for all names; `*.a.b` for all names with one
//! or more labels before `.a.b`, and not for `a.b`.

use std::collections::BTreeSet;

use crate::edge::HostMode;

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

/// A set of host names.
#[derive(Debug, Default)]
pub(super) struct Hostnames {
    all: BTreeSet<String>,
    /// The same backwards: names with a common end are beside each other.
    reversed: BTreeSet<String>,
}

impl Hostnames {
    pub(super) fn insert(&mut self, name: &str) {
        if !self.all.contains(name) {
            self.all.insert(name.to_owned());
            self.reversed.insert(reversed(name));
        }
    }

    /// Whether a name of the set has a host in common with a name.
    pub(super) fn meet(&self, name: &str) -> bool {
        if name.is_empty() {
            return !self.all.is_empty();
        }
        let is_known = |name: &str| self.all.contains(name).then_some(());
        let mut covering = HostMode::Suffix.all(name, is_known);
        let is_covered = covering.next().is_some();
        is_covered
            || name
                .strip_prefix('*')
                .is_some_and(|end| self.has_below(end))
    }

    /// Whether a name of the set has an end.
    fn has_below(&self, end: &str) -> bool {
        let begin = reversed(end);
        let first = self.reversed.range(begin.clone()..).next();
        first.is_some_and(|name| name.starts_with(&begin))
    }
}

fn reversed(name: &str) -> String {
    name.chars().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::{Hostnames, intersect};

    #[test]
    fn g52_a_set_of_names_meets_those_that_one_of_it_meets() {
        let names = [
            "", "a.b", "*.a.b", "x.a.b", "y.x.a.b", "*.x.a.b", "*.b", "xa.b", "c", "*.c",
        ];
        for one in names {
            let mut set = Hostnames::default();
            assert!(!set.meet(one), "{one}");
            set.insert(one);
            for other in names {
                let expected = intersect(one, other).is_some();
                assert_eq!(set.meet(other), expected, "{one} {other}");
            }
        }
    }
}
