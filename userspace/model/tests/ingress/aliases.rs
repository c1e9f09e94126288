use headgate_model::edge::{Redirect, Template};
use headgate_model::ingress::{Ingress, Routes};

use crate::build::{Build, Prefix, answer, fields, find, get, ingress, refusals, routes_of};

fn site(text: &str, host: &str, service: &str) -> Ingress {
    ingress(text).rule(host, Prefix, "/", service)
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

/// The redirect of requests for a host.
fn redirect(routes: &Routes, host: &str) -> Option<Redirect> {
    find(routes, &get(host, "/"))?.policy.redirect.clone()
}

#[test]
fn l18_an_alias_has_only_the_routes_of_its_ingress() {
    let routes = routes_of([
        site("a", "foo.com", "web").note("server-alias", "bar.com, *.bar.com"),
        ingress("b").rule("foo.com", Prefix, "/b", "api"),
    ]);
    assert!(routes.refusals.is_empty());
    for host in ["bar.com", "x.bar.com"] {
        assert_eq!(answer(&routes, host, "/b"), "web", "{host}");
    }
    assert_eq!(answer(&routes, "foo.com", "/b"), "api");
}

#[test]
fn l18_an_alias_never_takes_a_host_that_has_rules() {
    let alias = || site("a", "foo.com", "web").note("server-alias", "bar.com");
    for other in [
        site("b", "bar.com", "api").created(200),
        site("b", "bar.com", "api")
            .created(200)
            .note("ssl-passthrough", "true"),
        site("b", "baz.com", "api")
            .created(1)
            .note("server-alias", "bar.com"),
    ] {
        let routes = routes_of([alias(), other]);
        assert_ne!(answer(&routes, "bar.com", "/"), "web");
        assert_eq!(
            refusals(&routes),
            ["Ingress default/a: \
              metadata.annotations[nginx.ingress.kubernetes.io/server-alias]: \
              host bar.com has rules of its own"]
        );
    }
}

#[test]
fn l18_an_alias_without_routes_is_refused_by_its_key() {
    let routes = routes_of([ingress("a").rest("web").note("/server-alias", "bar.com")]);
    assert_eq!(
        fields(&routes),
        ["metadata.annotations[headgate.io/server-alias]"]
    );
    assert_eq!(answer(&routes, "bar.com", "/"), "web", "as every host");
}

#[test]
fn l18_an_alias_with_a_port_or_an_inner_wildcard_is_refused() {
    for alias in ["bar.com:80", "a.*.com", "*", "bar..com", "~^bar"] {
        let routes = routes_of([
            site("a", "foo.com", "web").note("server-alias", &format!("x.com,{alias},"))
        ]);
        let known = routes.listener.hosts.keys().collect::<Vec<_>>();
        assert_eq!(known, ["foo.com"], "{alias:?}");
    }
}

#[test]
fn l18_https_redirects_depend_on_the_certificate_of_the_alias() {
    let asking = site("a", "foo.com", "web").note("server-alias", "bar.com");
    let routes = routes_of([asking.tls(&["foo.com"], "s")]);
    let to_https = |host| find(&routes, &get(host, "/")).unwrap().policy.to_https;
    assert!(to_https("foo.com"));
    assert!(!to_https("bar.com"));
}

#[test]
fn l18_www_redirects_in_both_directions() {
    let www = |host: &str| site("a", host, "web").note("from-to-www-redirect", "true");
    for (host, other) in [("foo.com", "www.foo.com"), ("www.foo.com", "foo.com")] {
        let routes = routes_of([www(host)]);
        let expected = Redirect::Location {
            location: template(&format!("$scheme://{host}$request_uri")),
            code: 308,
        };
        assert_eq!(redirect(&routes, other), Some(expected));
        assert_eq!(redirect(&routes, host), None);
    }
    for host in ["", "*.foo.com"] {
        assert_eq!(routes_of([www(host)]).listener.hosts.len(), 1, "{host}");
    }
}

#[test]
fn l18_www_never_takes_a_host_that_has_rules() {
    let www = || {
        site("a", "foo.com", "web")
            .created(1)
            .note("from-to-www-redirect", "true")
    };
    for other in [
        site("b", "www.foo.com", "api"),
        site("b", "bar.com", "api").note("server-alias", "www.foo.com"),
    ] {
        let routes = routes_of([www(), other]);
        assert_eq!(answer(&routes, "www.foo.com", "/"), "api");
        assert!(routes.refusals.is_empty());
    }
    let passing = site("b", "www.foo.com", "api").note("ssl-passthrough", "true");
    let routes = routes_of([www(), passing]);
    assert_eq!(redirect(&routes, "www.foo.com"), None);
}

#[test]
fn l18_guards_apply_to_www_redirects() {
    let asking = site("a", "foo.com", "web")
        .note("from-to-www-redirect", "true")
        .note("allowlist-source-range", "10.0.0.0/8")
        .note("/hsts", "off")
        .note("app-root", "/start");
    let routes = routes_of([asking]);
    let policy = &find(&routes, &get("www.foo.com", "/")).unwrap().policy;
    assert!(policy.sources.allow.is_some());
    assert_eq!(policy.hsts, "");
    assert_eq!(policy.app_root, None, "for the host that has it");
}

#[test]
fn l18_redirects_have_a_location_and_a_code() {
    let place = "https://new.com$request_uri";
    let of = |notes: &[(&str, &str)]| {
        let mut asking = site("a", "foo.com", "web");
        for (key, value) in notes {
            asking = asking.note(key, value);
        }
        let redirect = redirect(&routes_of([asking]), "foo.com");
        match redirect? {
            Redirect::Location { location, code } => Some((location.to_string(), code)),
            Redirect::Parts(_) => None,
        }
    };
    let to = |place: &str, code| Some((place.to_owned(), code));
    let permanent = ("permanent-redirect", place);
    let temporal = ("temporal-redirect", "/later");
    assert_eq!(of(&[permanent]), to(place, 301));
    assert_eq!(
        of(&[permanent, ("permanent-redirect-code", "308")]),
        to(place, 308)
    );
    assert_eq!(of(&[temporal]), to("/later", 302));
    assert_eq!(
        of(&[temporal, ("temporal-redirect-code", "307")]),
        to("/later", 307)
    );
    assert_eq!(of(&[permanent, temporal]), to("/later", 302));
    assert_eq!(
        of(&[permanent, ("permanent-redirect-code", "200")]),
        to(place, 301)
    );
    assert_eq!(of(&[("permanent-redirect-code", "308")]), None);
}

#[test]
fn l18_app_root_is_a_path() {
    let of = |value: &str| {
        let routes = routes_of([site("a", "foo.com", "web").note("app-root", value)]);
        let route = find(&routes, &get("foo.com", "/")).unwrap();
        route.policy.app_root.clone()
    };
    assert_eq!(of("/start"), Some("/start".into()));
    assert_eq!(of("https://evil.com/"), None);
}
