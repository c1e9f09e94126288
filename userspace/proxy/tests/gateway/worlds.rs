//! Gateways, their ports and listeners, and Ingresses beside them.

use std::sync::Arc;

use headgate_model::{
    NamespacedName,
    edge::{GatewayPort, Host, Listener, Policy, RouteOrigin, Scheme},
};
use headgate_proxy::ExplainRequest;
use http::{HeaderMap, Method, uri::PathAndQuery};
use tokio::net::TcpListener;

use crate::{
    client::{get, send_to},
    setup::{RouteExt, Setup, exact, listener, prefix, route, to, weighted},
};

#[tokio::test]
async fn g26_g140_gateways_and_ingresses_do_not_see_each_other() {
    let mut setup = Setup::new();
    for (gateway, port, backend) in [("main", 80, "one"), ("other", 8080, "two")] {
        let own = listener("", [(&*format!("{backend}.test"), vec![route(backend)])]);
        setup.add_port(gateway, port, Scheme::Http, vec![own]);
    }
    let mut own = route("ingress");
    own.origin = RouteOrigin::ingress(own.origin.name);
    own.policy = Arc::new(Policy::default());
    let host = Host {
        asks_certificate: false,
        routes: vec![Arc::new(own)],
    };
    setup.edge.ingress = Listener {
        hosts: [("ingress.test".into(), host)].into(),
        ..Listener::default()
    };
    setup.serve().await;
    let ingress = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ingress.local_addr().unwrap();
    let proxy = setup.proxy.clone();
    let stop = std::future::pending();
    tokio::spawn(async move { proxy.listen(ingress, Scheme::Http, stop).await });
    for (port, host, expected) in [
        (80, "one.test", "one"),
        (80, "two.test", "404"),
        (80, "ingress.test", "404"),
        (8080, "two.test", "two"),
        (8080, "one.test", "404"),
        (8080, "ingress.test", "404"),
    ] {
        let got = setup.send(port, get(host, "/")).await;
        assert_eq!(got.by(), expected, "{port} {host}");
    }
    for (host, expected) in [("ingress.test", 200), ("one.test", 404), ("two.test", 404)] {
        let asked = get(host, "/").body(Default::default()).unwrap();
        let got = send_to(address, asked).await.unwrap();
        assert_eq!(got.status, expected, "{host}");
    }
}

#[tokio::test]
async fn g18_listeners_that_go_serve_nothing_more() {
    let of = |backend: &str| listener(&format!("{backend}.test"), [("", vec![route(backend)])]);
    let mut setup = Setup::http(vec![of("a"), of("b")]).await;
    let by = async |setup: &Setup, host: &str| setup.send(80, get(host, "/")).await.by();
    assert_eq!(by(&setup, "a.test").await, "a");
    assert_eq!(by(&setup, "b.test").await, "b");
    setup.add_port("main", 80, Scheme::Http, vec![of("b"), of("c")]);
    setup.serve().await;
    assert_eq!(by(&setup, "a.test").await, "404");
    assert_eq!(by(&setup, "b.test").await, "b");
    assert_eq!(by(&setup, "c.test").await, "c");
}

#[tokio::test]
async fn g139_wildcards_of_ingresses_have_one_label_and_hosts_no_fallback() {
    let of_ingress = |backend: &str, path: &str| {
        let mut own = route(backend).at(prefix(path));
        own.origin = RouteOrigin::ingress(own.origin.name);
        Host {
            asks_certificate: false,
            routes: vec![Arc::new(own)],
        }
    };
    let mut setup = Setup::new();
    setup.edge.ingress = Listener {
        hosts: [
            ("x.a.test".into(), of_ingress("exact", "/only")),
            ("*.a.test".into(), of_ingress("wide", "")),
            ("*.test".into(), of_ingress("wider", "")),
        ]
        .into(),
        ..Listener::default()
    };
    setup.serve().await;
    let ingress = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ingress.local_addr().unwrap();
    let proxy = setup.proxy.clone();
    let stop = std::future::pending();
    tokio::spawn(async move { proxy.listen(ingress, Scheme::Http, stop).await });
    for (host, path, expected) in [
        ("x.a.test", "/only", "exact"),
        ("x.a.test", "/", "404"),
        ("z.a.test", "/", "wide"),
        ("y.z.a.test", "/", "404"),
        ("a.test", "/", "wider"),
    ] {
        let asked = get(host, path).body(Default::default()).unwrap();
        let got = send_to(address, asked).await.unwrap();
        assert_eq!(got.by(), expected, "{host}{path}");
    }
}

