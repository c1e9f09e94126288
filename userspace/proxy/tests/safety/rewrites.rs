//! Rewrites, redirects with variables, and error pages.

use std::collections::BTreeMap;

use headgate_model::ingress::{NGINX, Objects, PathType};

use crate::{
    client::Client,
    setup::{Setup, name, objects},
};

async fn answer(setup: &Setup, target: &str) -> String {
    let mut client = Client::connect(setup.http).await;
    let head = format!("GET {target} HTTP/1.1\r\nHost: A.test:8080\r\n");
    client
        .send(format!(
            "{head}X-Team: b\r\nX-Format: text/x\r\nConnection: close\r\n\r\n"
        ))
        .await;
    client.rest().await
}

/// An Ingress of one path with annotations of ingress-nginx.
fn with_path(path: &str, annotations: &[(&str, &str)]) -> Objects {
    let keys: Vec<String> = annotations
        .iter()
        .map(|(key, _)| format!("{NGINX}{key}"))
        .collect();
    let values = annotations.iter().map(|(_, value)| *value);
    let all: Vec<_> = keys.iter().map(String::as_str).zip(values).collect();
    let mut objects = objects(&all);
    let ingress = objects.ingresses.get_mut(&name("main")).unwrap();
    let paths = &mut ingress.rules.first_mut().unwrap().paths;
    paths.retain(|path| path.path == "/");
    for rule in paths {
        rule.path = path.into();
        rule.path_type = PathType::ImplementationSpecific;
    }
    objects
}

#[tokio::test]
async fn l96_l109_backends_get_the_rewritten_path_and_query() {
    let setup = Setup::new().await;
    for (path, target, asked, expected) in [
        ("/", "/", "/static/app.js?v=1", "/static/app.js?v=1"),
        ("/app", "/app", "/app/x", "/app/x"),
        ("/x/(.*)", "/y/$1", "/x/a%20b?c=d", "/y/a%20b?c=d"),
        ("/x(/.*)", "$1", "/x/a", "/a"),
        ("/x/(.*)", "/y?q=$1", "/x/a?c=d", "/y?q=a&c=d"),
        ("/x/(.*)", "/y?q=$1?", "/x/a?c=d", "/y?q=a"),
        ("/x/(.*)", "/y?", "/x/a?c=d", "/y"),
        ("/x/(.*)", "/y?q=$1", "/x/a%26b=c", "/y?q=a%26b=c"),
        ("/x/(.*)", "/y?$1", "/x/a&b=c", "/y?a&b=c"),
        ("/x/(.*)", "/y?q=$uri", "/x/a%20b", "/y?q=/x/a%20b"),
        ("/x/(.*)", "/$http_x_team/$1", "/x/a", "/b/a"),
    ] {
        setup.serve(&with_path(path, &[("rewrite-target", target)]));
        let answer = answer(&setup, asked).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{target}: {answer}");
        let last = setup.web.targets().pop();
        assert_eq!(last.as_deref(), Some(expected), "{target}");
    }
}

#[tokio::test]
async fn l108_l109_clients_are_redirected_with_variables() {
    let setup = Setup::new().await;
    let rewrite = "rewrite-target";
    let permanent = "permanent-redirect";
    for (key, value, location) in [
        (rewrite, "https://new.test/$1", "https://new.test/a?c=d"),
        (rewrite, "https://new.test/$1?", "https://new.test/a"),
        (
            permanent,
            "https://new.test$request_uri",
            "https://new.test/x/a?c=d",
        ),
        (permanent, "https://new.test/$1", "https://new.test/a"),
        (
            permanent,
            "$scheme://$http_host/n?m=$request_method&c=$arg_c",
            "http://A.test:8080/n?m=GET&c=d",
        ),
    ] {
        let notes = [(key, value), ("use-regex", "true")];
        setup.serve(&with_path("/x/(.*)", &notes));
        let answer = answer(&setup, "/x/a?c=d").await;
        let line = format!("location: {location}\r\n");
        assert!(answer.contains(&line), "{value}: {answer}");
    }
}

