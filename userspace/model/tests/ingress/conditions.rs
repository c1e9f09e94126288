use std::net::IpAddr;

use headgate_model::ingress::Ingress;

use crate::build::{Build, Prefix, Request, answer_to, find, get, ingress, routes_of};

fn site(text: &str, service: &str) -> Ingress {
    ingress(text).rule("foo.com", Prefix, "/", service)
}

#[test]
fn l14_routes_of_one_path_with_more_conditions_come_first() {
    let routes = routes_of([
        site("a", "rest").created(1),
        site("b", "old").created(2).note("/match-headers", "beta"),
        site("c", "new")
            .created(3)
            .note("/match-headers", "beta")
            .note("/match-method", "POST"),
        site("d", "api").created(4).note("/match-method", "PUT"),
    ]);
    assert!(routes.refusals.is_empty());
    let beta: &[(&str, &str)] = &[("beta", "")];
    for (method, headers, expected) in [
        ("GET", &[][..], "rest"),
        ("GET", beta, "old"),
        ("POST", beta, "new"),
        ("POST", &[][..], "rest"),
        ("PUT", &[][..], "api"),
        // Among equals the older one.
        ("PUT", beta, "old"),
    ] {
        let request = Request {
            method,
            headers,
            ..get("foo.com", "/")
        };
        assert_eq!(answer_to(&routes, &request), expected, "{request:?}");
    }
}

#[test]
fn l14_a_longer_path_comes_before_conditions() {
    let long = ingress("a").rule("foo.com", Prefix, "/a/b", "web");
    let short = ingress("b").rule("foo.com", Prefix, "/a", "old");
    let routes = routes_of([long, short.note("/match-method", "GET")]);
    assert_eq!(answer_to(&routes, &get("foo.com", "/a/b")), "web");
    assert_eq!(answer_to(&routes, &get("foo.com", "/a")), "old");
}

#[test]
fn l14_the_same_conditions_are_the_same_requests() {
    let conditional = |text: &str| site(text, "web").note("/match-method", "GET");
    let routes = routes_of([conditional("a"), conditional("b")]);
    assert_eq!(routes.refusals.len(), 1);
}

#[test]
fn l14_texts_are_any_text_a_list_or_a_pattern() {
    let met = |key: &str, value: &str, request: &Request<'_>| {
        let routes = routes_of([site("a", "web").note(key, value)]);
        assert!(routes.refusals.is_empty(), "{:?}", routes.refusals);
        find(&routes, request).is_some()
    };
    let headers = [("x-a", "one"), ("x-b", "")];
    let request = Request {
        headers: &headers,
        query: &[("Page", "12")],
        client: IpAddr::from([10, 1, 2, 3]),
        ..get("foo.com", "/")
    };
    for (key, value, expected) in [
        ("/match-headers", "X-A", true),
        ("/match-headers", "x-b", true),
        ("/match-headers", "x-c", false),
        ("/match-headers", "x-a one", true),
        ("/match-headers", "x-a On", false),
        ("/match-headers", "x-a two | one", true),
        ("/match-headers", "x-a ~ on.", true),
        ("/match-headers", "x-a ~ on", false),
        ("/match-headers", "x-a one\n\n x-b", true),
        ("/match-headers", "x-a one\nx-c", false),
        ("/match-query", "Page ~ [0-9]+", true),
        ("/match-query", "page", false),
        ("/match-method", "POST, GET", true),
        ("/match-method", "POST", false),
        ("/match-method", "~ GET|HEAD", true),
        ("/match-method", "~ P.*", false),
        ("/match-source", "10.0.0.0/8", true),
        ("/match-source", "fd00::/8, 10.1.2.4", false),
    ] {
        assert_eq!(met(key, value, &request), expected, "{key} {value:?}");
    }
}
