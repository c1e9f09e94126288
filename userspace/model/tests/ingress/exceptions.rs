//! Where ingress-nginx's template has an exception, so have we.

use headgate_model::ingress::{Host, Ingress, PathMatch, Routes, Sticky, Target};

use crate::{
    annotations::{policy, site, upstream},
    build::{
        Build, Exact, ImplementationSpecific, Prefix, answer, fields, find, get, ingress, refusals,
        routes_of,
    },
};

fn rewriting(target: &str, paths: &[&str]) -> Routes {
    let all = paths.iter().fold(ingress("a"), |all, path| {
        all.rule("foo.com", ImplementationSpecific, path, "web")
    });
    routes_of([all.note("rewrite-target", target)])
}

/// Whether the path is a regular expression, and the rewrite target.
fn seen(routes: &Routes, path: &str) -> (bool, Option<String>) {
    let route = find(routes, &get("foo.com", path)).unwrap();
    let is_regex = matches!(route.path, PathMatch::Regex(_));
    (is_regex, route.policy.rewrite.clone())
}

#[test]
fn l96_a_path_that_is_equal_to_the_target_is_not_rewritten() {
    let routes = rewriting("/", &["/"]);
    assert_eq!(seen(&routes, "/static/app.js"), (false, None));
    let routes = rewriting("/app", &["/app"]);
    assert_eq!(seen(&routes, "/app/x"), (false, None));
    // With another path that is rewritten all are regular expressions.
    let routes = rewriting("/", &["/", "/api"]);
    assert_eq!(seen(&routes, "/x"), (true, None));
    assert_eq!(seen(&routes, "/api/x"), (true, Some("/".into())));
    let alias = ingress("a")
        .rule("foo.com", Prefix, "/", "web")
        .note("rewrite-target", "/")
        .note("server-alias", "bar.com");
    let routes = routes_of([alias]);
    let route = find(&routes, &get("bar.com", "/x")).unwrap();
    assert_eq!(route.policy.rewrite, None);
}

#[test]
fn l96_a_refused_target_leaves_paths_regular_expressions() {
    let routes = rewriting("nowhere", &["/x/(.*)"]);
    assert_eq!(seen(&routes, "/x/1"), (true, None));
    assert_eq!(
        fields(&routes),
        ["metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]"]
    );
}

#[test]
fn l97_app_root_is_for_the_host() {
    let root = |routes: &Routes| {
        let route = find(routes, &get("foo.com", "/"))?.clone();
        Some((route.ingress.name.clone(), route.policy.app_root.clone()))
    };
    let jenkins = || {
        ingress("jenkins")
            .created(2)
            .rule("foo.com", Prefix, "/jenkins", "web")
            .note("app-root", "/jenkins")
    };
    let expected = Some(("jenkins".into(), Some("/jenkins".into())));
    assert_eq!(root(&routes_of([jenkins()])), expected);
    let other = ingress("other")
        .created(1)
        .rule("foo.com", Prefix, "/", "api");
    let both = routes_of([jenkins(), other]);
    assert_eq!(root(&both), expected);
    assert_eq!(answer(&both, "foo.com", "/x"), "api");
    assert!(both.refusals.is_empty());
    let own = jenkins().rule("foo.com", Prefix, "/", "web");
    let hosts = routes_of([own]).hosts;
    assert_eq!(hosts["foo.com"].routes.len(), 2, "its own rule redirects");
    let guarded = jenkins().note("denylist-source-range", "0.0.0.0/0");
    let route = find(&routes_of([guarded]), &get("foo.com", "/"))
        .unwrap()
        .clone();
    assert!(!route.policy.sources.deny.is_empty());
    let other = ingress("team/x")
        .created(3)
        .rule("foo.com", Prefix, "/x", "api")
        .note("app-root", "/x");
    assert_eq!(root(&routes_of([jenkins(), other])), expected);
}

