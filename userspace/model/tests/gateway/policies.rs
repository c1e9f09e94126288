//! RoutePolicies: which settings the routes of Gateways have.

use std::sync::Arc;

use headgate_model::edge::{Auth, HeaderEdit, Policy, Route, Target};
use proptest::prelude::*;

use crate::build::{Cluster, cluster, condition, name};

const SITE: &str = "
kind: Gateway
metadata: {name: main}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: alt, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}
---
kind: HTTPRoute
metadata: {name: web, namespace: team}
spec:
  hostnames: [web.example.com]
  parentRefs: [{name: main, namespace: default}]
  rules:
  - name: first
    matches: [{path: {type: PathPrefix, value: /first}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /rest}}]
    backendRefs: [{name: api, port: 80}]
---
kind: GRPCRoute
metadata: {name: rpc, namespace: team}
spec:
  hostnames: [rpc.example.com]
  parentRefs: [{name: main, namespace: default}]
  rules: [{backendRefs: [{name: old, port: 80}]}]
---
kind: Secret
metadata: {name: users, namespace: team}
data: {auth: 'anna:$2y$05$hash'}
---
kind: Secret
metadata: {name: users}
data: {auth: 'berta:$2y$05$hash'}
";

/// A policy in a namespace: targets and settings as they are written.
fn policy(name: &str, created: u32, targets: &str, settings: &str) -> String {
    let (namespace, short) = name.split_once('/').unwrap();
    format!(
        "
---
kind: RoutePolicy
metadata: {{name: {short}, namespace: {namespace}, creationTimestamp: {created}}}
spec:
  targetRefs: [{targets}]
  {settings}
"
    )
}

fn target(kind: &str, name: &str, section: &str) -> String {
    let section = match section {
        "" => String::new(),
        section => format!(", sectionName: {section}"),
    };
    format!("{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}{section}}}")
}

fn gateway(section: &str) -> String {
    target("Gateway", "main", section)
}

fn route(section: &str) -> String {
    target("HTTPRoute", "web", section)
}

fn site(policies: &[String]) -> Cluster {
    cluster(&format!("{SITE}{}", policies.concat()))
}

/// The routes of a port of the Gateway.
fn routes(cluster: &Cluster, port: u16) -> Vec<Arc<Route>> {
    let resolved = cluster.resolve();
    let mut ports = resolved.gateways.into_iter();
    let (_, port) = ports.find(|(key, _)| key.port == port).unwrap();
    let hosts = port
        .listeners
        .iter()
        .flat_map(|listener| listener.hosts.values());
    hosts.flat_map(|host| host.routes.clone()).collect()
}

fn served(cluster: &Cluster, port: u16, path: &str) -> Arc<Route> {
    let mut routes = routes(cluster, port).into_iter();
    let is_meant = |route: &Arc<Route>| route.origin.name.name == "web" && route.path.matches(path);
    routes.find(is_meant).unwrap()
}

fn policy_of(cluster: &Cluster, port: u16, path: &str) -> Arc<Policy> {
    served(cluster, port, path).policy.clone()
}

fn rate(cluster: &Cluster, port: u16, path: &str) -> Option<u32> {
    let policy = policy_of(cluster, port, path);
    policy.limits.rates.first().map(|rate| rate.requests)
}

fn per_second(number: u32) -> String {
    format!("limits: {{requestsPerSecond: {number}}}")
}

/// The condition `Accepted` of a policy at each ancestor.
fn accepted(cluster: &Cluster, policy: &str) -> Vec<String> {
    let resolved = cluster.resolve();
    let ancestors = &resolved.route_policies[&name(policy)].ancestors;
    let texts = ancestors.iter();
    texts
        .map(|(parent, conditions)| format!("{parent} {}", condition(conditions, "Accepted")))
        .collect()
}

