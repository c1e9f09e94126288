use headgate_model::gateway::{RouteKind, intersect};

use crate::build::{Cluster, attached, cluster, condition, http, name, route};

/// Gateway `web` in `default` with listeners of several kinds.
const GATEWAY: &str = "
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: a, port: 80, protocol: HTTP, hostname: a.example}
  - {name: wide, port: 80, protocol: HTTP, hostname: '*.example', allowedRoutes: {namespaces: {from: All}}}
  - {name: b, port: 8080, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}
  - name: shop
    port: 8081
    protocol: HTTP
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: shop}}}}
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}
";

fn with_route(place: &str, parents: &str, hostnames: &str) -> Cluster {
    let (namespace, short) = place.split_once('/').unwrap();
    let mut cluster = cluster(GATEWAY);
    cluster.add(&format!(
        "
kind: HTTPRoute
metadata: {{name: {short}, namespace: {namespace}}}
spec:
  parentRefs: [{parents}]
  hostnames: [{hostnames}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
"
    ));
    cluster
}

/// The listeners that an HTTPRoute is attached to, and `Accepted` at each parent.
fn outcome(place: &str, parents: &str, hostnames: &str) -> (Vec<String>, Vec<String>) {
    let resolved = with_route(place, parents, hostnames).resolve();
    let listeners = ["a", "wide", "b", "shop", "tls"].into_iter();
    let at = listeners.filter(|one| attached(&resolved, "web", one) > 0);
    (
        at.map(Into::into).collect(),
        http(&resolved, place, "Accepted"),
    )
}

#[test]
fn g44_g45_g46_g47_g48_a_parent_means_listeners_by_name_and_port() {
    const YES: &str = "True/Accepted";
    for (place, parents, hostnames, listeners, accepted) in [
        ("default/r", "{name: web}", "", &["a", "wide", "b"][..], YES),
        ("default/r", "{name: web, sectionName: b}", "", &["b"], YES),
        (
            "default/r",
            "{name: web, port: 80}",
            "",
            &["a", "wide"],
            YES,
        ),
        (
            "default/r",
            "{name: web, port: 80, sectionName: a}",
            "",
            &["a"],
            YES,
        ),
        (
            "default/r",
            "{name: web, port: 81}",
            "",
            &[],
            "False/NoMatchingParent",
        ),
        (
            "default/r",
            "{name: web, sectionName: no}",
            "",
            &[],
            "False/NoMatchingParent",
        ),
        (
            "default/r",
            "{name: web, port: 8080, sectionName: a}",
            "",
            &[],
            "False/NoMatchingParent",
        ),
        (
            "default/r",
            "{name: web, sectionName: tls}",
            "",
            &[],
            "False/NotAllowedByListeners",
        ),
        (
            "default/r",
            "{name: web, sectionName: shop}",
            "",
            &[],
            "False/NotAllowedByListeners",
        ),
        (
            "default/r",
            "{name: web, sectionName: a}",
            "b.example",
            &[],
            "False/NoMatchingListenerHostname",
        ),
        (
            "default/r",
            "{name: web, port: 80}",
            "other",
            &[],
            "False/NoMatchingListenerHostname",
        ),
        ("default/r", "{name: web}", "other", &["b"], YES),
        (
            "default/r",
            "{name: web}",
            "x.y.example, a.example",
            &["a", "wide", "b"],
            YES,
        ),
        // Other namespaces need no grant, but leave of the listener.
        (
            "team/r",
            "{name: web, namespace: default}",
            "",
            &["wide", "shop"],
            YES,
        ),
        (
            "team/r",
            "{name: web, namespace: default, sectionName: a}",
            "",
            &[],
            "False/NotAllowedByListeners",
        ),
        (
            "other/r",
            "{name: web, namespace: default}",
            "",
            &["wide"],
            YES,
        ),
        (
            "other/r",
            "{name: web, namespace: default}",
            "a.other",
            &[],
            "False/NoMatchingListenerHostname",
        ),
    ] {
        let found = outcome(place, parents, hostnames);
        let listeners = listeners.iter().map(ToString::to_string).collect();
        let expected = (listeners, vec![accepted.to_owned()]);
        assert_eq!(found, expected, "{place} {parents} {hostnames}");
    }
}

#[test]
fn g49_a_selector_follows_labels_of_namespaces() {
    let mut cluster = with_route(
        "other/r",
        "{name: web, namespace: default, sectionName: shop}",
        "",
    );
    let accepted = |cluster: &Cluster| http(&cluster.resolve(), "other/r", "Accepted");
    assert_eq!(accepted(&cluster), ["False/NotAllowedByListeners"]);
    cluster.add("{kind: Namespace, metadata: {name: other, labels: {team: shop}}}");
    assert_eq!(accepted(&cluster), ["True/Accepted"]);
    cluster.add("{kind: Namespace, metadata: {name: other, labels: {team: core}}}");
    assert_eq!(accepted(&cluster), ["False/NotAllowedByListeners"]);
}

#[test]
fn g10_g11_g40_there_is_an_entry_for_each_parent_of_ours_and_no_other() {
    let mut cluster = with_route(
        "default/r",
        "{name: missing}, {name: foreign}, {name: web, sectionName: b}, {kind: Service, group: '', name: web}, \
         {name: web, sectionName: no}, {name: web, sectionName: b}",
        "",
    );
    cluster.add(
        "
kind: Gateway
metadata: {name: foreign}
spec: {gatewayClassName: other, listeners: [{name: a, port: 80, protocol: HTTP}]}
",
    );
    let resolved = cluster.resolve();
    let parents = &route(&resolved, RouteKind::Http, "r").parents;
    let named: Vec<(&str, Option<&str>)> = parents
        .iter()
        .map(|(parent, _)| (&*parent.name, parent.section()))
        .collect();
    assert_eq!(named, [("web", Some("b")), ("web", Some("no"))]);
    assert_eq!(
        http(&resolved, "r", "Accepted"),
        ["True/Accepted", "False/NoMatchingParent"]
    );
}

#[test]
fn g24_attached_routes_are_accepted_ones_each_once() {
    let mut cluster = with_route(
        "default/r",
        "{name: web, sectionName: b}, {name: web, port: 8080}",
        "",
    );
    cluster.add(
        "
kind: HTTPRoute
metadata: {name: odd}
spec:
  parentRefs: [{name: web, sectionName: b}]
  rules: [{filters: [{type: Odd}]}]
",
    );
    let resolved = cluster.resolve();
    assert_eq!(attached(&resolved, "web", "b"), 1);
    assert_eq!(
        http(&resolved, "odd", "Accepted"),
        ["False/UnsupportedValue"]
    );
}

#[test]
fn g39_g41_g43_sets_have_listeners_of_their_own() {
    let mut cluster = cluster(&GATEWAY.replace(
        "  listeners:",
        "  allowedListeners: {namespaces: {from: All}}\n  listeners:",
    ));
    cluster.add(
        "
kind: ListenerSet
metadata: {name: set, namespace: team}
spec:
  parentRef: {name: web, namespace: default}
  listeners: [{name: own, port: 9000, protocol: HTTP}, {name: a, port: 9001, protocol: HTTP}]
",
    );
    let mut add = |place: &str, parent: &str| {
        let (namespace, short) = place.split_once('/').unwrap();
        cluster.add(&format!(
            "
kind: HTTPRoute
metadata: {{name: {short}, namespace: {namespace}}}
spec: {{parentRefs: [{parent}]}}
"
        ));
    };
    add("team/set", "{kind: ListenerSet, name: set}");
    add(
        "team/own",
        "{kind: ListenerSet, name: set, sectionName: own}",
    );
    add(
        "team/gateways",
        "{kind: ListenerSet, name: set, sectionName: b}",
    );
    add(
        "default/other",
        "{kind: ListenerSet, name: set, namespace: team}",
    );
    add("default/section", "{name: web, sectionName: own}");
    add("default/gateway", "{name: web}");
    let resolved = cluster.resolve();
    for (place, accepted) in [
        ("team/set", "True/Accepted"),
        ("team/own", "True/Accepted"),
        ("team/gateways", "False/NoMatchingParent"),
        ("default/other", "False/NotAllowedByListeners"),
        ("default/section", "False/NoMatchingParent"),
        ("default/gateway", "True/Accepted"),
    ] {
        assert_eq!(http(&resolved, place, "Accepted"), [accepted], "{place}");
    }
    // Served as ports of the Gateway; names may be those of its own listeners.
    let served = resolved.gateways.iter().flat_map(|(port, entry)| {
        let listeners = entry.listeners.iter();
        listeners.map(|one| (port.to_string(), one.name.clone(), one.hosts.len()))
    });
    let served: Vec<(String, String, usize)> = served.collect();
    for (port, label) in [(9000, "team/set/own"), (9001, "team/set/a")] {
        let expected = (format!("default/web:{port}"), label.to_owned(), 1);
        assert!(served.contains(&expected), "{served:?}");
    }
    let listeners = &resolved.listener_sets[&name("team/set")].listeners;
    let counts: Vec<usize> = listeners.iter().map(|one| one.attached_routes).collect();
    assert_eq!(counts, [2, 1]);
    assert_eq!(attached(&resolved, "web", "a"), 1);
}

#[test]
fn g50_intersections_of_host_names() {
    for (one, other, both) in [
        ("a.b", "a.b", Some("a.b")),
        ("a.b", "b.b", None),
        ("*.b", "a.b", Some("a.b")),
        ("*.b", "x.a.b", Some("x.a.b")),
        ("*.b", "b", None),
        ("*.b", "ab", None),
        ("*.a.b", "*.b", Some("*.a.b")),
        ("*.a.b", "*.a.b", Some("*.a.b")),
        ("*.a.b", "*.xa.b", None),
        ("*.a.b", "a.b", None),
        ("", "a.b", Some("a.b")),
        ("", "*.b", Some("*.b")),
        ("", "", Some("")),
    ] {
        assert_eq!(intersect(one, other), both, "{one} {other}");
        assert_eq!(intersect(other, one), both, "{other} {one}");
    }
}

#[test]
fn g51_g53_hosts_are_the_common_names() {
    let hosts = |parents: &str, hostnames: &str| -> Vec<String> {
        let resolved = with_route("default/r", parents, hostnames).resolve();
        let listeners = resolved.gateways.values().flat_map(|port| &port.listeners);
        listeners
            .flat_map(|one| one.hosts.keys().cloned())
            .collect()
    };
    let wide = "{name: web, sectionName: wide}";
    assert_eq!(
        hosts(wide, "X.example, y.other, '*.z.example'"),
        ["*.z.example", "x.example"]
    );
    assert_eq!(hosts(wide, ""), ["*.example"]);
    assert_eq!(hosts("{name: web, sectionName: b}", ""), [""]);
    assert_eq!(
        hosts("{name: web, sectionName: b}", "'*.x', y"),
        ["*.x", "y"]
    );
}

#[test]
fn g52_http_and_grpc_routes_never_share_a_host_name() {
    let both = |http_age: i64, http_host: &str, grpc_host: &str| {
        let mut cluster = cluster(GATEWAY);
        for (kind, age, host) in [
            ("HTTPRoute", http_age, http_host),
            ("GRPCRoute", 5, grpc_host),
        ] {
            cluster.add(&format!(
                "
kind: {kind}
metadata: {{name: r, creationTimestamp: {age}}}
spec:
  parentRefs: [{{name: web, sectionName: wide}}]
  hostnames: [{host}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
"
            ));
        }
        let resolved = cluster.resolve();
        let accepted = |kind| condition(&route(&resolved, kind, "r").parents[0].1, "Accepted");
        (
            accepted(RouteKind::Http),
            accepted(RouteKind::Grpc),
            attached(&resolved, "web", "wide"),
        )
    };
    let (yes, no) = (
        "True/Accepted".to_owned(),
        "False/HostnameConflict".to_owned(),
    );
    assert_eq!(
        both(1, "x.example", "x.example"),
        (yes.clone(), no.clone(), 1)
    );
    assert_eq!(
        both(9, "x.example", "x.example"),
        (no.clone(), yes.clone(), 1)
    );
    assert_eq!(
        both(1, "'*.example'", "x.example"),
        (yes.clone(), no.clone(), 1)
    );
    assert_eq!(
        both(1, "x.example", "y.example"),
        (yes.clone(), yes.clone(), 2)
    );
    // Of one age and name: HTTPRoutes first.
    assert_eq!(both(5, "x.example", "x.example"), (yes, no, 1));
}

#[test]
fn g46_kinds_stay_at_listeners_of_their_protocol() {
    let mut cluster = cluster(GATEWAY);
    for (kind, section) in [
        ("TLSRoute", "a"),
        ("TCPRoute", "b"),
        ("UDPRoute", "tls"),
        ("GRPCRoute", "b"),
    ] {
        cluster.add(&format!(
            "
kind: {kind}
metadata: {{name: r}}
spec: {{parentRefs: [{{name: web, sectionName: {section}}}], rules: []}}
"
        ));
    }
    let resolved = cluster.resolve();
    for kind in [
        RouteKind::Tls,
        RouteKind::Tcp,
        RouteKind::Udp,
        RouteKind::Grpc,
    ] {
        let conditions = &route(&resolved, kind, "r").parents[0].1;
        assert_eq!(
            condition(conditions, "Accepted"),
            "False/NotAllowedByListeners",
            "{kind:?}"
        );
    }
}

#[test]
fn g26_gateways_with_the_same_ports_are_apart() {
    let gateway = |name: &str| {
        format!(
            "
---
kind: Gateway
metadata: {{name: {name}}}
spec: {{gatewayClassName: headgate, listeners: [{{name: a, port: 80, protocol: HTTP}}]}}
"
        )
    };
    let route = |name: &str, parents: &str| {
        format!(
            "
---
kind: HTTPRoute
metadata: {{name: {name}}}
spec: {{parentRefs: [{parents}], hostnames: [{name}.example]}}
"
        )
    };
    let text = gateway("one")
        + &gateway("two")
        + &route("one", "{name: one}")
        + &route("both", "{name: one}, {name: two}");
    let resolved = cluster(&text).resolve();
    let hosts: Vec<(&str, Vec<&str>)> = resolved
        .gateways
        .iter()
        .map(|(port, entry)| {
            let hosts = entry.listeners.iter().flat_map(|one| one.hosts.keys());
            (&*port.gateway.name, hosts.map(String::as_str).collect())
        })
        .collect();
    assert_eq!(
        hosts,
        [
            ("one", vec!["both.example", "one.example"]),
            ("two", vec!["both.example"])
        ]
    );
    let targets: Vec<u16> = resolved
        .gateways
        .values()
        .map(|one| one.target_port)
        .collect();
    assert_ne!(targets[0], targets[1]);
}
