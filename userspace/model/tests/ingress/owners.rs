use headgate_model::ingress::{Ingress, IngressOptions, Objects, Routes, routes};

use crate::build::{
    Build, Exact, ImplementationSpecific, Prefix, answer, fields, find, get, ingress, name,
    objects, refusals, secret,
};

/// An Ingress of the namespace that had the host first.
fn victim() -> Ingress {
    ingress("default/victim")
        .created(1)
        .rule("foo.com", Prefix, "/", "web")
}

/// A younger Ingress of another namespace.
fn attacker() -> Ingress {
    ingress("team/attacker").created(2)
}

fn world(ingresses: impl IntoIterator<Item = Ingress>) -> Objects {
    let mut objects = objects(ingresses);
    for text in ["default/s", "team/s"] {
        let keys = ["tls.crt", "tls.key", "ca.crt"];
        objects.secrets.insert(name(text), secret(&keys));
    }
    objects
}

fn read(ingresses: impl IntoIterator<Item = Ingress>) -> Routes {
    routes(&world(ingresses), &IngressOptions::default())
}

fn read_shared(ingresses: impl IntoIterator<Item = Ingress>) -> Routes {
    let options = IngressOptions {
        share_hosts: true,
        ..IngressOptions::default()
    };
    routes(&world(ingresses), &options)
}

#[test]
fn l94_an_ingress_of_another_namespace_gets_nothing_of_a_host() {
    let page = "https://evil.example/phish";
    let hidden = || attacker().rule("foo.com", Exact, "/unused", "api");
    let everything = || attacker().rule("foo.com", Prefix, "/", "api");
    let host = "spec.rules[0].host";
    for (attack, field) in [
        (everything().note("/match-source", "0.0.0.0/0, ::/0"), host),
        (everything().note("/match-method", "~ .*"), host),
        (hidden().note("auth-tls-secret", "s"), host),
        (
            hidden()
                .note("auth-tls-secret", "s")
                .note("auth-tls-error-page", page),
            host,
        ),
        (hidden().tls(&["foo.com"], "s"), host),
        (attacker().tls(&["foo.com"], "s"), "spec.tls[0].hosts"),
        (attacker().rule("foo.com", Exact, "/login", "api"), host),
        (
            attacker().rule("foo.com", Prefix, "/.well-known/acme-challenge/", "api"),
            host,
        ),
        (
            attacker()
                .rule("foo.com", ImplementationSpecific, "/.*", "api")
                .note("use-regex", "true"),
            host,
        ),
        (hidden().rest("api"), host),
        (everything().note("ssl-passthrough", "true"), host),
        (everything().note("permanent-redirect", page), host),
        (everything().note("force-ssl-redirect", "true"), host),
        (hidden().note("app-root", "/phish"), host),
        (hidden().note("affinity", "cookie"), host),
        (hidden().note("limit-rps", "1"), host),
        (hidden().note("/mirror-service", "api:80"), host),
        (
            everything()
                .note("canary", "true")
                .note("canary-weight", "100"),
            "spec.rules[0].http.paths[0].path",
        ),
        (
            attacker()
                .rule("bar.com", Prefix, "/", "api")
                .note("server-alias", "foo.com"),
            "metadata.annotations[nginx.ingress.kubernetes.io/server-alias]",
        ),
        (
            attacker()
                .rule("www.foo.com", Prefix, "/", "api")
                .note("from-to-www-redirect", "true"),
            "metadata.annotations[nginx.ingress.kubernetes.io/from-to-www-redirect]",
        ),
    ] {
        let before = read([victim()]);
        let after = read([victim(), attack.clone()]);
        assert_eq!(
            before.listener.hosts("foo.com").next(),
            after.listener.hosts("foo.com").next(),
            "{attack:?}"
        );
        assert!(
            !after.listener.certificates.contains_key("foo.com"),
            "{attack:?}"
        );
        assert!(
            !after.listener.passthrough.contains_key("foo.com"),
            "{attack:?}"
        );
        let about = after.refusals.iter().find(|one| one.field == field);
        let reason = &about
            .unwrap_or_else(|| panic!("{:?}", after.refusals))
            .reason;
        assert!(reason.contains("default/victim"), "{reason}");
    }
}

#[test]
fn l94_hosts_of_annotations_belong_to_their_ingress_too() {
    let with = |key: &str, value: &str| victim().note(key, value);
    for (victim, host) in [
        (with("from-to-www-redirect", "true"), "www.foo.com"),
        (with("server-alias", "bar.com"), "bar.com"),
        (with("server-alias", "*.bar.com"), "*.bar.com"),
    ] {
        let alone = read([victim.clone()]);
        let taking = attacker().rule(host, Prefix, "/", "api").tls(&[host], "s");
        let routes = read([victim.clone(), taking]);
        assert_eq!(alone.listener.hosts, routes.listener.hosts);
        assert!(routes.listener.certificates.is_empty());
        assert_eq!(fields(&routes), ["spec.tls[0].hosts", "spec.rules[0].host"]);
        let own = ingress("own").rule(host, Prefix, "/", "new");
        let routes = read([victim, own]);
        assert_eq!(answer(&routes, host, "/x"), "new", "of the same namespace");
    }
}

#[test]
fn l94_rules_without_host_and_default_backends_belong_to_the_oldest_too() {
    for older in [
        ingress("a").created(1).rest("web"),
        ingress("a").created(1).rule("", Prefix, "/", "web"),
    ] {
        for taking in [
            attacker().rule("", Exact, "/x", "api"),
            attacker().rest("api"),
            attacker().rule("", Prefix, "/", "api").tls(&[], "s"),
        ] {
            let routes = read([older.clone(), taking]);
            assert_eq!(answer(&routes, "any.com", "/x"), "web");
            assert!(routes.listener.certificates.is_empty());
            assert!(refusals(&routes)[0].contains("default/a"));
        }
        let named = attacker().rule("foo.com", Prefix, "/", "api");
        assert_eq!(answer(&read([older.clone(), named]), "foo.com", "/"), "api");
    }
}

