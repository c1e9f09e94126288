use headgate_model::edge::{CanaryRule, Target};
use headgate_model::ingress::{Ingress, Routes};

use crate::build::{Build, Exact, Prefix, answer, fields, find, get, ingress, refusals, routes_of};

fn main_of(text: &str) -> Ingress {
    ingress(text).rule("foo.com", Prefix, "/", "web")
}

fn canary_of(text: &str) -> Ingress {
    let canary = ingress(text).rule("foo.com", Prefix, "/", "new");
    canary.note("canary", "true")
}

/// Service and rules of the canary of a path.
fn canary(routes: &Routes, path: &str) -> Option<(String, String)> {
    let canary = find(routes, &get("foo.com", path))?.canary.as_ref()?;
    let Target::Upstream(key) = &canary.target else {
        return None;
    };
    let rules = canary.rules.iter().map(|rule| match rule {
        CanaryRule::Header(name, text) => format!("header {name} {text:?}"),
        CanaryRule::Cookie(name) => format!("cookie {name}"),
        CanaryRule::Weight { weight, total } => format!("{weight}/{total}"),
    });
    let rules = rules.collect::<Vec<_>>().join(", ");
    Some((key.service.to_string(), rules))
}

/// The rules of a canary with these annotations.
fn rules(notes: &[(&str, &str)]) -> String {
    let canary_ingress = notes.iter().fold(canary_of("c"), |canary, (key, value)| {
        canary.note(key, value)
    });
    let routes = routes_of([main_of("a"), canary_ingress]);
    assert!(routes.refusals.is_empty(), "{:?}", routes.refusals);
    canary(&routes, "/").unwrap().1
}

#[test]
fn l13_header_cookie_and_weight_decide_in_this_order() {
    let notes = [
        ("canary-weight", "20"),
        ("canary-by-cookie", "taste"),
        ("canary-by-header", "X-Canary"),
    ];
    assert_eq!(rules(&notes), "header x-canary None, cookie taste, 20/100");
    assert_eq!(rules(&[]), "");
}

#[test]
fn l13_a_header_has_a_value_or_a_pattern_and_the_value_wins() {
    let header = ("canary-by-header", "v");
    let value = ("canary-by-header-value", "two");
    let pattern = ("canary-by-header-pattern", "t.+");
    let by_value = "header v Some(OneOf([\"two\"]))";
    assert_eq!(rules(&[header, value]), by_value);
    assert_eq!(rules(&[header, value, pattern]), by_value);
    let ours = ("/canary-by-header-pattern", "t.+");
    assert_eq!(rules(&[header, value, ours]), by_value);
    assert_eq!(
        rules(&[header, pattern]),
        "header v Some(Regex(/^(?:t.+)$/))"
    );
}

#[test]
fn l13_a_weight_is_limited_by_its_total() {
    let total = ("canary-weight-total", "1000");
    assert_eq!(rules(&[("canary-weight", "50"), total]), "50/1000");
    assert_eq!(rules(&[("canary-weight", "500")]), "100/100");
    assert_eq!(rules(&[("canary-weight", "0")]), "0/100");
}

#[test]
fn l13_a_canary_takes_requests_only_from_its_namespace() {
    let routes = routes_of([main_of("a"), canary_of("team/c")]);
    assert_eq!(canary(&routes, "/"), None);
    assert_eq!(
        refusals(&routes),
        ["Ingress team/c: spec.rules[0].http.paths[0].path: \
          host `foo.com` belongs to default/a, an older Ingress of another namespace"]
    );
    let routes = routes_of([main_of("team/a"), canary_of("team/c")]);
    assert_eq!(canary(&routes, "/").unwrap().0, "team/new");
}

#[test]
fn l13_a_canary_alone_serves_nothing() {
    let routes = routes_of([canary_of("c").note("server-alias", "bar.com").rest("rest")]);
    assert!(routes.listener.hosts.is_empty());
    assert_eq!(
        fields(&routes),
        ["spec.defaultBackend", "spec.rules[0].http.paths[0].path"]
    );
}

