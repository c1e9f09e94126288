use headgate_model::ingress::{Ingress, PathType};

use crate::build::{
    Build, Exact, ImplementationSpecific, Prefix, answer, fields, find, get, ingress, refusals,
    routes_of,
};

fn regex(path_type: PathType, path: &str) -> Ingress {
    ingress("a")
        .rule("foo.com", path_type, path, "web")
        .note("use-regex", "true")
}

#[test]
fn l15_regular_expressions_match_from_the_start_ignoring_case() {
    for (pattern, path, expected) in [
        ("/api/v[0-9]+", "/api/v12/x", "web"),
        ("/api/v[0-9]+", "/API/V1", "web"),
        ("/api/v[0-9]+", "/old/api/v1", "404"),
        ("/api/v[0-9]+$", "/api/v1/x", "404"),
        ("/a|/b", "/b", "web"),
        ("/a|/b", "/x/b", "404"),
    ] {
        for path_type in [Prefix, ImplementationSpecific] {
            let routes = routes_of([regex(path_type, pattern)]);
            assert_eq!(
                answer(&routes, "foo.com", path),
                expected,
                "{pattern} {path}"
            );
        }
    }
}

#[test]
fn l15_exact_paths_stay_exact() {
    let routes = routes_of([regex(Exact, "/a.c")]);
    assert_eq!(answer(&routes, "foo.com", "/abc"), "404");
    assert_eq!(answer(&routes, "foo.com", "/a.c"), "web");
}

#[test]
fn l15_a_rewrite_makes_only_its_own_paths_regular_expressions() {
    let rewriting = ingress("a")
        .rule("foo.com", ImplementationSpecific, "/api(/|$)(.*)", "web")
        .note("rewrite-target", "/$2");
    let plain = ingress("b").rule("foo.com", Prefix, "/a.c", "old");
    let routes = routes_of([rewriting, plain]);
    let route = find(&routes, &get("foo.com", "/api/users")).unwrap();
    let rewrite = route.policy.rewrite.as_ref().unwrap();
    assert_eq!(rewrite.target.to_string(), "/$2");
    assert_eq!(answer(&routes, "foo.com", "/abc"), "404");
    assert_eq!(answer(&routes, "foo.com", "/A.C"), "404");
    assert_eq!(answer(&routes, "foo.com", "/a.c/d"), "old");
}

#[test]
fn l15_an_invalid_or_too_large_expression_is_refused_and_other_paths_stay() {
    let field = "Ingress default/a: spec.rules[0].http.paths[0].path: ";
    for (pattern, reason) in [
        ("/(", "error: unclosed group"),
        (
            "/(?!x)",
            "error: look-around, including look-ahead and look-behind, is not supported",
        ),
        // Would close the group around the expression.
        ("/a)|(?:/b", "error: unopened group"),
        (
            "/(a{1000}){1000}",
            "Compiled regex exceeds size limit of 262144 bytes.",
        ),
    ] {
        let routes = routes_of([regex(Prefix, pattern).rule("foo.com", Prefix, "/ok", "api")]);
        assert_eq!(answer(&routes, "foo.com", "/x/b"), "404");
        assert_eq!(answer(&routes, "foo.com", "/ok"), "api");
        assert_eq!(refusals(&routes), [format!("{field}{reason}")], "{pattern}");
    }
}

/// As a plain path outside of the root.
#[test]
fn l120_an_expression_that_no_decoded_path_matches_is_refused() {
    for (pattern, text) in [
        ("/a%20b", "/a%20b"),
        ("/a%2Fb/.*", "/a%2Fb/"),
        ("/a%2fb", "/a%2fb"),
        ("/caf%C3%A9", "/caf%C3%A9"),
        ("/a%0ab", "/a%0ab"),
        ("/a//b", "/a//b"),
        ("//+a", "//"),
        ("/(.*)/\\./a", "/./a"),
        ("/a(/)\\.\\./b", "/a/../b"),
        ("/(a%20b|c//d)", "a%20b"),
        ("/x(%41)+", "/x%41"),
    ] {
        let routes = routes_of([regex(Prefix, pattern)
            .note("denylist-source-range", "10.0.0.0/8")
            .rule("foo.com", Prefix, "/ok", "api")]);
        let field = "Ingress default/a: spec.rules[0].http.paths[0].path: ";
        let why = "paths are compared decoded, without empty segments and dot segments";
        let refused = format!("{field}no request matches `{text}`: {why}");
        assert_eq!(refusals(&routes), [refused], "{pattern}");
        assert_eq!(answer(&routes, "foo.com", "/a b"), "404");
        assert_eq!(answer(&routes, "foo.com", "/ok"), "api");
    }
    for (pattern, path) in [
        ("/a[%]?20", "/a20"),
        ("/a(%20)?b", "/ab"),
        ("/a%20|/b", "/b"),
        ("/100%", "/100%25"),
        ("/100%25", "/100%25"),
        ("/a%252f", "/a%252F"),
        ("/caf%e9", "/caf%e9"),
        ("/a[/.]/", "/a./"),
        ("/a/./b", "/a/x/b"),
        ("/(/|$)", "/"),
        ("/\\.well-known/.*", "/.well-known/x"),
    ] {
        let routes = routes_of([regex(Prefix, pattern)]);
        let found = (refusals(&routes), answer(&routes, "foo.com", path));
        assert_eq!(found, (vec![], "web".into()), "{pattern}");
    }
}

#[test]
fn l15_the_longest_expression_comes_first() {
    let both = regex(Prefix, "/a.*").rule("foo.com", Prefix, "/a/[a-z]+", "new");
    let routes = routes_of([both]);
    assert_eq!(answer(&routes, "foo.com", "/a/b"), "new");
    assert_eq!(answer(&routes, "foo.com", "/a/1"), "web");
}

#[test]
fn l15_a_rewrite_that_is_not_a_path_is_refused() {
    for target in ["nowhere", "/a b", "/a\"b", "/a\nb", "/a;`b`"] {
        let routes = routes_of([ingress("a")
            .rule("foo.com", Prefix, "/", "web")
            .note("rewrite-target", target)]);
        let field = "metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]";
        assert_eq!(fields(&routes), [field], "{target}");
        let route = find(&routes, &get("foo.com", "/")).unwrap();
        assert_eq!(route.policy.rewrite, None);
    }
}