#[tokio::test]
async fn l111_another_backend_answers_in_place_of_errors() {
    let setup = Setup::new().await;
    let notes = [
        ("default-backend", "admin"),
        ("custom-http-errors", "502,404"),
    ];
    setup.serve(&with_path("/", &notes));
    for state in setup.proxy.upstreams() {
        if state.key.service.name == "web" {
            let nowhere = "127.0.0.1:1".parse().unwrap();
            setup
                .proxy
                .place(&state.key, &BTreeMap::from([(nowhere, 1)]));
        }
    }
    let page = answer(&setup, "/a?b=c").await;
    assert!(page.ends_with("\r\n\r\nok\n"), "{page}");
    let seen = setup.admin.seen().pop().unwrap();
    assert_eq!((&*seen.method, &*seen.target), ("GET", "/?b=c"));
    for (name, value) in [
        ("x-code", "502"),
        ("x-original-uri", "/a?b=c"),
        ("x-namespace", "default"),
        ("x-ingress-name", "main"),
        ("x-service-name", "web"),
        ("x-service-port", "80"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    assert_eq!(seen.all("x-format"), [""; 0]);
}

#[tokio::test]
async fn l111_another_backend_stands_in_for_one_without_endpoints() {
    let setup = Setup::new().await;
    let notes = [("default-backend", "admin"), ("rewrite-target", "/y/$1")];
    setup.serve(&with_path("/x/(.*)", &notes));
    for state in setup.proxy.upstreams() {
        if state.key.service.name == "web" {
            setup.proxy.place(&state.key, &BTreeMap::new());
        }
    }
    let response = answer(&setup, "/x/a?b=c").await;
    assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
    let seen = setup.admin.seen().pop().unwrap();
    assert_eq!((&*seen.method, &*seen.target), ("GET", "/y/a?b=c"));
    assert_eq!(seen.all("x-code"), [""; 0]);
}

/// Sends a request for each of the numbers, and returns how many endpoints got one.
async fn spread(setup: &Setup, request: impl Fn(u32) -> String) -> usize {
    setup.web.forget();
    setup.admin.forget();
    for number in 1..=20 {
        let mut client = Client::connect(setup.http).await;
        client.send(request(number)).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
    }
    let reached = [&setup.web, &setup.admin].into_iter();
    reached.filter(|one| !one.seen().is_empty()).count()
}

/// As in nginx: the hash is of the request before a rule changes path, host or headers.
#[tokio::test]
async fn l145_the_endpoint_depends_on_what_the_client_sent() {
    let setup = Setup::new().await;
    let request = |target: &str, host: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n")
    };
    type Of = fn(u32) -> (String, String, String);
    let paths: Of = |number| (format!("/x/{number}"), "a.test".into(), String::new());
    let queries: Of = |number| (format!("/x/?q={number}"), "a.test".into(), String::new());
    let hosts: Of = |number| ("/x/".into(), format!("{number}.test"), String::new());
    let teams: Of = |number| {
        (
            "/x/".into(),
            "a.test".into(),
            format!("X-Team: {number}\r\n"),
        )
    };
    let rewrite = "nginx.ingress.kubernetes.io/rewrite-target";
    let host = "nginx.ingress.kubernetes.io/upstream-vhost";
    for (by, key, value, differs) in [
        ("$request_uri", rewrite, "/index.php?", paths),
        ("$request_uri", rewrite, "/index.php?", queries),
        ("$arg_q", rewrite, "/index.php?", queries),
        ("$host", host, "one.test", hosts),
        (
            "$http_x_team",
            "headgate.io/request-headers",
            "X-Team: one",
            teams,
        ),
    ] {
        let mut objects = with_path("/x/", &[("upstream-hash-by", by)]);
        let ingress = objects.ingresses.get_mut(&name("main")).unwrap();
        ingress.rules[0].host = String::new();
        ingress.annotations.insert(key.into(), value.into());
        assert_eq!(setup.serve(&objects), [], "{by}");
        let both = [&setup.web, &setup.admin].map(|one| (one.address, 1));
        for state in setup.proxy.upstreams() {
            setup.proxy.place(&state.key, &BTreeMap::from(both));
        }
        let reached = spread(&setup, |number| {
            let (target, host, more) = differs(number);
            request(&target, &host, &more)
        });
        assert_eq!(reached.await, 2, "{by} {key}");
        let same = spread(&setup, |number| {
            let target = ["/x/a?q=a", "/x/%61?q=a"][number as usize % 2];
            request(target, "a.test", "X-Team: b\r\n")
        });
        assert_eq!(same.await, 1, "{by} {key}");
    }
}
