//! What a resolver keeps from one time to the next, and what objects may cost.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use headgate_model::gateway::{Resolved, Resolver, RouteKind};

use crate::build::{attached, cluster, condition, http, name, route};

fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "
---
kind: Gateway
metadata: {{name: {name}}}
spec:
  gatewayClassName: headgate
  allowedListeners: {{namespaces: {{from: All}}}}
  listeners: [{listeners}]
"
    )
}

const HTTP: &str = "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}";

/// A route with a match for each regular expression.
fn matching(namespace: &str, short: &str, age: i64, patterns: &[String]) -> String {
    let rules = patterns.iter().map(|pattern| {
        format!(
            "{{matches: [{{path: {{type: RegularExpression, value: '{pattern}'}}}}], backendRefs: [{{name: web, port: 80}}]}}"
        )
    });
    let rules: Vec<String> = rules.collect();
    format!(
        "
---
kind: HTTPRoute
metadata: {{name: {short}, namespace: {namespace}, creationTimestamp: {age}}}
spec: {{parentRefs: [{{name: web, namespace: default}}], rules: [{}]}}
",
        rules.join(", ")
    )
}

fn accepted(resolved: &Resolved, short: &str) -> [String; 2] {
    let conditions = &route(resolved, RouteKind::Http, short).parents[0].1;
    ["Accepted", "PartiallyInvalid"].map(|type_| condition(conditions, type_))
}

const FINE: [&str; 2] = ["True/Accepted", ""];
const REFUSED: [&str; 2] = ["False/UnsupportedValue", ""];

#[test]
fn g70_regular_expressions_have_a_largest_size() {
    for (pattern, expected) in [
        ("/a/[a-z]{1,20}/.*".to_owned(), FINE),
        (r"/\w{4}".into(), FINE),
        (r"/\w{100}".into(), REFUSED),
        ("/((((a{1,99}){1,99}){1,99}){1,99}){1,99}".into(), REFUSED),
        (format!("/{}", "a".repeat(2000)), REFUSED),
        ("/a)|(b".into(), REFUSED),
    ] {
        let mut cluster = cluster(&gateway("web", HTTP));
        cluster.add(&matching("default", "r", 1, std::slice::from_ref(&pattern)));
        let resolved = cluster.resolve();
        assert_eq!(accepted(&resolved, "r"), expected, "{pattern}");
    }
}

#[test]
fn g70_a_namespace_has_a_share_of_regular_expressions() {
    let mut cluster = cluster(&gateway("web", HTTP));
    let heavy = |from: usize| -> Vec<String> {
        (from..from + 50)
            .map(|one| format!(r"/{one}\w{{4}}"))
            .collect()
    };
    cluster.add(&matching("default", "first", 1, &heavy(0)));
    cluster.add(&matching("default", "same", 2, &heavy(0)));
    cluster.add(&matching("default", "later", 3, &heavy(100)));
    cluster.add(&matching("team", "other", 4, &heavy(200)));
    let mut resolver = Resolver::default();
    for _ in 0..2 {
        let resolved = cluster.resolve_again(&mut resolver);
        let first = accepted(&resolved, "first");
        assert_eq!(first[0], "True/Accepted");
        assert_eq!(accepted(&resolved, "same"), first, "each counts once");
        assert_eq!(accepted(&resolved, "later"), REFUSED);
        assert_eq!(accepted(&resolved, "team/other")[0], "True/Accepted");
    }
    // An older route goes: its share is free.
    for gone in ["first", "same"] {
        cluster.objects.http_routes.remove(&name(gone));
    }
    let resolved = cluster.resolve_again(&mut resolver);
    assert_eq!(accepted(&resolved, "later")[0], "True/Accepted");
}

#[test]
fn g11_routes_of_other_controllers_are_not_read() {
    let mut cluster = cluster(&gateway("web", HTTP));
    let heavy: Vec<String> = (0..200).map(|one| format!(r"/{one}\w{{4}}")).collect();
    let text = matching("default", "other", 1, &heavy).replace("name: web,", "name: theirs,");
    cluster.add(&text);
    cluster.add(&matching("default", "ours", 2, &["/a.*".into()]));
    let resolved = cluster.resolve();
    assert!(
        route(&resolved, RouteKind::Http, "other")
            .parents
            .is_empty()
    );
    assert_eq!(accepted(&resolved, "ours"), FINE);
}