#[test]
fn l94_an_exact_host_is_its_own_beside_a_wildcard() {
    let wide = ingress("a")
        .created(1)
        .rule("*.foo.com", Prefix, "/", "web");
    let exact = attacker()
        .rule("x.foo.com", Prefix, "/", "api")
        .tls(&["x.foo.com"], "s");
    let routes = read([wide.clone(), exact]);
    assert_eq!(answer(&routes, "x.foo.com", "/"), "api");
    assert_eq!(answer(&routes, "y.foo.com", "/"), "web");
    assert!(routes.refusals.is_empty());
    // A certificate alone would be for the wildcard's routes.
    let routes = read([wide, attacker().tls(&["x.foo.com"], "s")]);
    assert!(routes.listener.certificates.is_empty());
    assert_eq!(fields(&routes), ["spec.tls[0].hosts"]);
}

#[test]
fn l94_a_younger_wildcard_neither_certifies_nor_redirects_nor_serves_a_host() {
    let exact = || victim().rule("x.foo.com", Exact, "/only", "web");
    let wide = attacker()
        .rule("*.foo.com", Prefix, "/", "api")
        .tls(&["*.foo.com"], "s");
    let routes = read([exact(), wide.clone()]);
    assert_eq!(answer(&routes, "x.foo.com", "/"), "404");
    assert!(routes.listener.withheld.contains("x.foo.com"));
    let route = |routes: &Routes| find(routes, &get("x.foo.com", "/only")).unwrap().clone();
    assert!(!route(&routes).policy.to_https);
    assert!(
        route(&read([exact(), wide.clone().created(0)]))
            .policy
            .to_https
    );
    assert_eq!(
        refusals(&routes),
        [
            "Ingress team/attacker: spec.tls: host `x.foo.com` belongs to default/victim, \
          an older Ingress of another namespace"
        ]
    );
    // Even if none of the owner's rules can be served, or its connections pass through.
    let invalid = victim()
        .rule("x.foo.com", Prefix, "/(", "web")
        .note("use-regex", "true");
    let passed = victim()
        .rule("x.foo.com", Prefix, "/", "web")
        .note("ssl-passthrough", "true");
    for exact in [invalid, passed] {
        let routes = read([exact, wide.clone()]);
        assert_eq!(answer(&routes, "x.foo.com", "/"), "404");
    }
    let certifying_all = attacker().tls(&[], "s");
    let routes = read([exact(), certifying_all]);
    assert!(
        routes.listener.withheld.contains("x.foo.com")
            && routes.listener.withheld.contains("foo.com")
    );
}

#[test]
fn l94_the_namespace_owns_the_host_not_one_ingress() {
    let own = ingress("other")
        .created(3)
        .rule("foo.com", Prefix, "/own", "new");
    let routes = read([
        victim(),
        attacker().rule("foo.com", Prefix, "/x", "api"),
        own,
    ]);
    assert_eq!(answer(&routes, "foo.com", "/own"), "new");
    assert_eq!(answer(&routes, "foo.com", "/x"), "web");
}

#[test]
fn l95_with_shared_hosts_other_namespaces_add_plain_paths() {
    let owner = || victim().rule("foo.com", Prefix, "/shop", "web");
    let add = |path_type, path: &str| attacker().rule("foo.com", path_type, path, "api");
    let routes = read_shared([owner(), add(Prefix, "/blog").rest("api")]);
    assert_eq!(answer(&routes, "foo.com", "/blog/1"), "api");
    assert_eq!(answer(&routes, "foo.com", "/"), "web");
    assert_eq!(fields(&routes), ["spec.defaultBackend"]);
    for refused in [
        add(Prefix, "/"),
        add(Prefix, "/shop"),
        add(Exact, "/shop"),
        add(Prefix, "/shop/cart"),
        add(Prefix, "/.well-known"),
        add(Prefix, "/.well-known/acme-challenge/"),
        add(Exact, "/.well-known/acme-challenge/x"),
        add(Prefix, "/shop").note("/match-method", "GET"),
        add(ImplementationSpecific, "/blog/.*").note("use-regex", "true"),
    ] {
        let routes = read_shared([owner(), refused.clone()]);
        assert_eq!(
            routes.listener.hosts,
            read_shared([owner()]).listener.hosts,
            "{refused:?}"
        );
        assert_eq!(fields(&routes), ["spec.rules[0].http.paths[0].path"]);
        assert!(refusals(&routes)[0].contains("default/victim"));
    }
}

#[test]
fn l95_with_shared_hosts_what_is_the_hosts_stays_its_owners() {
    let add = || attacker().rule("foo.com", Prefix, "/blog", "api");
    let demanding = read_shared([victim(), add().note("auth-tls-secret", "s")]);
    let host = demanding.listener.hosts("foo.com").next().unwrap();
    assert!(!host.asks_certificate);
    let closed = |path| {
        let route = find(&demanding, &get("foo.com", path)).unwrap();
        route.policy.closed.is_some()
    };
    assert!(closed("/blog") && !closed("/"));
    let certifying = read_shared([victim(), add().tls(&["foo.com"], "s")]);
    assert!(certifying.listener.certificates.is_empty());
    // What the owner demands holds for all paths of its host.
    let owner = victim().note("auth-tls-secret", "s");
    let routes = read_shared([owner, add()]);
    let route = find(&routes, &get("foo.com", "/blog")).unwrap();
    assert_eq!(route.policy.auth.len(), 1);
}