/// The cookie of the backend that gets a path.
fn cookie(host: &Host, path: &str) -> Sticky {
    let route = host.routes.iter().find(|route| route.path.matches(path));
    match &route.unwrap().target {
        Target::Upstream(key) => key.policy.sticky.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn l98_the_path_of_an_affinity_cookie_is_that_of_the_rule() {
    let two = ingress("a")
        .rule("foo.com", Prefix, "/", "web")
        .rule("foo.com", Prefix, "/api/", "api")
        .rule("foo.com", Exact, "/one", "api")
        .note("affinity", "cookie");
    let routes = routes_of([two.clone()]);
    let path = |routes: &Routes, asked| cookie(&routes.hosts["foo.com"], asked).path;
    assert_eq!(path(&routes, "/x"), "/");
    assert_eq!(path(&routes, "/api/x"), "/api");
    assert_eq!(path(&routes, "/one"), "/one");
    let routes = routes_of([two.note("session-cookie-path", "/own")]);
    assert_eq!(path(&routes, "/api/x"), "/own");
    for (pattern, asked, expected) in [
        ("/api(/|$)(.*)", "/api/x", "/api"),
        ("/api/(.*)", "/api/x", "/api"),
        ("/api/v[0-9]+", "/api/v1", "/api"),
        ("/api", "/api", "/api"),
        ("/(.*)", "/x", "/"),
        ("/.*", "/x", "/"),
    ] {
        let regex = ingress("a")
            .rule("foo.com", ImplementationSpecific, pattern, "api")
            .note("affinity", "cookie")
            .note("use-regex", "true");
        assert_eq!(path(&routes_of([regex]), asked), expected, "{pattern}");
    }
    let odd = ingress("a")
        .rule("foo.com", Prefix, "/a b;c/ä", "web")
        .note("affinity", "cookie");
    let found = routes_of([odd]);
    assert_eq!(cookie_of_first(&found), "/a%20b%3Bc/%C3%A4");
}

fn cookie_of_first(routes: &Routes) -> String {
    let sticky = upstream(routes).sticky.clone();
    sticky.unwrap().path
}

#[test]
fn l99_every_origin_never_comes_with_credentials() {
    let cors = |notes: &[(&str, &str)]| {
        let mut all = vec![("enable-cors", "true")];
        all.extend(notes);
        let routes = routes_of([site(&all)]);
        (policy(&routes).cors.clone().unwrap(), refusals(&routes))
    };
    for notes in [&[][..], &[("cors-allow-origin", "*")]] {
        let (found, refused) = cors(notes);
        assert!(found.origins.is_empty() && !found.credentials && refused.is_empty());
    }
    let (found, refused) = cors(&[("cors-allow-credentials", "true")]);
    assert!(!found.credentials);
    assert!(refused[0].contains("needs origins in cors-allow-origin"));
    let (found, _) = cors(&[("cors-allow-origin", "https://a.b")]);
    assert!(found.credentials);
}

#[test]
fn l100_booleans_are_read_as_in_go() {
    let forced = |text: &str| {
        let routes = routes_of([site(&[("force-ssl-redirect", text)])]);
        (policy(&routes).to_https, routes.refusals.len())
    };
    for text in ["1", "t", "T", "true", "TRUE", "True", "on", " true "] {
        assert_eq!(forced(text), (true, 0), "{text}");
    }
    for text in ["0", "f", "F", "false", "FALSE", "False", "off"] {
        assert_eq!(forced(text), (false, 0), "{text}");
    }
    for text in ["yes", "tRUE", "2", ""] {
        assert_eq!(forced(text), (false, 1), "{text}");
    }
}

#[test]
fn l101_a_snippet_that_keeps_requests_out_closes() {
    for (snippet, directive) in [
        ("deny all;", "deny all"),
        ("location /metrics {\n  deny all;\n}", "deny all"),
        ("allow 10.0.0.0/8; deny all;", "allow 10.0.0.0/8"),
        ("if ($http_x = \"\") { return 403; }", "return 403"),
        ("return 444;", "return 444"),
        ("auth_request /check;", "auth_request /check"),
        ("auth_basic \"x\";", "auth_basic \"x\""),
        ("satisfy any;", "satisfy any"),
        ("access_by_lua_block { x }", "access_by_lua_block"),
        ("limit_except GET { deny all; }", "limit_except GET"),
        ("modsecurity on;", "modsecurity on"),
    ] {
        for key in ["configuration-snippet", "server-snippet"] {
            let routes = routes_of([site(&[(key, snippet)])]);
            let closed = policy(&routes).closed.clone();
            assert!(closed.unwrap_or_default().contains(directive), "{snippet}");
            assert_eq!(routes.refusals.len(), 1);
        }
    }
    for harmless in [
        "more_set_headers \"X: y\";",
        "# deny all;\nproxy_set_header A b;",
        "return 301 https://x.example/;",
        "rewrite ^/deny /allow break;",
    ] {
        let routes = routes_of([site(&[("configuration-snippet", harmless)])]);
        assert_eq!(policy(&routes).closed, None, "{harmless}");
        assert_eq!(routes.refusals.len(), 1);
    }
}

fn with_key(key: &str) -> Ingress {
    let mut site = site(&[]);
    site.annotations.insert(key.into(), "x".into());
    site
}

#[test]
fn l102_guards_of_other_controllers_are_reported() {
    for (key, controller) in [
        (
            "traefik.ingress.kubernetes.io/router.middlewares",
            "Traefik",
        ),
        ("konghq.com/plugins", "Kong"),
        ("plugins.konghq.com", "Kong"),
        ("haproxy.org/allow-list", "HAProxy"),
        ("haproxy-ingress.github.io/auth-secret", "HAProxy Ingress"),
        ("nginx.org/basic-auth-secret", "F5"),
        ("nginx.com/jwt-key", "F5"),
        ("alb.ingress.kubernetes.io/inbound-cidrs", "AWS"),
        ("ingress.kubernetes.io/auth-type", "older"),
    ] {
        let routes = routes_of([with_key(key)]);
        let refused = refusals(&routes);
        assert!(
            refused[0].contains(key) && refused[0].contains(controller),
            "{refused:?}"
        );
        assert_eq!(policy(&routes).closed, None);
    }
    for key in [
        "traefik.ingress.kubernetes.io/router.entrypoints",
        "nginx.org/client-max-body-size",
        "haproxy.org/path-rewrite",
        "konghq.com/strip-path",
        "cert-manager.io/cluster-issuer",
    ] {
        assert!(routes_of([with_key(key)]).refusals.is_empty(), "{key}");
    }
}

#[test]
fn l103_headers_that_frame_a_message_are_never_set() {
    for name in [
        "Content-Length",
        "TE",
        "Connection",
        "Transfer-Encoding",
        "Host",
        "Trailer",
        "Expect",
    ] {
        let value = format!("X-User, {name}");
        let routes = routes_of([site(&[
            ("auth-url", "http://auth.example/"),
            ("auth-response-headers", &value),
        ])]);
        assert!(policy(&routes).closed.is_some(), "{name}");
        let line = format!("{name}: 5");
        for key in ["/request-headers", "/response-headers"] {
            let routes = routes_of([site(&[(key, &line)])]);
            assert_eq!(routes.refusals.len(), 1, "{name}");
        }
    }
}

#[test]
fn l104_annotations_that_people_use_have_their_effect() {
    let of = |notes: &[(&str, &str)]| routes_of([site(notes)]);
    let affine = |key, value| of(&[("affinity", "cookie"), (key, value)]);
    let routes = affine("session-cookie-expires", "3600");
    assert_eq!(
        upstream(&routes).sticky.clone().unwrap().attributes,
        "; Max-Age=3600; HttpOnly"
    );
    let routes = affine("session-cookie-samesite", "lax");
    assert_eq!(
        upstream(&routes).sticky.clone().unwrap().attributes,
        "; SameSite=Lax; HttpOnly"
    );
    let routes = of(&[("secure-backends", "true")]);
    assert!(upstream(&routes).protocol.is_tls());
    let routes = of(&[
        ("limit-allowlist", "10.0.0.0/8"),
        ("limit-whitelist", "::/0"),
    ]);
    let exempt = policy(&routes).limits.exempt.clone();
    assert_eq!(exempt, ["10.0.0.0/8".parse().unwrap()]);
    for (key, value) in [
        ("auth-always-set-cookie", "true"),
        ("auth-cache-key", "$cookie_session"),
        ("auth-cache-duration", "200 202 5m"),
        ("auth-keepalive", "10"),
        ("enable-global-auth", "false"),
        ("satisfy", "all"),
        ("session-cookie-conditional-samesite-none", "true"),
        ("proxy-busy-buffers-size", "8k"),
    ] {
        let routes = of(&[(key, value)]);
        assert!(routes.refusals.is_empty(), "{key}: {:?}", routes.refusals);
        assert_eq!(policy(&routes).closed, None);
    }
    for (key, value) in [("satisfy", "any"), ("enable-global-auth", "true")] {
        assert!(policy(&of(&[(key, value)])).closed.is_some(), "{key}");
    }
}