#[test]
fn l184_of_each_setting_the_most_specific_policy_counts() {
    let all = [
        policy("default/wide", 1, &gateway(""), &per_second(1)),
        policy("default/alt", 2, &gateway("alt"), &per_second(2)),
        policy("team/route", 3, &route(""), &per_second(3)),
        policy("team/rule", 4, &route("first"), &per_second(4)),
    ];
    let cases = [
        (1, "/first", [1, 1]),
        (2, "/first", [1, 2]),
        (3, "/first", [3, 3]),
        (3, "/rest", [3, 3]),
        (4, "/first", [4, 4]),
        (4, "/rest", [3, 3]),
    ];
    for (count, path, expected) in cases {
        let cluster = site(&all[..count]);
        let rates = [80, 8080].map(|port| rate(&cluster, port, path).unwrap());
        assert_eq!(rates, expected, "{path} with {count} policies");
    }
    let cluster = site(&all);
    // GRPCRoutes have policies of the Gateway as well.
    let rpc = routes(&cluster, 8080);
    let rpc = rpc.iter().find(|route| route.origin.name.name == "rpc");
    assert_eq!(rpc.unwrap().policy.limits.rates[0].requests, 2);
    for policy in ["default/wide", "default/alt", "team/route", "team/rule"] {
        assert_eq!(
            accepted(&cluster, policy),
            ["Gateway default/main True/Accepted"]
        );
    }
    assert_eq!(
        policy_of(&cluster, 80, "/first").parts,
        ["RoutePolicy team/rule: limits"]
    );
    // Settings that only others have stay.
    let mut with_size = all.to_vec();
    with_size.push(policy("default/size", 5, &gateway(""), "maxBodySize: 8m"));
    let cluster = site(&with_size);
    let policy = policy_of(&cluster, 80, "/first");
    assert_eq!(policy.limits.body_bytes, Some(8 << 20));
    assert_eq!(policy.limits.rates[0].requests, 4);
    assert_eq!(policy_of(&site(&all), 80, "/first").limits.body_bytes, None);
}

#[test]
fn l185_settings_have_the_meaning_of_annotations() {
    let settings = "sources: {allow: [10.0.0.0/8, 2001:db8::/32], deny: [10.1.0.0/16]}
  authentication:
    basic: {secret: users, realm: Staff}
    external: {url: 'http://login.team/check?p=$uri', responseHeaders: [X-User]}
  limits: {requestsPerSecond: 5, requestsPerMinute: 60, burstMultiplier: 2, connections: 7, exempt: [192.0.2.1]}
  maxBodySize: 4k
  affinity: {cookie: {name: pin, maxAgeSeconds: 60, sameSite: Lax, secure: true}}
  loadBalancing: {hashBy: $remote_addr}
  healthCheck: {path: /alive}
  timeouts: {connect: 3s}
  retry: {when: [error, http_502], tries: 2}
  hsts: max-age=60
  compress: true";
    let cluster = site(&[policy("team/all", 1, &route(""), settings)]);
    let found = served(&cluster, 80, "/first");
    let policy = &found.policy;
    assert_eq!(policy.closed, None);
    assert_eq!(policy.sources.allow.as_ref().unwrap().len(), 2);
    assert_eq!(policy.sources.deny.len(), 1);
    let [Auth::External(_), Auth::Basic(basic)] = &policy.auth[..] else {
        panic!("{:?}", policy.auth)
    };
    assert_eq!(basic.realm, "Staff");
    // Its own namespace's Secret.
    assert!(basic.users.contains_key("anna"));
    let bursts: Vec<u32> = policy.limits.rates.iter().map(|rate| rate.burst).collect();
    assert_eq!(bursts, [10, 120]);
    assert_eq!(policy.limits.concurrent, Some(7));
    assert_eq!(policy.limits.exempt.len(), 1);
    assert_eq!(policy.limits.body_bytes, Some(4096));
    assert_eq!(policy.timeouts.connect.as_secs(), 3);
    assert_eq!(policy.timeouts.read.as_secs(), 60);
    assert_eq!(
        (policy.retry.tries, &policy.retry.on_codes[..]),
        (2, &[502][..])
    );
    assert_eq!((&*policy.hsts, policy.compress), ("max-age=60", true));
    let Target::Upstream(key) = &found.targets[0].target else {
        panic!("{:?}", found.targets)
    };
    let sticky = key.policy.sticky.as_ref().unwrap();
    assert_eq!((&*sticky.name, &*sticky.path), ("pin", "/first"));
    assert!(key.policy.probe.is_some());
    // What the route itself asks for stays.
    assert_eq!(policy.request_headers, Vec::<HeaderEdit>::new());
}