#[test]
fn g22_certificates_are_checked_once() {
    static CHECKS: AtomicUsize = AtomicUsize::new(0);
    let tls = "protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}";
    let mut cluster = cluster(&gateway(
        "web",
        &format!("{{name: a, port: 443, {tls}}}, {{name: b, port: 8443, {tls}}}"),
    ));
    cluster.options.check_certificate = |_| {
        CHECKS.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let mut resolver = Resolver::default();
    for (chain, expected) in [("chain", 1), ("chain", 1), ("other", 2), ("other", 2)] {
        let secret = cluster.secrets.get_mut(&name("tls")).unwrap();
        secret.data.insert("tls.crt".into(), chain.into());
        cluster.resolve_again(&mut resolver);
        assert_eq!(CHECKS.load(Ordering::SeqCst), expected, "{chain}");
    }
}

#[test]
fn g25_ports_that_are_exhausted_are_unavailable() {
    let mut cluster = cluster(&gateway("old", HTTP));
    cluster.add(&gateway("web", HTTP));
    let taken = cluster.resolve();
    let ports: Vec<u16> = taken
        .gateways
        .values()
        .map(|port| port.target_port)
        .collect();
    cluster.options.reserved_ports = [ports[0]].into();
    let moved = cluster.resolve();
    assert!(
        moved
            .gateways
            .values()
            .all(|port| port.target_port != ports[0])
    );
    // One is left: the first by name has it.
    cluster.options.reserved_ports = (1..=u16::MAX).filter(|port| *port != 20_000).collect();
    let resolved = cluster.resolve();
    let left: Vec<String> = resolved
        .gateways
        .iter()
        .map(|(port, one)| format!("{port} {}", one.target_port))
        .collect();
    assert_eq!(left, ["default/old:80 20000"]);
    let state = |gateway: &str, type_: &str| crate::build::listener(&resolved, gateway, "a", type_);
    assert_eq!(state("old", "Accepted"), "True/Accepted");
    assert_eq!(state("web", "Accepted"), "False/PortUnavailable");
    assert!(state("web", "Programmed").starts_with("False"));
    let verdict = &resolved.verdicts[&name("web")].conditions;
    assert_eq!(condition(verdict, "Accepted"), "False/ListenersNotValid");
}

#[test]
fn g30_g64_the_host_of_a_listener_that_is_not_served_stays_closed() {
    let served = |listeners: &str, sets: &str| {
        let mut cluster = cluster(&gateway("web", listeners));
        cluster.add(sets);
        let resolved = cluster.resolve();
        let ports = resolved.gateways.into_iter();
        let all = ports.flat_map(|(port, listeners)| {
            let listeners = listeners.listeners.into_iter();
            listeners.map(move |one| format!("{} {}", port.port, one.hostname))
        });
        all.collect::<Vec<String>>()
    };
    let tls = "tls: {certificateRefs: [{name: tls}]}";
    let wide = format!("{{name: w, port: 443, protocol: HTTPS, hostname: '*.b', {tls}}}");
    let narrow =
        |name: &str, more: &str| format!("{{name: {name}, port: 443, hostname: a.b, {more}}}");
    for (others, expected) in [
        (
            narrow("n", "protocol: HTTPS, tls: {certificateRefs: [{name: no}]}"),
            &["443 *.b", "443 a.b"][..],
        ),
        (
            narrow("n", "protocol: TLS, tls: {mode: Odd}"),
            &["443 *.b", "443 a.b"],
        ),
        (
            format!(
                "{}, {}",
                narrow("n", &format!("protocol: HTTPS, {tls}")),
                narrow("m", &format!("protocol: HTTPS, {tls}"))
            ),
            &["443 *.b", "443 a.b"],
        ),
        (narrow("n", "protocol: Odd"), &["443 *.b"]),
    ] {
        let mut found = served(&format!("{wide}, {others}"), "");
        found.sort();
        assert_eq!(found, expected, "{others}");
    }
    // What loses against another object takes nothing from it.
    let set = format!(
        "
kind: ListenerSet
metadata: {{name: s}}
spec: {{parentRef: {{name: web}}, listeners: [{}]}}
",
        narrow("n", "protocol: HTTP")
    );
    assert_eq!(served(&wide, &set), ["443 *.b"]);
}

#[test]
fn g39_g44_many_sets_and_routes_cost_no_more_than_their_number() {
    const COUNT: usize = 300;
    let mut cluster = cluster(&gateway("web", HTTP));
    for number in 0..COUNT {
        cluster.add(&format!(
            "
kind: ListenerSet
metadata: {{name: s{number}}}
spec: {{parentRef: {{name: web}}, listeners: [{{name: a, port: 80, protocol: HTTP, hostname: h{number}.example}}]}}
---
kind: GRPCRoute
metadata: {{name: g{number}}}
spec: {{parentRefs: [{{kind: ListenerSet, name: s{number}}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}
"
        ));
    }
    let resolved = cluster.resolve();
    assert_eq!(attached(&resolved, "web", "a"), 0);
    let one = &resolved.listener_sets[&name("s7")];
    assert_eq!(one.listeners[0].attached_routes, 1);
}

#[test]
fn listeners_that_a_change_does_not_concern_stay_the_same() {
    let mut cluster = cluster(&gateway("web", HTTP));
    cluster.add(&gateway("other", HTTP));
    cluster.add(&matching("default", "r", 1, &["/a".into()]));
    let mut resolver = Resolver::default();
    let before = cluster.resolve_again(&mut resolver);
    let same = |one: &Resolved, other: &Resolved| {
        let both = one.gateways.values().zip(other.gateways.values());
        both.map(|(one, other)| Arc::ptr_eq(&one.listeners[0], &other.listeners[0]))
            .collect::<Vec<bool>>()
    };
    let again = cluster.resolve_again(&mut resolver);
    assert_eq!(same(&before, &again), [true, true]);
    cluster.add(&matching("default", "r", 1, &["/b".into()]));
    let changed = cluster.resolve_again(&mut resolver);
    assert_eq!(same(&again, &changed), [true, false]);
    assert_eq!(changed, cluster.resolve());
    assert_eq!(http(&changed, "r", "Accepted"), ["True/Accepted"]);
}
