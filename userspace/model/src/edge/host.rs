//! Hosts and wildcards.

use std::{borrow::Cow, iter};

/// Which hosts a wildcard `*.example.com` has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostMode {
    /// Those with one label more. The best host decides: if none of its routes matches, no other one
    /// is tried (Ingress).
    #[default]
    OneLabel,
    /// Those with one label more, or several. Hosts are tried from the best to the worst (Gateway).
    Suffix,
}

impl HostMode {
    /// Returns how many hosts are tried, and how many wildcards one may have.
    pub fn most_tried(self) -> usize {
        match self {
            Self::OneLabel => 1,
            Self::Suffix => usize::MAX,
        }
    }

    /// Returns what `get` has for a host (lower case, without port), the best first: under its name,
    /// under wildcards, those with more labels first, and under the empty name, which stands for every
    /// host.
    pub fn all<T>(self, host: &str, get: impl Fn(&str) -> Option<T>) -> impl Iterator<Item = T> {
        let wildcards = iter::successors(parent(host), |rest| parent(rest));
        let wildcards = wildcards.take(self.most_tried());
        let wildcards = wildcards.map(|rest| Cow::Owned(format!("*.{rest}")));
        let every = (!host.is_empty()).then_some(Cow::Borrowed(""));
        let keys = iter::once(Cow::Borrowed(host)).chain(wildcards);
        keys.chain(every).filter_map(move |key| get(&key))
    }
}

/// What follows the first label of a host.
fn parent(host: &str) -> Option<&str> {
    let (label, rest) = host.split_once('.')?;
    (!label.is_empty()).then_some(rest)
}

/// Returns what `get` has for a host (lower case, without port): under its name, else with `*.` for
/// its first label.
pub fn for_host<T>(host: &str, get: impl Fn(&str) -> Option<T>) -> Option<T> {
    get(host).or_else(|| get(&format!("*.{}", parent(host)?)))
}

#[cfg(test)]
mod tests {
    use super::HostMode;

    #[test]
    fn g65_hosts_are_tried_from_the_best_to_the_worst() {
        let known = ["a.b.c", "*.b.c", "*.c", ""];
        let all = |mode: HostMode, host: &str| {
            let known = |key: &str| known.iter().find(|known| **known == key).copied();
            mode.all(host, known).collect::<Vec<_>>()
        };
        for (host, expected) in [
            ("a.b.c", &["a.b.c", "*.b.c", "*.c", ""][..]),
            ("x.b.c", &["*.b.c", "*.c", ""]),
            ("x.y.b.c", &["*.b.c", "*.c", ""]),
            ("b.c", &["*.c", ""]),
            ("c", &[""]),
            ("d", &[""]),
            ("", &[""]),
        ] {
            assert_eq!(all(HostMode::Suffix, host), expected, "{host}");
        }
        assert_eq!(all(HostMode::OneLabel, "x.y.b.c"), [""]);
        assert_eq!(all(HostMode::OneLabel, "x.b.c"), ["*.b.c", ""]);
    }
}
