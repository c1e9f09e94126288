use crate::build::{Build, Prefix, answer, ingress, routes_of};

#[test]
fn l01_a_wildcard_stands_for_one_label() {
    let routes = routes_of([ingress("a").rule("*.foo.com", Prefix, "/", "web")]);
    for (host, expected) in [
        ("bar.foo.com", "web"),
        ("baz.bar.foo.com", "404"),
        ("foo.com", "404"),
        (".foo.com", "404"),
        ("", "404"),
    ] {
        assert_eq!(answer(&routes, host, "/"), expected, "{host}");
    }
}

#[test]
fn l01_an_exact_host_comes_before_a_wildcard_and_that_before_none() {
    let routes = routes_of([
        ingress("a").created(1).rule("", Prefix, "/", "rest"),
        ingress("b")
            .created(2)
            .rule("*.foo.com", Prefix, "/", "old"),
        ingress("c")
            .created(3)
            .rule("bar.foo.com", Prefix, "/", "new"),
    ]);
    for (host, expected) in [
        ("bar.foo.com", "new"),
        ("baz.foo.com", "old"),
        ("foo.com", "rest"),
        ("a.bar.foo.com", "rest"),
        ("", "rest"),
    ] {
        assert_eq!(answer(&routes, host, "/"), expected, "{host}");
    }
    assert!(routes.refusals.is_empty());
}

#[test]
fn l01_if_no_path_of_a_host_matches_no_other_host_is_tried() {
    let routes = routes_of([
        ingress("a").rule("", Prefix, "/", "rest"),
        ingress("b").rule("foo.com", Prefix, "/foo", "web"),
    ]);
    assert_eq!(answer(&routes, "foo.com", "/foo"), "web");
    assert_eq!(answer(&routes, "foo.com", "/bar"), "404");
}

#[test]
fn l01_hosts_in_annotations_are_converted_to_lower_case() {
    let alias = ingress("a")
        .rule("foo.com", Prefix, "/", "web")
        .note("server-alias", "WWW.Foo.COM, *.Foo.NET");
    let routes = routes_of([alias]);
    assert_eq!(answer(&routes, "www.foo.com", "/"), "web");
    assert_eq!(answer(&routes, "a.foo.net", "/"), "web");
}
