//! The backend gets the path that was routed.

use headgate_model::ingress::Ingress;
use headgate_proxy::Settings;

use crate::{
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

#[tokio::test]
async fn l81_a_path_is_routed_by_the_form_that_is_sent() {
    let setup = Setup::new().await;
    for (target, is_admin, sent) in [
        ("/admin", true, "/admin"),
        ("//admin", true, "/admin"),
        ("/%61dmin", true, "/admin"),
        ("/%61%64%6d%69%6E", true, "/admin"),
        ("/./admin", true, "/admin"),
        ("/public/../admin", true, "/admin"),
        ("/public/%2e%2e/admin", true, "/admin"),
        ("/public/.%2E/admin/x", true, "/admin/x"),
        ("/public//..//admin/", true, "/admin/"),
        ("/../admin?a=/../b", true, "/admin?a=/../b"),
        ("http://a.test/public/../admin", true, "/admin"),
        ("http://A.test:80//admin", true, "/admin"),
        ("/admin/../public", false, "/public"),
        ("/admin/%2e%2e/public", false, "/public"),
        ("/public/..%2fadmin", false, "/public/..%2Fadmin"),
        ("/public/..%2Fadmin", false, "/public/..%2Fadmin"),
        ("/public%2f..%2fadmin", false, "/public%2F..%2Fadmin"),
        ("/public/..%5cadmin", false, "/public/..%5Cadmin"),
        ("/%2561dmin", false, "/%2561dmin"),
        ("/admin%2f", false, "/admin%2F"),
        ("/Admin", false, "/Admin"),
        ("/admin;x", false, "/admin;x"),
    ] {
        let host = match target.contains(":80") {
            true => "A.test:80",
            false => "a.test",
        };
        let status = get(&setup, target, host, "").await;
        assert_eq!(status, "200", "{target}");
        let (here, there) = match is_admin {
            true => (&setup.admin, &setup.web),
            false => (&setup.web, &setup.admin),
        };
        assert_eq!(here.targets(), [sent], "{target}");
        assert_eq!(there.targets(), [""; 0], "{target}");
        setup.web.forget();
        setup.admin.forget();
    }
}

#[tokio::test]
async fn l81_invalid_paths_reach_no_backend() {
    let setup = Setup::new().await;
    for target in [
        "/a\\b",
        "/a\\..\\admin",
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

/// Access rules of a path apply to every spelling of it.
#[tokio::test]
async fn l81_access_rules_cannot_be_bypassed() {
    let mut objects = objects(&[]);
    let main = objects.ingresses.get_mut(&name("main")).unwrap();
    let mut guarded = Ingress {
        name: name("guarded"),
        ..main.clone()
    };
    guarded.rules[0].paths.truncate(1);
    main.rules[0].paths.remove(0);
    let key = "nginx.ingress.kubernetes.io/denylist-source-range";
    guarded.annotations.insert(key.into(), "127.0.0.0/8".into());
    objects.ingresses.insert(guarded.name.clone(), guarded);
    let setup = Setup::with(Settings::default(), &objects).await;
    for target in [
        "/admin",
        "//admin",
        "/%61dmin",
        "/x/%2e%2e/admin",
        "/admin/",
    ] {
        for more in ["", "X-Forwarded-For: 10.0.0.1\r\n", "Connection: Host\r\n"] {
            assert_eq!(
                get(&setup, target, HOST, more).await,
                "403",
                "{target} {more}"
            );
        }
    }
    assert_eq!(setup.admin.targets(), [""; 0]);
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