#[test]
fn l186_a_policy_that_cannot_be_followed_closes_what_it_is_for() {
    let cases = [
        ("limits: {requestsPerSecnod: 5}", "unknown field"),
        (
            "limits: {requestsPerSecond: 0}",
            "spec.limits.requestsPerSecond: must not be 0",
        ),
        ("limits: {requestsPerSecond: many}", "invalid type"),
        ("limits: {}", "spec.limits: is empty"),
        ("guards: {}", "unknown field"),
        ("sources: {allow: []}", "spec.sources.allow: is empty"),
        ("sources: {allow: [10.0.0.0/99]}", "spec.sources.allow"),
        (
            "sources: {allow: ['10.0.0.0/8,::/0']}",
            "spec.sources.allow",
        ),
        ("sources: []", "invalid"),
        (
            "authentication: {basic: {secret: gone}}",
            "there is no Secret team/gone",
        ),
        (
            "authentication: {basic: {secret: default/users}}",
            "only Secrets of namespace team",
        ),
        ("authentication: {basic: {}}", "missing field `secret`"),
        ("authentication: {}", "is empty"),
        ("authentication: {caSecret: users}", "spec.authentication"),
        (
            "authentication: {basic: {secret: users}, hmac: {secret: users}}",
            "only one of",
        ),
        (
            "authentication: {jwt: {}}",
            "spec.authentication.jwt.server: is not set",
        ),
        (
            "authentication: {external: {url: 'http://127.0.0.1/'}}",
            "belongs to the node",
        ),
        (
            "authentication: {external: {url: 'http://$host/'}}",
            "$host cannot be before the path",
        ),
        ("maxBodySize: big", "spec.maxBodySize"),
        ("rewriteTarget: /$1", "spec.rewriteTarget: needs paths"),
    ];
    for (settings, reason) in cases {
        for (target, rest) in [(route(""), true), (route("first"), false)] {
            let cluster = site(&[
                policy("team/bad", 2, &target, settings),
                policy("default/good", 1, &gateway(""), &per_second(9)),
            ]);
            let closed = policy_of(&cluster, 80, "/first").closed.clone();
            let closed = closed.unwrap_or_default();
            let is_named = closed.starts_with("RoutePolicy team/bad: ");
            assert!(is_named && closed.contains(reason), "{settings}: {closed}");
            let is_closed = policy_of(&cluster, 80, "/rest").closed.is_some();
            assert_eq!(is_closed, rest, "{settings}");
            let is_late = settings.starts_with("rewriteTarget");
            if !is_late {
                assert_eq!(
                    accepted(&cluster, "team/bad"),
                    ["Gateway default/main False/Invalid"],
                    "{settings}"
                );
            }
        }
    }
    // One for the Gateway closes it, and a setting of a route does not open it.
    let unknown = policy("default/bad", 1, &gateway(""), "guards: 1");
    let cluster = site(&[unknown, policy("team/good", 2, &route(""), &per_second(1))]);
    assert!(
        routes(&cluster, 80)
            .iter()
            .all(|route| route.policy.closed.is_some())
    );
    // A setting that a more specific policy decides is not needed.
    let missing = "authentication: {basic: {secret: gone}}";
    let own = "authentication: {basic: {secret: users}}";
    let cluster = site(&[
        policy("default/wide", 1, &gateway(""), missing),
        policy("team/own", 2, &route(""), own),
    ]);
    assert_eq!(policy_of(&cluster, 80, "/rest").closed, None);
    assert_eq!(policy_of(&cluster, 80, "/rest").auth.len(), 1);
    // Without their list every route may have a guard.
    let mut cluster = site(&[]);
    cluster.objects.lacks_policies = true;
    assert!(
        routes(&cluster, 80)
            .iter()
            .all(|route| route.policy.closed.is_some())
    );
}

