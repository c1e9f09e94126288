use headgate_model::ingress::{IngressOptions, IngressRule, routes};

use crate::build::{Build, Prefix, answer, fields, ingress, name, objects, refusals, routes_of};

#[test]
fn l05_without_rules_a_default_backend_gets_every_other_host() {
    let routes = routes_of([
        ingress("a").rest("rest"),
        ingress("b").rule("foo.com", Prefix, "/foo", "web"),
    ]);
    assert_eq!(answer(&routes, "my-host", "/sub-path"), "rest");
    assert_eq!(answer(&routes, "", "/"), "rest");
    assert_eq!(answer(&routes, "foo.com", "/bar"), "404");
}

#[test]
fn l05_with_rules_a_default_backend_gets_the_rest_of_their_hosts() {
    let mut asking = ingress("a")
        .rule("foo.com", Prefix, "/foo", "web")
        .rest("rest");
    asking.rules.push(IngressRule {
        host: "bar.com".into(),
        paths: Vec::new(),
    });
    let routes = routes_of([asking]);
    assert_eq!(answer(&routes, "foo.com", "/foo"), "web");
    assert_eq!(answer(&routes, "foo.com", "/bar"), "rest");
    assert_eq!(answer(&routes, "bar.com", "/"), "rest");
    assert_eq!(answer(&routes, "other.com", "/"), "404");
    assert!(routes.refusals.is_empty());
}

#[test]
fn l05_a_rule_for_everything_comes_before_an_older_default_backend() {
    let routes = routes_of([
        ingress("older")
            .created(1)
            .rule("foo.com", Prefix, "/foo", "old")
            .rest("rest"),
        ingress("younger")
            .created(2)
            .rule("foo.com", Prefix, "/", "new"),
    ]);
    assert_eq!(answer(&routes, "foo.com", "/foo"), "old");
    assert_eq!(answer(&routes, "foo.com", "/"), "new");
    assert_eq!(
        refusals(&routes),
        ["Ingress default/older: spec.defaultBackend: \
          the default backend of host `foo.com` belongs to default/younger"]
    );
}

#[test]
fn l05_a_rule_for_everything_replaces_the_default_backend_of_its_ingress() {
    let asking = ingress("a")
        .rule("foo.com", Prefix, "/", "web")
        .rest("rest");
    let routes = routes_of([asking]);
    assert_eq!(answer(&routes, "foo.com", "/x"), "web");
    assert!(routes.refusals.is_empty());
}

#[test]
fn l05_the_oldest_default_backend_wins() {
    let routes = routes_of([
        ingress("younger").created(2).rest("new"),
        ingress("older").created(1).rest("old"),
    ]);
    assert_eq!(answer(&routes, "any", "/"), "old");
    assert_eq!(fields(&routes), ["spec.defaultBackend"]);
}

#[test]
fn l05_a_default_backend_is_not_a_regular_expression() {
    let regex = ingress("a")
        .rule("foo.com", Prefix, "/", "web")
        .rest("rest")
        .note("rewrite-target", "/");
    let routes = routes_of([regex]);
    assert_eq!(answer(&routes, "foo.com", "/x"), "web");
    assert!(routes.refusals.is_empty(), "{:?}", routes.refusals);
}

#[test]
fn l05_a_default_backend_that_is_missing_is_refused_by_its_field() {
    let routes = routes_of([ingress("a").rest("missing")]);
    assert_eq!(answer(&routes, "any", "/"), "503");
    assert_eq!(fields(&routes), ["spec.defaultBackend.service"]);
}

#[test]
fn l05_the_backend_of_the_command_line_gets_the_rest() {
    let asking = || [ingress("a").rule("foo.com", Prefix, "/foo", "web")];
    let with = |service: &str| {
        let options = IngressOptions {
            default_backend: Some((name(service), 80)),
            ..IngressOptions::default()
        };
        routes(&objects(asking()), &options)
    };
    for (host, path) in [("foo.com", "/bar"), ("bar.com", "/")] {
        assert_eq!(answer(&routes_of(asking()), host, path), "404");
        assert_eq!(answer(&with("rest"), host, path), "rest");
        assert_eq!(answer(&with("missing"), host, path), "503");
    }
    assert_eq!(
        refusals(&with("missing")),
        ["Service default/missing: --default-backend: there is no Service default/missing"]
    );
}
