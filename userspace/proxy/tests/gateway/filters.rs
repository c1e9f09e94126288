//! Filters: changes to headers, paths and hosts, redirects and mirrors.

use headgate_model::edge::{
    HeaderEdit, Mirror, PathChange, Redirect, RedirectParts, Scheme, Share, Target, Template,
    UpstreamKey,
};

use crate::{
    client::get,
    setup::{RouteExt, Setup, exact, listener, prefix, route, to, weighted},
};

fn set(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Set(name.into(), value.into())
}

fn add(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Add(name.into(), value.into())
}

fn remove(name: &str) -> HeaderEdit {
    HeaderEdit::Remove(name.into())
}

#[tokio::test]
async fn g75_request_headers_are_set_added_and_removed() {
    let edits = vec![
        set("x-set", "new"),
        add("x-add", "b"),
        add("x-new", "only"),
        remove("x-remove"),
    ];
    let changed = route("web").policy(|policy| policy.request_headers = edits);
    let setup = Setup::routes(vec![changed]).await;
    let asked = get("a.test", "/")
        .header("X-Set", "old")
        .header("x-set", "older")
        .header("X-Add", "a")
        .header("X-Remove", "1")
        .header("x-kept", "1");
    let echo = setup.send(80, asked).await.echo();
    for (name, expected) in [
        ("x-set", Some("new")),
        ("x-add", Some("a,b")),
        ("x-new", Some("only")),
        ("x-remove", None),
        ("x-kept", Some("1")),
    ] {
        assert_eq!(echo.header(name).as_deref(), expected, "{name}");
    }
}

#[tokio::test]
async fn g76_response_headers_are_set_added_and_removed() {
    let edits = vec![set("x-set", "new"), add("x-own", "proxy"), remove("x-gone")];
    let changed = route("web").policy(|policy| policy.response_headers = edits);
    let setup = Setup::routes(vec![changed]).await;
    let got = setup.send(80, get("a.test", "/")).await;
    assert_eq!(got.header("x-set"), Some("new"));
    assert_eq!(got.header("x-gone"), None);
    let own: Vec<_> = got.headers.get_all("x-own").iter().collect();
    assert_eq!(own, ["backend", "proxy"]);
}

#[tokio::test]
async fn g77_filters_of_a_backend_are_for_its_requests_alone() {
    let target = |name: &str| {
        let mut target = weighted(1, to(name));
        target.request_headers = vec![add("x-way", name), set("x-backend", name)];
        target.response_headers = vec![set("x-from", name)];
        target
    };
    let mirror = Mirror {
        upstream: upstream("copy"),
        share: Share::ALL,
    };
    let route = route("both")
        .targets(vec![target("one"), target("two")])
        .policy(|policy| {
            policy.request_headers = vec![set("x-way", "rule")];
            policy.mirrors = vec![mirror];
        });
    let setup = Setup::routes(vec![route]).await;
    let mut by = std::collections::BTreeSet::new();
    let mut count = 0;
    while by.len() < 2 {
        let got = setup.send(80, get("a.test", "/")).await;
        let echo = got.echo();
        count += 1;
        assert_eq!(got.header("x-from"), Some(&*echo.backend));
        assert_eq!(echo.header("x-backend").as_ref(), Some(&echo.backend));
        let way = format!("rule,{}", echo.backend);
        assert_eq!(echo.header("x-way"), Some(way));
        by.insert(echo.backend);
    }
    for (_, headers) in setup.seen("copy", count).await {
        assert!(headers.contains(&("x-way".into(), "rule".into())));
        assert!(!headers.iter().any(|(name, _)| name == "x-backend"));
    }
}

fn parts(code: u16) -> RedirectParts {
    RedirectParts {
        scheme: None,
        host: None,
        port: None,
        path: None,
        code,
    }
}

#[tokio::test]
async fn g78_g79_g80_redirects_change_parts_of_the_address() {
    let host = || Some("b.test".into());
    let full = |path: &str| Some(PathChange::Full(path.into()));
    let start = |path: &str| Some(PathChange::Prefix(path.into()));
    let https = Some(Scheme::Https);
    let http = Some(Scheme::Http);
    let cases = [
        // At port 8080.
        (parts(302), "http://a.test:8080/p/x?q=1"),
        (parts(301), "http://a.test:8080/p/x?q=1"),
        (parts(303), "http://a.test:8080/p/x?q=1"),
        (parts(307), "http://a.test:8080/p/x?q=1"),
        (parts(308), "http://a.test:8080/p/x?q=1"),
        (
            RedirectParts {
                host: host(),
                ..parts(302)
            },
            "http://b.test:8080/p/x?q=1",
        ),
        (
            RedirectParts {
                scheme: https,
                ..parts(302)
            },
            "https://a.test/p/x?q=1",
        ),
        (
            RedirectParts {
                scheme: http,
                ..parts(302)
            },
            "http://a.test/p/x?q=1",
        ),
        (
            RedirectParts {
                port: Some(80),
                ..parts(302)
            },
            "http://a.test/p/x?q=1",
        ),
        (
            RedirectParts {
                port: Some(443),
                ..parts(302)
            },
            "http://a.test:443/p/x?q=1",
        ),
        (
            RedirectParts {
                scheme: https,
                port: Some(443),
                ..parts(302)
            },
            "https://a.test/p/x?q=1",
        ),
        (
            RedirectParts {
                scheme: https,
                port: Some(8443),
                ..parts(302)
            },
            "https://a.test:8443/p/x?q=1",
        ),
        (
            RedirectParts {
                path: full("/else"),
                ..parts(302)
            },
            "http://a.test:8080/else?q=1",
        ),
        (
            RedirectParts {
                path: start("/new"),
                host: host(),
                scheme: https,
                ..parts(302)
            },
            "https://b.test/new/x?q=1",
        ),
    ];
    for (parts, expected) in cases {
        let code = parts.code;
        let redirect = Redirect::Parts(parts);
        let route = route("none")
            .at(prefix("/p"))
            .targets(Vec::new())
            .policy(|policy| policy.redirect = Some(redirect));
        let mut setup = Setup::new();
        let own = listener("", [("", vec![route])]);
        setup.add_port("main", 8080, Scheme::Http, vec![own]);
        setup.serve().await;
        let got = setup.send(8080, get("a.test:1234", "/p/x?q=1")).await;
        assert_eq!(got.header("location"), Some(expected));
        assert_eq!(got.status, code);
    }
}