#[test]
fn l187_the_older_of_two_policies_decides_and_the_other_is_conflicted() {
    let size = "maxBodySize: 1k";
    let cluster = site(&[
        policy(
            "team/young",
            9,
            &route(""),
            &format!("{}\n  {size}", per_second(9)),
        ),
        policy("team/old", 1, &route(""), &per_second(1)),
    ]);
    assert_eq!(rate(&cluster, 80, "/first"), Some(1));
    // What only the younger one has is served: it may be a guard.
    assert_eq!(
        policy_of(&cluster, 80, "/first").limits.body_bytes,
        Some(1024)
    );
    assert_eq!(
        accepted(&cluster, "team/old"),
        ["Gateway default/main True/Accepted"]
    );
    assert_eq!(
        accepted(&cluster, "team/young"),
        ["Gateway default/main False/Conflicted"]
    );
    // Equal ages: by name.
    let cluster = site(&[
        policy("team/b", 1, &route(""), &per_second(2)),
        policy("team/a", 1, &route(""), &per_second(1)),
    ]);
    assert_eq!(rate(&cluster, 80, "/first"), Some(1));
    // Different targets do not conflict.
    let cluster = site(&[
        policy("team/whole", 1, &route(""), &per_second(1)),
        policy("team/part", 2, &route("first"), &per_second(2)),
    ]);
    assert_eq!(
        accepted(&cluster, "team/part"),
        ["Gateway default/main True/Accepted"]
    );
}

#[test]
fn l197_policies_for_listener_sets_hold_for_their_listeners() {
    let sets = "
---
kind: ListenerSet
metadata: {name: more, namespace: team}
spec:
  parentRef: {name: main, namespace: default}
  listeners:
  - {name: http, port: 8081, protocol: HTTP}
  - {name: other, port: 8082, protocol: HTTP}
  - {name: raw, port: 8083, protocol: TCP}
---
kind: ListenerSet
metadata: {name: lone, namespace: team}
spec: {parentRef: {name: theirs}, listeners: [{name: http, port: 80, protocol: HTTP}]}
";
    let site = SITE.replacen(
        "  listeners:\n",
        "  allowedListeners: {namespaces: {from: All}}\n  listeners:\n",
        1,
    );
    let parents = "parentRefs: [{name: main, namespace: default}]\n  rules:\n  - name: first";
    let more = parents.replace("}]", "}, {kind: ListenerSet, name: more}]");
    let site = site.replacen(parents, &more, 1);
    let set = |name: &str, section: &str| target("ListenerSet", name, section);
    let rates = |policies: &[String]| -> Vec<Option<u32>> {
        let cluster = cluster(&format!("{site}{sets}{}", policies.concat()));
        let rate = |(port, path)| rate(&cluster, port, path);
        [
            (80, "/first"),
            (8081, "/first"),
            (8081, "/rest"),
            (8082, "/first"),
        ]
        .map(rate)
        .into()
    };
    let mut policies = vec![policy("default/gateway", 5, &gateway(""), &per_second(1))];
    assert_eq!(rates(&policies), [Some(1); 4]);
    // The listener of the Gateway that has the same name is another one.
    policies.push(policy("default/own", 5, &gateway("http"), &per_second(2)));
    assert_eq!(rates(&policies), [Some(2), Some(1), Some(1), Some(1)]);
    policies.push(policy("team/set", 5, &set("more", ""), &per_second(3)));
    assert_eq!(rates(&policies), [Some(2), Some(3), Some(3), Some(3)]);
    policies.push(policy(
        "team/listener",
        5,
        &set("more", "http"),
        &per_second(4),
    ));
    assert_eq!(rates(&policies), [Some(2), Some(4), Some(4), Some(3)]);
    policies.push(policy("team/rule", 5, &route("first"), &per_second(5)));
    assert_eq!(rates(&policies), [Some(5), Some(5), Some(4), Some(5)]);
    // Statuses: at the Gateway of the set, or at what does not exist.
    policies.extend([
        policy("team/raw", 6, &set("more", "raw"), &per_second(1)),
        policy("team/none", 6, &set("more", "none"), &per_second(1)),
        policy("team/gone", 6, &set("gone", ""), &per_second(1)),
        policy("team/late", 6, &set("more", ""), &per_second(1)),
        policy("team/lone", 6, &set("lone", ""), &per_second(1)),
        policy(
            "team/closed",
            6,
            &set("more", "other"),
            "sources: {allow: [a]}",
        ),
    ]);
    let cluster = cluster(&format!("{site}{sets}{}", policies.concat()));
    for (name, expected) in [
        ("team/set", vec!["Gateway default/main True/Accepted"]),
        ("team/listener", vec!["Gateway default/main True/Accepted"]),
        ("team/raw", vec!["Gateway default/main False/Invalid"]),
        (
            "team/none",
            vec!["Gateway default/main False/TargetNotFound"],
        ),
        (
            "team/gone",
            vec!["ListenerSet team/gone False/TargetNotFound"],
        ),
        ("team/late", vec!["Gateway default/main False/Conflicted"]),
        ("team/lone", vec![]),
    ] {
        assert_eq!(accepted(&cluster, name), expected, "{name}");
    }
    assert!(policy_of(&cluster, 8082, "/first").closed.is_some());
    assert!(policy_of(&cluster, 8081, "/first").closed.is_none());
}