#[tokio::test]
async fn g64_the_best_listener_alone_has_the_request() {
    let of = |hostname: &str, path: &str| {
        let route = route(&format!("at{}", path.replace('/', "-")));
        let route = route.at(prefix(path));
        listener(hostname, [("", vec![route])])
    };
    let setup = Setup::http(vec![
        of("", "/empty"),
        of("*.example.com", "/wildcard"),
        of("*.foo.example.com", "/foo-wildcard"),
        of("abc.foo.example.com", "/exact"),
    ])
    .await;
    let hosts = [
        ("bar.com", "/empty"),
        ("example.com", "/empty"),
        ("bar.example.com", "/wildcard"),
        ("x.y.example.com", "/wildcard"),
        ("bar.foo.example.com", "/foo-wildcard"),
        ("abc.foo.example.com", "/exact"),
    ];
    for (host, own) in hosts {
        for (_, path) in hosts {
            let expected = match path == own {
                true => format!("at{}", path.replace('/', "-")),
                false => "404".into(),
            };
            let got = setup.send(80, get(host, path)).await;
            assert_eq!(got.by(), expected, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn g64_g92_explanations_name_host_rule_and_weights() {
    let targets = vec![weighted(9, to("one")), weighted(1, to("two"))];
    let own = listener("*.a.test", [("", vec![route("both").targets(targets)])]);
    let setup = Setup::http(vec![own]).await;
    let explain = |host: &str, port: u16| {
        let explained = setup.proxy.explain(&ExplainRequest {
            host: host.into(),
            path: PathAndQuery::from_static("/x"),
            method: Method::GET,
            headers: HeaderMap::new(),
            client: "192.0.2.1".parse().unwrap(),
            is_tls: false,
            gateway: Some(GatewayPort {
                gateway: NamespacedName::new("infra", "main"),
                port,
            }),
        });
        (explained.steps.join("\n"), explained.answer)
    };
    let (steps, answer) = explain("x.a.test", 80);
    assert!(answer.is_none());
    for step in [
        "the route for every path of HTTPRoute shop/both rule 0 matches",
        "9 of 10 such requests go to shop/one:80",
        "it goes to the one endpoint of shop/one:80",
    ] {
        assert!(steps.contains(step), "{steps}");
    }
    for (host, port) in [("a.test", 80), ("x.a.test", 81)] {
        let (_, answer) = explain(host, port);
        assert_eq!(answer.unwrap().status, 404, "{host} {port}");
    }
    let rows = setup.proxy.table().routes;
    assert_eq!(
        rows[0].listener.as_deref(),
        Some("infra/main:80 for-*.a.test")
    );
    assert_eq!(rows[0].ingress, "HTTPRoute shop/both rule 0");
    assert_eq!(rows[0].target, "9 shop/one:80, 1 shop/two:80");
}

#[tokio::test]
async fn g65_a_rule_of_a_worse_host_is_taken_if_none_of_a_better_matches() {
    let own = listener(
        "",
        [
            ("a.b.test", vec![route("exact").at(exact("/exact"))]),
            ("*.b.test", vec![route("long").at(exact("/long"))]),
            ("*.test", vec![route("short").at(exact("/short"))]),
            ("", vec![route("any").at(exact("/any"))]),
        ],
    );
    let setup = Setup::http(vec![own]).await;
    for (host, path, expected) in [
        ("a.b.test", "/exact", "exact"),
        ("a.b.test", "/long", "long"),
        ("a.b.test", "/short", "short"),
        ("a.b.test", "/any", "any"),
        ("c.d.b.test", "/long", "long"),
        ("c.d.b.test", "/exact", "404"),
        ("b.test", "/long", "404"),
        ("b.test", "/short", "short"),
        ("else", "/short", "404"),
    ] {
        let got = setup.send(80, get(host, path)).await;
        assert_eq!(got.by(), expected, "{host} {path}");
    }
}

#[tokio::test]
async fn g66_a_port_in_host_does_not_count_and_is_passed_on() {
    let setup = Setup::http(vec![listener("a.test", [("a.test", vec![route("web")])])]).await;
    for host in ["a.test", "A.test:80", "a.test:4711"] {
        let echo = setup.send(80, get(host, "/")).await.echo();
        assert_eq!(echo.header("host").as_deref(), Some(host));
        assert_eq!(echo.header("x-forwarded-port").as_deref(), Some("80"));
    }
}

#[tokio::test]
async fn g138_nothing_is_done_that_no_route_says() {
    let setup = Setup::routes(vec![route("web")]).await;
    let large = get("a.test", "/").body(vec![0; 3 << 20].into()).unwrap();
    let got = setup.send_body(80, large).await.unwrap();
    assert_eq!(got.by(), "web", "bodies have no limit");
    let got = setup.send(80, get("a.test", "/x%2Fy//z?q=%20")).await;
    assert_eq!(got.echo().target, "/x%2Fy//z?q=%20");
    assert_eq!(got.header("x-own"), Some("backend"));
    assert_eq!(got.header("strict-transport-security"), None);
    assert_eq!(
        got.header("access-control-allow-origin"),
        Some("https://backend")
    );
}
