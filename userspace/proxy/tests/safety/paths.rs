//! A path is routed and guarded in one form, and no spelling of it undoes a guard.

use headgate_model::ingress::Ingress;
use headgate_proxy::Settings;

use crate::{
    backend::Backend,
    client::Client,
    setup::{HOST, Setup, name, objects},
};

/// Returns the status of a GET with this target on the request line.
async fn get(setup: &Setup, target: &str, host: &str, more: &str) -> String {
    let mut client = Client::connect(setup.http).await;
    let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
    client.send(head).await;
    client.rest().await[9..12].into()
}

/// Without access rules that differ, the backend gets the path as the client wrote it.
#[tokio::test]
async fn l120_a_path_is_routed_decoded_and_sent_as_written() {
    let setup = Setup::new().await;
    for (target, is_admin) in [
        ("/admin", true),
        ("//admin", true),
        ("/%61dmin", true),
        ("/%61%64%6d%69%6E", true),
        ("/./admin", true),
        ("/public/../admin", true),
        ("/public/%2e%2e/admin", true),
        ("/public/.%2E/admin/x", true),
        ("/public//..//admin/", true),
        ("/public/..%2fadmin", true),
        ("/public%2f..%2fadmin", true),
        ("/%2fadmin", true),
        ("/admin%2f", true),
        ("/admin?a=/../b", true),
        ("/admin?a=%2f&q={x|y}^[z]", true),
        ("/admin/../public", false),
        ("/admin/%2e%2e/public", false),
        ("/admin/..%2fpublic", false),
        ("/a//b/https://c/%7Eu/a%2fb/caf%C3%A9/./d", false),
        ("/public/..%5cadmin", false),
        ("/%2561dmin", false),
        ("/Admin", false),
        ("/admin;x", false),
        ("/bucket//key%20with%2Fslash+and+plus", false),
    ] {
        let status = get(&setup, target, HOST, "").await;
        assert_eq!(status, "200", "{target}");
        let (here, there) = match is_admin {
            true => (&setup.admin, &setup.web),
            false => (&setup.web, &setup.admin),
        };
        assert_eq!(here.targets(), [target], "{target}");
        assert_eq!(there.targets(), [""; 0], "{target}");
        setup.web.forget();
        setup.admin.forget();
    }
    for target in [
        "http://a.test/public/../admin",
        "http://A.test:80/public/../admin",
    ] {
        assert_eq!(get(&setup, target, HOST, "").await, "200", "{target}");
        assert_eq!(setup.admin.targets(), ["/public/../admin"], "{target}");
        setup.admin.forget();
    }
}

#[tokio::test]
async fn l81_invalid_paths_reach_no_backend() {
    let setup = Setup::new().await;
    for target in [
        "/../admin",
        "/a/../../admin",
        "/%2e%2e/admin",
        "/a%00b",
        "/a%0d%0aX:%20y",
        "/a%0A",
        "/a%7f",
        "/a%",
        "/a%2",
        "/a%zz",
        "/%u002e",
        "*",
        "admin",
        "http://a.test\\admin",
    ] {
        assert_eq!(get(&setup, target, HOST, "").await, "400", "{target}");
    }
    assert_eq!(setup.web.targets(), [""; 0]);
    assert_eq!(setup.admin.targets(), [""; 0]);
}