#[test]
fn l188_a_policy_reports_targets_that_are_missing() {
    let cases = [
        (
            target("HTTPRoute", "gone", ""),
            "HTTPRoute team/gone False/TargetNotFound",
        ),
        (
            target("Gateway", "main", ""),
            "Gateway team/main False/TargetNotFound",
        ),
        (route("second"), "Gateway default/main False/TargetNotFound"),
        // The number of a rule is not its name.
        (route("'1'"), "Gateway default/main False/TargetNotFound"),
        (
            target("GRPCRoute", "rpc", ""),
            "Gateway default/main True/Accepted",
        ),
    ];
    for (target, expected) in cases {
        let cluster = site(&[policy("team/one", 1, &target, &per_second(1))]);
        assert_eq!(accepted(&cluster, "team/one"), [expected], "{target}");
    }
    let cases = [
        (gateway("gone"), "Gateway default/main False/TargetNotFound"),
        // Its connections are not opened.
        (gateway("tls"), "Gateway default/main False/Invalid"),
    ];
    for (target, expected) in cases {
        let cluster = site(&[policy("default/one", 1, &target, &per_second(1))]);
        assert_eq!(accepted(&cluster, "default/one"), [expected], "{target}");
    }
    // A route of another controller is not ours to judge.
    let cluster = site(&[
        "
---
kind: HTTPRoute
metadata: {name: other, namespace: team}
spec:
  parentRefs: [{name: theirs}]
"
        .into(),
        policy(
            "team/one",
            1,
            &target("HTTPRoute", "other", ""),
            &per_second(1),
        ),
    ]);
    assert!(accepted(&cluster, "team/one").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Input order does not matter, and what a policy of a route decides is not changed by one of the Gateway.
    #[test]
    fn l184_policies_decide_alike_in_any_order(
        chosen in prop::collection::vec((0..4_usize, 1..5_u32, 1..4_u32), 1..6).prop_shuffle()
    ) {
        let targets = [gateway(""), gateway("alt"), route(""), route("first")];
        let made = |list: &[(usize, u32, u32)]| {
            let policies = list.iter().map(|(target, number, age)| {
                let namespace = if *target < 2 { "default" } else { "team" };
                let name = format!("{namespace}/p-{target}-{number}-{age}");
                policy(&name, *age, &targets[*target], &per_second(*number))
            });
            site(&policies.collect::<Vec<_>>())
        };
        let one = made(&chosen);
        let reversed: Vec<_> = chosen.iter().rev().copied().collect();
        prop_assert_eq!(one.resolve(), made(&reversed).resolve());
        let of_routes: Vec<_> = chosen.iter().copied().filter(|(target, ..)| *target >= 2).collect();
        if of_routes.iter().any(|(target, ..)| *target == 2) {
            let without = made(&of_routes);
            for path in ["/first", "/rest"] {
                prop_assert_eq!(rate(&one, 8080, path), rate(&without, 8080, path));
            }
        }
        // Removing a loser changes no winner.
        for index in 0..chosen.len() {
            let (target, number, age) = chosen[index];
            let namespace = if target < 2 { "default" } else { "team" };
            let name = format!("{namespace}/p-{target}-{number}-{age}");
            if accepted(&one, &name) == ["Gateway default/main False/Conflicted"] {
                let mut rest = chosen.clone();
                rest.retain(|known| *known != (target, number, age));
                let rest = made(&rest);
                for (port, path) in [(80, "/first"), (80, "/rest"), (8080, "/first")] {
                    prop_assert_eq!(rate(&one, port, path), rate(&rest, port, path));
                }
            }
        }
    }
}
