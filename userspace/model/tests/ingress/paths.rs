use headgate_model::ingress::PathType;

use crate::build::{Build, Exact, ImplementationSpecific, Prefix, answer, ingress, routes_of};

type Path = (PathType, &'static str);

/// The index of the path whose backend answers a request, if each of these paths has its own
/// backend.
fn place(rules: &[Path], path: &str) -> Option<usize> {
    let names = ["web", "api", "old", "new"];
    let mut asking = ingress("a");
    for ((path_type, path), service) in rules.iter().zip(names) {
        asking = asking.rule("foo.com", *path_type, path, service);
    }
    let answer = answer(&routes_of([asking]), "foo.com", path);
    names.iter().position(|name| *name == answer)
}

/// The table of the Kubernetes documentation: paths, request, which of the paths.
#[test]
fn l02_paths_match_as_the_documentation_says() {
    let prefixes = [(Prefix, "/"), (Prefix, "/aaa"), (Prefix, "/aaa/bbb")];
    let rows: [(&[Path], &str, Option<usize>); 21] = [
        (&[(Prefix, "/")], "/any/thing", Some(0)),
        (&[(Exact, "/foo")], "/foo", Some(0)),
        (&[(Exact, "/foo")], "/bar", None),
        (&[(Exact, "/foo")], "/foo/", None),
        (&[(Exact, "/foo/")], "/foo", None),
        (&[(Prefix, "/foo")], "/foo", Some(0)),
        (&[(Prefix, "/foo")], "/foo/", Some(0)),
        (&[(Prefix, "/foo/")], "/foo", Some(0)),
        (&[(Prefix, "/foo/")], "/foo/", Some(0)),
        (&[(Prefix, "/aaa/bb")], "/aaa/bbb", None),
        (&[(Prefix, "/aaa/bbb")], "/aaa/bbb", Some(0)),
        (&[(Prefix, "/aaa/bbb/")], "/aaa/bbb", Some(0)),
        (&[(Prefix, "/aaa/bbb")], "/aaa/bbb/", Some(0)),
        (&[(Prefix, "/aaa/bbb")], "/aaa/bbb/ccc", Some(0)),
        (&[(Prefix, "/aaa/bbb")], "/aaa/bbbxyz", None),
        (&prefixes[..2], "/aaa/ccc", Some(1)),
        (&prefixes, "/aaa/bbb", Some(2)),
        (&prefixes, "/ccc", Some(0)),
        (&[(Prefix, "/aaa")], "/ccc", None),
        (&[(Prefix, "/foo"), (Exact, "/foo")], "/foo", Some(1)),
        (&[(Exact, "/foo")], "/FOO", None),
    ];
    for (rules, path, expected) in rows {
        assert_eq!(place(rules, path), expected, "{rules:?} {path}");
    }
}

#[test]
fn l03_the_longest_path_wins_and_exact_before_all() {
    let rows: [(&[Path], &str, usize); 7] = [
        (&[(Prefix, "/a"), (Prefix, "/a/b")], "/a/b/c", 1),
        (&[(Prefix, "/foo"), (Prefix, "/foo/")], "/foo", 1),
        (&[(Prefix, "/foo"), (Prefix, "/foo/")], "/foo/", 1),
        (&[(Prefix, "/foo/"), (Exact, "/foo")], "/foo", 1),
        (&[(Prefix, "/foo/"), (Exact, "/foo/")], "/foo/", 1),
        (&[(Prefix, "/foo/"), (Exact, "/foo")], "/foo/", 0),
        (&[(Prefix, "/"), (Exact, "/")], "/", 1),
    ];
    for (rules, path, expected) in rows {
        assert_eq!(place(rules, path), Some(expected), "{rules:?} {path}");
        let reversed: Vec<_> = rules.iter().rev().copied().collect();
        let from_the_end = rules.len() - 1 - expected;
        assert_eq!(place(&reversed, path), Some(from_the_end), "{reversed:?}");
    }
}

#[test]
fn l03_exact_comes_before_a_long_regular_expression() {
    let regex = ingress("a")
        .rule("foo.com", ImplementationSpecific, "/api/(v1|v2)/.*", "web")
        .note("use-regex", "true");
    let exact = ingress("b").rule("foo.com", Exact, "/api/v1/health", "api");
    let routes = routes_of([regex, exact]);
    assert_eq!(answer(&routes, "foo.com", "/api/v1/health"), "api");
    assert_eq!(answer(&routes, "foo.com", "/api/v1/other"), "web");
}

#[test]
fn l03_implementation_specific_is_prefix_and_may_be_empty() {
    let routes = routes_of([
        ingress("a")
            .created(1)
            .rule("foo.com", ImplementationSpecific, "", "web"),
        ingress("b").created(2).rule("foo.com", Prefix, "/", "api"),
    ]);
    assert_eq!(answer(&routes, "foo.com", "/any"), "web");
    assert_eq!(routes.refusals.len(), 1, "both are for everything");
}
