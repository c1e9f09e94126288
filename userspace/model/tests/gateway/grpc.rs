use headgate_model::{edge::UpstreamProtocol, gateway::RouteKind};

use crate::build::{cluster, condition, route};
use crate::request::{Request, answer, find, get};

/// A Gateway with a GRPCRoute `r` with these rules.
fn with_rules(rules: &str) -> crate::build::Cluster {
    cluster(&format!(
        "
kind: Gateway
metadata: {{name: web}}
spec: {{gatewayClassName: headgate, listeners: [{{name: a, port: 80, protocol: HTTP}}]}}
---
kind: GRPCRoute
metadata: {{name: r}}
spec: {{parentRefs: [{{name: web}}], rules: [{rules}]}}
"
    ))
}

fn rule(one: &str, service: &str) -> String {
    format!("{{matches: [{{{one}}}], backendRefs: [{{name: {service}, port: 80}}]}}")
}

#[test]
fn g118_services_and_methods() {
    for (one, matches) in [
        ("method: {service: a.B, method: C}", [true, false, false]),
        ("method: {service: a.B}", [true, true, false]),
        ("method: {method: C}", [true, false, true]),
        ("method: {}", [true; 3]),
        ("", [true; 3]),
        (
            "method: {type: RegularExpression, service: 'a[.].', method: '[CD]'}",
            [true, true, false],
        ),
        (
            "method: {type: RegularExpression, method: 'C'}",
            [true, false, true],
        ),
    ] {
        let resolved = with_rules(&rule(one, "web")).resolve();
        let found =
            ["/a.B/C", "/a.B/D", "/x.Y/C"].map(|path| find(&resolved, &get("h", path)).is_some());
        assert_eq!(found, matches, "{one}");
    }
    let resolved = with_rules("{backendRefs: [{name: web, port: 80}]}").resolve();
    assert_eq!(answer(&resolved, &get("h", "/a/b")), "web");
    let resolved = with_rules(&rule("method: {service: a.B, method: C}", "web")).resolve();
    assert!(find(&resolved, &get("h", "/a.b/C")).is_none());
}

#[test]
fn g120_the_better_match_wins() {
    let request = Request {
        headers: &[("a", "x"), ("b", "x")],
        ..get("h", "/aa.B/Method")
    };
    let headers = "headers: [{name: a, value: x}, {name: b, value: x}]";
    for (better, worse) in [
        (
            "method: {service: aa.B}".to_owned(),
            format!("method: {{method: Method}}, {headers}"),
        ),
        (
            "method: {service: aa.B, method: Method}".into(),
            format!("method: {{service: aa.B}}, {headers}"),
        ),
        (
            format!("method: {{service: aa.B}}, {headers}"),
            "method: {service: aa.B}, headers: [{name: a, value: x}]".into(),
        ),
        ("method: {service: aa.B}".into(), String::new()),
    ] {
        for rules in [
            [rule(&better, "web"), rule(&worse, "api")],
            [rule(&worse, "api"), rule(&better, "web")],
        ] {
            let resolved = with_rules(&rules.join(", ")).resolve();
            assert_eq!(
                answer(&resolved, &request),
                "web",
                "{better} before {worse}"
            );
        }
    }
}

#[test]
fn g121_backends_speak_http2() {
    let resolved = with_rules(&rule("", "web")).resolve();
    let route = find(&resolved, &get("h", "/a/b")).unwrap();
    let key = route.targets[0].target.upstream().unwrap();
    assert_eq!(key.policy.protocol, UpstreamProtocol::Grpc);
    // Calls may be silent.
    let day = std::time::Duration::from_secs(24 * 3600);
    let timeouts = route.policy.timeouts;
    assert!(timeouts.read > day && timeouts.send > day);
}

#[test]
fn g93_g121_calls_are_not_sent_plain_to_backends_with_tls() {
    for (app_protocol, is_served) in [
        ("kubernetes.io/h2c", true),
        ("grpc", true),
        ("https", false),
        ("kubernetes.io/wss", false),
        ("kubernetes.io/ws", false),
    ] {
        let mut cluster = with_rules(&rule("", "app"));
        cluster.add_service("app", Some(app_protocol));
        let resolved = cluster.resolve();
        let expected = if is_served { "app" } else { "500" };
        assert_eq!(
            answer(&resolved, &get("h", "/a/b")),
            expected,
            "{app_protocol}"
        );
        let conditions = &route(&resolved, RouteKind::Grpc, "r").parents[0].1;
        let refs = condition(conditions, "ResolvedRefs");
        assert_eq!(
            refs == "False/UnsupportedProtocol",
            !is_served,
            "{app_protocol}"
        );
    }
}

#[test]
fn g119_bad_backends_are_reported() {
    let resolved = with_rules(&rule("", "no")).resolve();
    assert_eq!(answer(&resolved, &get("h", "/a/b")), "500");
    let conditions = &route(&resolved, RouteKind::Grpc, "r").parents[0].1;
    assert_eq!(
        condition(conditions, "ResolvedRefs"),
        "False/BackendNotFound"
    );
}