#[tokio::test]
async fn g80_g81_paths_and_hosts_are_rewritten() {
    let rewritten = |at: &str, change| {
        let policy = |policy: &mut headgate_model::edge::Policy| policy.path = Some(change);
        route("web").at(prefix(at)).policy(policy)
    };
    let start = |path: &str| PathChange::Prefix(path.into());
    for (at, change, path, expected) in [
        ("/foo", start("/xyz"), "/foo/bar", "/xyz/bar"),
        ("/foo", start("/xyz/"), "/foo/bar", "/xyz/bar"),
        ("/foo", start("/xyz"), "/foo", "/xyz"),
        ("/foo", start("/xyz"), "/foo/", "/xyz/"),
        ("/foo", start(""), "/foo/bar", "/bar"),
        ("/foo", start("/"), "/foo/bar", "/bar"),
        ("/foo", start("/"), "/foo", "/"),
        ("/foo", start(""), "/foo", "/"),
        ("/foo", start("/"), "/foo/", "/"),
        ("", start("/xyz"), "/bar", "/xyz/bar"),
        ("", start("/xyz"), "/", "/xyz/"),
        ("", start("/"), "/a/b", "/a/b"),
        ("/foo", start("/xyz"), "/foo/b?q=/foo", "/xyz/b?q=/foo"),
        ("/foo", start("/x y"), "/foo/%C3%A4", "/x%20y/%C3%A4"),
        (
            "/foo",
            PathChange::Full("/one".into()),
            "/foo/b?q",
            "/one?q",
        ),
    ] {
        let setup = Setup::routes(vec![rewritten(at, change.clone())]).await;
        let echo = setup.send(80, get("a.test", path)).await.echo();
        assert_eq!(echo.target, expected, "{at} {change:?} {path}");
    }
    let host = Template::plain("b.test");
    let route = route("web").policy(|policy| policy.host = Some(host));
    let setup = Setup::routes(vec![route]).await;
    let echo = setup.send(80, get("a.test", "/x?q=1")).await.echo();
    assert_eq!(echo.header("host").as_deref(), Some("b.test"));
    assert_eq!(echo.header("x-forwarded-host").as_deref(), Some("a.test"));
    assert_eq!(echo.target, "/x?q=1");
}

fn upstream(name: &str) -> UpstreamKey {
    match to(name) {
        Target::Upstream(key) => key,
        other => panic!("{other:?}"),
    }
}

fn mirror(name: &str, part: u32, whole: u32) -> Mirror {
    Mirror {
        upstream: upstream(name),
        share: Share { part, whole },
    }
}

#[tokio::test]
async fn g83_each_mirror_gets_a_copy_and_changes_nothing() {
    let mirrors = vec![
        mirror("one", 1, 1),
        mirror("two", 1, 1),
        mirror("dead", 1, 1),
        mirror("empty", 1, 1),
    ];
    let route = route("web").policy(|policy| {
        policy.mirrors = mirrors;
        policy.request_headers = vec![set("x-rule", "1")];
    });
    let setup = Setup::routes(vec![route]).await;
    let asked = get("a.test", "/status/418").body("body".into()).unwrap();
    assert_eq!(setup.send_body(80, asked).await.unwrap().status, 418);
    // Silence of mirrors delays nothing.
    let asked = get("a.test", "/?q=1");
    assert_eq!(setup.send(80, asked).await.by(), "web");
    for backend in ["one", "two"] {
        let seen = setup.seen(backend, 2).await;
        let mut targets: Vec<_> = seen.iter().map(|(target, _)| target.as_str()).collect();
        targets.sort_unstable();
        assert_eq!(targets, ["/?q=1", "/status/418"]);
        let (_, headers) = &seen[0];
        assert!(headers.contains(&("x-rule".into(), "1".into())));
        assert!(headers.contains(&("host".into(), "a.test".into())));
    }
    assert_eq!(setup.hits("web"), 2);
}

#[tokio::test]
async fn g84_mirrors_get_their_parts_each_by_itself() {
    let mirrors = vec![
        mirror("all", 1, 1),
        mirror("most", 4, 5),
        mirror("few", 10, 100),
        mirror("none", 0, 100),
    ];
    let route = route("web")
        .at(exact("/"))
        .policy(|policy| policy.mirrors = mirrors);
    let setup = Setup::routes(vec![route]).await;
    const COUNT: usize = 400;
    for _ in 0..COUNT {
        setup.send(80, get("a.test", "/")).await;
    }
    setup.seen("all", COUNT).await;
    // Ten standard deviations.
    for (backend, expected, most) in [("most", 320, 80), ("few", 40, 60), ("none", 0, 0)] {
        let hits = setup.hits(backend);
        assert!(hits.abs_diff(expected) <= most, "{backend}: {hits}");
    }
}
