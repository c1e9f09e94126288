use headgate_model::ingress::{Ingress, Routes};

use crate::build::{Build, Prefix, answer, fields, find, get, ingress, refusals, routes_of};

fn passing(text: &str, host: &str, service: &str) -> Ingress {
    ingress(text)
        .rule(host, Prefix, "/", service)
        .note("ssl-passthrough", "true")
}

fn passed(routes: &Routes) -> Vec<String> {
    let passed = routes.listener.passthrough.iter();
    passed.map(|(host, key)| format!("{host}={key}")).collect()
}

#[test]
fn l12_connections_of_a_host_go_to_the_backend_of_its_first_path() {
    let mut asking = passing("a", "foo.com", "web");
    let other = asking.clone().rule("", Prefix, "/more", "api");
    asking.rules[0].paths.push(other.rules[1].paths[0].clone());
    let routes = routes_of([asking]);
    assert_eq!(passed(&routes), ["foo.com=default/web:80"]);
    assert_eq!(answer(&routes, "foo.com", "/"), "404", "without TLS");
    assert_eq!(fields(&routes), ["spec.rules[0].http.paths[1].path"]);
}

#[test]
fn l12_without_paths_they_go_to_the_default_backend() {
    let mut asking = passing("a", "foo.com", "web").rest("rest");
    asking.rules[0].paths.clear();
    let routes = routes_of([asking]);
    assert_eq!(passed(&routes), ["foo.com=default/rest:80"]);
}

#[test]
fn l12_a_younger_ingress_cannot_pass_through_a_host_of_an_older_one() {
    let older_routes = ingress("b").rule("foo.com", Prefix, "/", "old");
    for older in [passing("b", "foo.com", "old"), older_routes] {
        let passes = older
            .annotations
            .contains_key("nginx.ingress.kubernetes.io/ssl-passthrough");
        let younger = passing("a", "foo.com", "new").created(200);
        let routes = routes_of([younger, older]);
        let expected = if passes {
            vec!["foo.com=default/old:80"]
        } else {
            vec![]
        };
        assert_eq!(passed(&routes), expected);
        assert_eq!(
            refusals(&routes),
            ["Ingress default/a: spec.rules[0].host: host `foo.com` belongs to default/b"]
        );
    }
}

#[test]
fn l12_a_younger_ingress_still_has_plain_requests_of_the_host() {
    let challenge =
        ingress("b")
            .created(200)
            .rule("foo.com", Prefix, "/.well-known/acme-challenge/x", "api");
    let routes = routes_of([passing("a", "foo.com", "web"), challenge]);
    assert_eq!(passed(&routes), ["foo.com=default/web:80"]);
    let path = "/.well-known/acme-challenge/x";
    assert_eq!(answer(&routes, "foo.com", path), "api");
}

#[test]
fn l12_a_rule_without_host_is_not_passed_through() {
    let routes = routes_of([passing("a", "", "web")]);
    assert!(routes.listener.passthrough.is_empty());
    assert_eq!(fields(&routes), ["spec.rules[0].host"]);
}

#[test]
fn l12_a_backend_that_is_missing_is_refused() {
    let routes = routes_of([passing("a", "foo.com", "missing")]);
    assert!(routes.listener.passthrough.is_empty());
    assert_eq!(
        fields(&routes),
        ["spec.rules[0].http.paths[0].backend.service"]
    );
}

#[test]
fn l12_the_secret_of_a_host_is_not_used() {
    let routes = routes_of([passing("a", "foo.com", "web").tls(&["foo.com"], "gone")]);
    assert!(routes.listener.certificates.is_empty());
    assert!(routes.refusals.is_empty());
    let younger = ingress("b")
        .created(200)
        .rule("foo.com", Prefix, "/", "api");
    let secure = passing("a", "foo.com", "web").tls(&["foo.com"], "gone");
    let routes = routes_of([secure, younger]);
    assert!(find(&routes, &get("foo.com", "/")).unwrap().policy.to_https);
}

#[test]
fn l12_guards_that_need_decrypted_requests_close() {
    for (key, value) in [
        ("allowlist-source-range", "10.0.0.0/8"),
        ("denylist-source-range", "10.0.0.0/8"),
        ("limit-rps", "5"),
        ("limit-connections", "5"),
        ("/match-source", "10.0.0.0/8"),
    ] {
        let routes = routes_of([passing("a", "foo.com", "web").note(key, value)]);
        assert!(routes.listener.passthrough.is_empty(), "{key}");
        let field = "metadata.annotations[nginx.ingress.kubernetes.io/ssl-passthrough]";
        assert_eq!(fields(&routes), [field], "{key}");
    }
    let unread = passing("a", "foo.com", "web").note("auth-url", "https://sso.example.com");
    assert!(routes_of([unread]).listener.passthrough.is_empty());
}