#[test]
fn l13_an_older_canary_does_not_own_the_host() {
    let routes = routes_of([canary_of("c").created(1), main_of("a").created(2)]);
    assert_eq!(answer(&routes, "foo.com", "/"), "web");
    assert_eq!(canary(&routes, "/").unwrap().0, "default/new");
    let passing = main_of("a").created(2).note("ssl-passthrough", "true");
    let routes = routes_of([canary_of("c").created(1), passing]);
    assert!(routes.listener.passthrough.contains_key("foo.com"));
}

#[test]
fn l13_a_second_canary_is_refused() {
    let second = canary_of("d").created(200);
    let routes = routes_of([main_of("a"), second, canary_of("e")]);
    assert_eq!(canary(&routes, "/").unwrap().0, "default/new");
    assert_eq!(
        refusals(&routes),
        ["Ingress default/d: spec.rules[0].http.paths[0].path: another canary has this path"]
    );
}

#[test]
fn l13_a_canary_is_for_the_path_as_written() {
    let main = main_of("a")
        .rule("foo.com", Prefix, "/x", "web")
        .rule("foo.com", Prefix, "/x/", "api")
        .rule("foo.com", Exact, "/x", "old");
    let canary_ingress = ingress("c")
        .rule("foo.com", Prefix, "/x/", "new")
        .note("canary", "true");
    let routes = routes_of([main, canary_ingress]);
    assert!(routes.refusals.is_empty());
    assert_eq!(answer(&routes, "foo.com", "/x/"), "api");
    assert!(canary(&routes, "/x/").is_some());
    assert_eq!(canary(&routes, "/x"), None);
    assert_eq!(canary(&routes, "/"), None);
}

#[test]
fn l13_a_canary_of_regular_expressions_need_not_say_so() {
    for note in ["use-regex", "enable-cors"] {
        let main = ingress("a")
            .rule("foo.com", Prefix, "/v[0-9]+", "web")
            .note("use-regex", "true");
        let canary_ingress = ingress("c")
            .rule("foo.com", Prefix, "/v[0-9]+", "new")
            .note("canary", "true")
            .note(note, "true");
        let routes = routes_of([main, canary_ingress]);
        assert_eq!(canary(&routes, "/v12").unwrap().0, "default/new");
    }
}

#[test]
fn l13_a_canary_is_for_routes_with_its_conditions() {
    let beta = |ingress: Ingress| ingress.note("/match-headers", "beta");
    let mains = [beta(main_of("a").created(1)), main_of("b")];
    let routes = routes_of(mains.into_iter().chain([canary_of("c")]));
    let host = &routes.listener.hosts["foo.com"];
    let [conditional, plain] = &host.routes[..] else {
        panic!("{host:?}");
    };
    assert!(conditional.canary.is_none());
    assert!(plain.canary.is_some());
}

#[test]
fn l13_a_canary_that_is_missing_or_closed_gets_no_requests() {
    let missing = ingress("c")
        .rule("foo.com", Prefix, "/", "missing")
        .note("canary", "true");
    let unread = canary_of("c").note("proxy-ssl-secret", "gone");
    for (broken, field) in [
        (missing, "spec.rules[0].http.paths[0].backend.service"),
        (
            unread,
            "metadata.annotations[nginx.ingress.kubernetes.io/proxy-ssl-secret]",
        ),
    ] {
        let routes = routes_of([main_of("a"), broken]);
        assert!(
            find(&routes, &get("foo.com", "/"))
                .unwrap()
                .canary
                .is_none()
        );
        assert_eq!(fields(&routes), [field]);
    }
}

#[test]
fn l13_aliases_of_the_host_have_the_canary_too() {
    let main = main_of("a").note("server-alias", "bar.com");
    let routes = routes_of([main, canary_of("c")]);
    assert!(
        find(&routes, &get("bar.com", "/"))
            .unwrap()
            .canary
            .is_some()
    );
}
