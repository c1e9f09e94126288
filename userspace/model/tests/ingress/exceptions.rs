//! Where ingress-nginx's template has an exception, so have we.

use headgate_model::edge::{CorsOrigins, Host, PathMatch, Sticky, Target};
use headgate_model::ingress::{Ingress, IngressOptions, Routes, routes};

use crate::{
    annotations::{policy, site, upstream},
    build::{
        Build, Exact, ImplementationSpecific, Prefix, answer, fields, find, get, ingress, objects,
        refusals, routes_of, target,
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
    let rewrite = route.policy.rewrite.as_ref();
    (is_regex, rewrite.map(|rule| rule.target.to_string()))
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
fn l109_rewrites_may_have_queries_and_be_redirects() {
    let of = |target: &str| {
        let routes = rewriting(target, &["/x/(.*)"]);
        let route = find(&routes, &get("foo.com", "/x/1")).unwrap().clone();
        route.policy.rewrite.clone()
    };
    for (target, path, query, keeps, redirects) in [
        ("/$1", "/$1", None, true, false),
        ("$1", "$1", None, true, false),
        ("/a?b=$1", "/a", Some("b=$1"), true, false),
        ("/a?b=$1?", "/a", Some("b=$1"), false, false),
        ("/a?", "/a", None, false, false),
        (
            "https://new.test/$1",
            "https://new.test/$1",
            None,
            true,
            true,
        ),
        (
            "$scheme://$host/new/$1",
            "$scheme://$host/new/$1",
            None,
            true,
            true,
        ),
    ] {
        let found = of(target).unwrap();
        assert_eq!(found.target.to_string(), path, "{target}");
        assert_eq!(found.query.map(|query| query.to_string()).as_deref(), query);
        assert_eq!((found.keeps_query, found.is_redirect), (keeps, redirects));
    }
    for target in ["nowhere", "/$nothing", "/a b", "javascript:x", "/${1"] {
        assert_eq!(of(target), None, "{target}");
    }
}

#[test]
fn l108_variables_of_nginx_are_known_and_others_are_named() {
    let external = |key: &str, value: &str| {
        routes_of([site(&[
            ("auth-url", "http://auth.example/check"),
            (key, value),
        ])])
    };
    for value in [
        "https://l/?rm=$request_method",
        "https://$http_host/in?rd=$escaped_request_uri",
        "https://$best_http_host/in?rd=$uri$is_args$args",
        "$scheme://$host/in?a=$arg_a&h=$http_x_team&c=$cookie_c&r=$remote_addr",
        "https://l/${request_uri}",
    ] {
        for key in ["auth-signin", "permanent-redirect", "temporal-redirect"] {
            let routes = external(key, value);
            assert!(routes.refusals.is_empty(), "{:?}", routes.refusals);
        }
    }
    // The question is asked in any case, so that nothing is open.
    for key in ["auth-signin", "auth-request-redirect"] {
        let routes = external(key, "https://l/$nothing");
        assert!(refusals(&routes)[0].ends_with("$nothing is not supported"));
        assert_eq!(policy(&routes).closed, None, "{key}");
        assert_eq!(policy(&routes).auth.len(), 1);
    }
    let asking = |url: &str| routes_of([site(&[("auth-url", url)])]);
    for url in [
        "http://$host/check",
        "http://${host}x/check",
        "http://a/check$request_uri",
        "http://a/${host}x",
        "http://a?u=$http_host",
    ] {
        assert_eq!(policy(&asking(url)).closed, None, "{url}");
    }
    for url in [
        "http://$http_host/",
        "http://a.$arg_x/",
        "$scheme://a/",
        "http://a$request_uri",
        "http://a/$nothing",
        "http://a/${http_a/b}",
    ] {
        assert!(policy(&asking(url)).closed.is_some(), "{url}");
    }
}

#[test]
fn l97_app_root_is_for_the_host() {
    let root = |routes: &Routes| {
        let route = find(routes, &get("foo.com", "/"))?.clone();
        Some((
            route.origin.name.name.clone(),
            route.policy.app_root.clone(),
        ))
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
    let hosts = routes_of([own]).listener.hosts;
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
    match target(route.unwrap()) {
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
    let path = |routes: &Routes, asked| cookie(&routes.listener.hosts["foo.com"], asked).path;
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

/// Clients could find an address for a value whose key they know.
#[test]
fn l141_the_key_of_an_affinity_cookie_is_the_id_of_its_service() {
    let keys = |uid: &str| {
        let two = ingress("a")
            .rule("foo.com", Prefix, "/", "web")
            .rule("foo.com", Prefix, "/api", "api")
            .note("affinity", "cookie");
        let mut objects = objects([two]);
        for service in objects.services.values_mut() {
            service.uid = uid.into();
        }
        let options = IngressOptions {
            without_class: true,
            ..IngressOptions::default()
        };
        let routes = routes(&objects, &options);
        ["/", "/api"].map(|path| cookie(&routes.listener.hosts["foo.com"], path).secret)
    };
    assert_eq!(keys("4c1e"), ["4c1e", "4c1e"]);
    // A manifest may have no id: the key is never empty, nor the same for two Services.
    assert_eq!(keys(""), ["default/web", "default/api"]);
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
        assert!(found.origins == CorsOrigins::All && !found.credentials && refused.is_empty());
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
        // `#` begins a comment only where a word begins, outside of quotes.
        ("more_set_headers \"X: #a\"; deny all;", "deny all"),
        ("set $a '#'; deny all;", "deny all"),
        ("set $a b#c; deny all;", "deny all"),
        ("set $a \"\\\"#\"; deny all;", "deny all"),
        ("set $a it's; # \"\ndeny all;", "deny all"),
        ("set $a ${b}c; deny all;", "deny all"),
        ("return $code;", "return $code"),
        ("return \"403\";", "return \"403\""),
        (
            "rewrite_by_lua_block { if x then ngx.exit(403) end }",
            "rewrite_by_lua_block",
        ),
        ("content_by_lua 'ngx.exit(403)';", "content_by_lua"),
        (
            "header_filter_by_lua_block {\n  n = #t -- 'tis\n} deny all;",
            "deny all",
        ),
        ("rewrite_by_lua_file a.lua;", "rewrite_by_lua_file"),
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
        "more_set_headers \"X: y\"; # deny all;",
        "add_header X \"a; deny all; return 403;\";",
        "header_filter_by_lua_block { ngx.header.x = 1 }\n# deny all;",
        "return 301 https://x.example/;",
        "return $scheme://x.example${request_uri};",
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

#[test]
fn l110_authentication_services_are_not_at_addresses_of_the_node() {
    let read = |notes: &[(&str, &str)], allowed: &[&str]| {
        let options = IngressOptions {
            auth_local: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            ..IngressOptions::default()
        };
        let routes = routes(&objects([site(notes)]), &options);
        (policy(&routes).closed.is_some(), routes.refusals.len())
    };
    for host in [
        "127.0.0.1:9099",
        "127.1.2.3",
        "localhost:80",
        "LOCALHOST.",
        "a.localhost",
        "[::1]:80",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "169.254.169.254",
        "0.0.0.0",
        "0.1.2.3",
        "255.255.255.255",
        "[::7f00:1]",
        "[::]",
        "224.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
    ] {
        let url = format!("http://{host}/check");
        assert_eq!(read(&[("auth-url", &url)], &[]), (true, 1), "{host}");
        let jwt = [("auth-type", "jwt"), ("/auth-server", &*url)];
        assert_eq!(read(&jwt, &[]), (true, 1), "{host}");
    }
    for host in [
        "auth.example",
        "10.0.0.1",
        "[fd00::1]",
        "0x7f.example",
        "1.example",
    ] {
        let url = format!("http://{host}/check");
        assert_eq!(read(&[("auth-url", &url)], &[]), (false, 0), "{host}");
    }
    for (host, allowed) in [
        ("127.0.0.1", "127.0.0.0/8"),
        ("localhost", "127.0.0.0/8"),
        ("[::1]", "::1/128"),
        ("169.254.20.10", "169.254.20.10/32"),
    ] {
        let url = format!("http://{host}/");
        assert_eq!(
            read(&[("auth-url", &url)], &[allowed]),
            (false, 0),
            "{host}"
        );
    }
}

#[test]
fn l111_error_pages_are_of_a_service_of_the_namespace() {
    let pages = |notes: &[(&str, &str)]| {
        let routes = routes_of([site(notes)]);
        let pages = policy(&routes).error_pages.clone();
        let pages = pages.map(|pages| (pages.upstream.to_string(), pages.codes));
        (pages, routes.refusals.len())
    };
    let backend = ("default-backend", "rest");
    let found = |codes: &[u16]| Some(("default/rest:80".to_owned(), codes.to_vec()));
    assert_eq!(pages(&[backend]), (found(&[]), 0));
    let codes = ("custom-http-errors", "404, 503");
    assert_eq!(pages(&[backend, codes]), (found(&[404, 503]), 0));
    assert_eq!(pages(&[codes]), (None, 1));
    assert_eq!(pages(&[("default-backend", "nowhere")]), (None, 1));
    assert_eq!(
        pages(&[backend, ("custom-http-errors", "200")]),
        (found(&[]), 1)
    );
}