/// A proxy for two Ingresses: `guard` guards a path, and everything else is open.
async fn guarded(path: &str, guard: &[(&str, &str)]) -> Setup {
    let mut objects = objects(&[]);
    let main = objects.ingresses.get_mut(&name("main")).unwrap();
    let mut guarded = Ingress {
        name: name("guarded"),
        ..main.clone()
    };
    guarded.rules[0].paths.truncate(1);
    guarded.rules[0].paths[0].path = path.into();
    main.rules[0].paths.remove(0);
    for (key, value) in guard {
        let key = format!("nginx.ingress.kubernetes.io/{key}");
        guarded.annotations.insert(key, (*value).into());
    }
    objects.ingresses.insert(guarded.name.clone(), guarded);
    let settings = Settings {
        auth_local: vec!["127.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    Setup::with(settings, &objects).await
}

/// Access rules of a path apply to every spelling of it that a server reads as that path.
#[tokio::test]
async fn l121_a_guard_holds_for_every_spelling() {
    let denied = [("denylist-source-range", "127.0.0.0/8")];
    for (path, targets) in [
        (
            "/admin",
            &[
                "/admin",
                "//admin",
                "/%61dmin",
                "/x/%2e%2e/admin",
                "/admin/",
                "/admin%2fsecret.txt",
                "/admin%2Fsecret.txt",
                "/%2fadmin/secret.txt",
                "/public/..%2fadmin/secret.txt",
                "/x%2f..%2fadmin/secret.txt",
                "/x/..//admin",
            ][..],
        ),
        (
            "/@admin",
            &["/@admin/s.txt", "/%40admin/s.txt", "/%40%61dmin"],
        ),
        (
            "/geheim/\u{e4}",
            &[
                "/geheim/%C3%A4",
                "/geheim/%c3%a4/x",
                "/geheim/\u{e4}",
                "/geheim%2f%c3%a4",
            ],
        ),
        ("/a b", &["/a%20b", "/a%20b/c"]),
        ("/caf%c3%a9", &["/caf%C3%A9", "/caf%c3%a9", "/caf\u{e9}/x"]),
        ("/%61lpha", &["/alpha", "/%61lpha", "/al%70ha"]),
        ("/a+b=c&d", &["/a+b=c&d", "/a%2Bb%3Dc%26d"]),
    ] {
        let setup = guarded(path, &denied).await;
        for target in targets {
            for more in ["", "X-Forwarded-For: 10.0.0.1\r\n", "Connection: Host\r\n"] {
                let status = get(&setup, target, HOST, more).await;
                assert_eq!(status, "403", "{path}: {target} {more}");
            }
        }
        assert_eq!(get(&setup, "/other", HOST, "").await, "200");
        assert_eq!(setup.web.targets(), ["/other"]);
        assert_eq!(setup.admin.targets(), [""; 0]);
    }
}

/// The backend does not get a spelling that it could read as a guarded path, or as a path outside of the
/// guard that the request passed.
#[tokio::test]
async fn l121_no_spelling_undoes_a_guard() {
    let setup = guarded("/admin", &[("denylist-source-range", "127.0.0.0/8")]).await;
    for (target, sent) in [
        ("/admin/../public", Some("/public")),
        ("/admin/%2e%2e/public?a=/../b", Some("/public?a=/../b")),
        ("/admin/..%2fpublic", Some("/public")),
        ("/admin%2f..%2fpublic", Some("/public")),
        ("/admin/../caf%c3%a9%20", Some("/caf%C3%A9%20")),
        ("/public/..%5cadmin", None),
        ("/public\\..\\admin", None),
        ("/%5cadmin", None),
        ("/admin;x", None),
        ("/admin;x/secret", None),
        ("/public/..;/admin", None),
        ("/public/..;x=%20/admin", None),
        // These are no way to the guarded path.
        ("/public//%7Eu/a%2fb/./c", Some("/public//%7Eu/a%2fb/./c")),
        ("/%2561dmin", Some("/%2561dmin")),
        ("/public;x/y", Some("/public;x/y")),
        ("/a\\b", Some("/a\\b")),
    ] {
        let status = get(&setup, target, HOST, "").await;
        assert_eq!(
            status,
            if sent.is_some() { "200" } else { "400" },
            "{target}"
        );
        let targets = setup.web.targets();
        assert_eq!(targets.first().map(String::as_str), sent, "{target}");
        setup.web.forget();
    }
    assert_eq!(setup.admin.targets(), [""; 0]);

    // Clients that the guard admits: their spelling arrives, unless it leads out of the guard.
    let setup = guarded("/admin", &[("allowlist-source-range", "127.0.0.0/8")]).await;
    for (target, sent) in [
        ("/admin%2fsecret", "/admin%2fsecret"),
        ("/x/../admin/a//b", "/x/../admin/a//b"),
        ("/admin;x/../admin/a", "/admin;x/../admin/a"),
    ] {
        assert_eq!(get(&setup, target, HOST, "").await, "200", "{target}");
        assert_eq!(setup.admin.targets(), [sent], "{target}");
        setup.admin.forget();
    }
    // Both paths have the same guard.
    let setup = guarded("/admin", &[]).await;
    assert_eq!(get(&setup, "/admin/../public", HOST, "").await, "200");
    assert_eq!(setup.web.targets(), ["/admin/../public"]);
}

/// `auth-url` is asked about the path that the backend gets, and with GET.
#[tokio::test]
async fn l122_an_authentication_service_is_asked_about_the_path_that_is_sent() {
    let asked = Backend::start().await;
    let url = format!("http://{}/check", asked.address);
    let setup = guarded("/", &[("auth-url", &url)]).await;
    for (target, sent) in [
        ("/public/x?y=%2e", "/public/x?y=%2e"),
        ("/public/%2e%2e/admin/secret", "/admin/secret"),
        ("/public/..%2fadmin/secret", "/admin/secret"),
        ("//admin/secret?q", "/admin/secret?q"),
        ("/group%2Fproject/%7Eu", "/group%2Fproject/%7Eu"),
        ("http://a.test/public/../admin", "/admin"),
    ] {
        assert_eq!(get(&setup, target, HOST, "").await, "200", "{target}");
        assert_eq!(setup.admin.targets(), [sent], "{target}");
        let question = asked.seen().remove(0);
        assert_eq!(question.target, "/check");
        let url = format!("http://a.test{sent}");
        assert_eq!(question.all("x-original-url"), [&url], "{target}");
        for name in ["x-forwarded-uri", "x-auth-request-redirect"] {
            assert_eq!(question.all(name), [sent], "{target}");
        }
        setup.admin.forget();
        asked.forget();
    }
    for target in [
        "/public/..;/admin",
        "/public\\..\\admin",
        "/public/..%5cadmin",
    ] {
        assert_eq!(get(&setup, target, HOST, "").await, "400", "{target}");
    }
    assert_eq!(asked.targets(), [""; 0]);
    for method in ["POST", "OPTIONS", "DELETE"] {
        let mut client = Client::connect(setup.http).await;
        let head = format!("{method} /a HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        client.send(head).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
        let question = asked.seen().remove(0);
        assert_eq!(question.method, "GET", "{method}");
        assert_eq!(question.all("x-original-method"), [method]);
        asked.forget();
    }
}

/// A rule that can match no request is refused by name.
#[tokio::test]
async fn l120_a_rule_outside_of_the_root_is_refused() {
    let setup = Setup::new().await;
    for path in ["/../a", "/a%0ab"] {
        let mut objects = objects(&[]);
        let main = objects.ingresses.get_mut(&name("main")).unwrap();
        main.rules[0].paths[0].path = path.into();
        let refusals = setup.serve(&objects);
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert_eq!(refusals[0].field, "spec.rules[0].http.paths[0].path");
    }
}

/// Hop-by-hop fields are removed; `Connection` cannot remove the headers of the proxy.
#[tokio::test]
async fn l81_hop_by_hop_fields_are_removed() {
    let setup = Setup::new().await;
    let more = "Connection: Host, X-Private, X-Forwarded-For, X-Real-IP, X-Request-ID, Upgrade\r\n\
        X-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
        Proxy-Authorization: secret\r\nTE: gzip, trailers\r\nTrailer: X-Late\r\n";
    assert_eq!(get(&setup, "/a", HOST, more).await, "200");
    let seen = setup.web.seen().remove(0);
    for name in [
        "x-private",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
    ] {
        assert_eq!(seen.all(name), [""; 0], "{name}");
    }
    assert_eq!(seen.all("host"), ["a.test"]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-request-id").len(), 1);
    assert_eq!(seen.all("te"), ["trailers"]);
}
