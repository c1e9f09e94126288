use crate::build::{
    Build, Exact, ImplementationSpecific, Prefix, answer, ingress, refusals, routes_of,
};

#[test]
fn l04_ingresses_that_share_a_host_are_merged() {
    let routes = routes_of([
        ingress("a").rule("foo.com", Prefix, "/a", "web"),
        ingress("b").rule("foo.com", Prefix, "/b", "api"),
    ]);
    assert_eq!(answer(&routes, "foo.com", "/a"), "web");
    assert_eq!(answer(&routes, "foo.com", "/b"), "api");
    assert!(routes.refusals.is_empty());
}

#[test]
fn l04_the_oldest_wins_and_the_other_is_refused_by_object_and_field() {
    let routes = routes_of([
        ingress("a-younger")
            .created(20)
            .rule("foo.com", Prefix, "/b", "new")
            .rule("foo.com", ImplementationSpecific, "/a", "new"),
        ingress("b-older")
            .created(10)
            .rule("foo.com", Prefix, "/a", "old"),
    ]);
    assert_eq!(answer(&routes, "foo.com", "/a"), "old");
    assert_eq!(answer(&routes, "foo.com", "/b"), "new");
    assert_eq!(
        refusals(&routes),
        [
            "Ingress default/a-younger: spec.rules[1].http.paths[0].path: \
             /a of host `foo.com` belongs to default/b-older"
        ]
    );
}

#[test]
fn l04_names_decide_between_ingresses_of_one_age() {
    let mut ageless = ingress("a").rule("foo.com", Prefix, "/", "rest");
    ageless.created_s = None;
    let routes = routes_of([
        ageless,
        ingress("c").rule("foo.com", Prefix, "/", "new"),
        ingress("b").rule("foo.com", Prefix, "/", "old"),
    ]);
    assert_eq!(answer(&routes, "foo.com", "/"), "old");
    assert_eq!(routes.refusals.len(), 2);
}

#[test]
fn l04_paths_of_different_types_coexist() {
    let routes = routes_of([
        ingress("a").created(1).rule("foo.com", Prefix, "/a", "old"),
        ingress("b").created(2).rule("foo.com", Exact, "/a", "new"),
    ]);
    assert_eq!(answer(&routes, "foo.com", "/a"), "new");
    assert_eq!(answer(&routes, "foo.com", "/a/b"), "old");
    assert!(routes.refusals.is_empty());
}
