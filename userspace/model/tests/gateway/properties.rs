//! Properties of all verdicts, for random objects.

use std::collections::BTreeMap;

use headgate_model::{
    edge::Target,
    gateway::{
        Conflict, Holder, Merge, Referent, Referrer, Resolved, Resolver, RouteKind,
        object::{GatewayStatus, ListenerSetStatus, RouteStatus},
        permits,
    },
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::build::{cluster, condition, name};

const NAMESPACES: [&str; 2] = ["default", "team"];
const HOSTS: [&str; 4] = ["", "a.example", "*.example", "*.a.example"];
const PROTOCOLS: [&str; 6] = [
    "HTTP",
    "HTTPS, tls: {certificateRefs: [{name: tls, namespace: default}]}",
    "TLS, tls: {mode: Passthrough}",
    "TCP",
    "UDP",
    "odd",
];
const FROM: [&str; 3] = [
    "Same",
    "All",
    "Selector, selector: {matchLabels: {team: shop}}",
];

fn any_listener() -> impl Strategy<Value = String> {
    let names = select(&["a", "b", "c"][..]);
    let ports = select(&[80, 81][..]);
    (
        names,
        ports,
        select(&PROTOCOLS[..]),
        select(&HOSTS[..]),
        select(&FROM[..]),
    )
        .prop_map(|(name, port, protocol, host, from)| {
            format!(
                "{{name: {name}, port: {port}, protocol: {protocol}, hostname: '{host}', \
                 allowedRoutes: {{namespaces: {{from: {from}}}}}}}"
            )
        })
}

fn any_object() -> impl Strategy<Value = String> {
    let meta = (select(&NAMESPACES[..]), 0..3u8, 0..3u8);
    let gateways = (select(&NAMESPACES[..1]), 0..2u8, 0..3u8);
    let gateway = (gateways, vec(any_listener(), 1..4), any::<bool>()).prop_map(
        |((namespace, number, age), listeners, is_ours)| {
            let class = if is_ours { "headgate" } else { "other" };
            let listeners = listeners.join(", ");
            format!(
                "
kind: Gateway
metadata: {{name: g{number}, namespace: {namespace}, creationTimestamp: {age}}}
spec:
  gatewayClassName: {class}
  allowedListeners: {{namespaces: {{from: All}}}}
  listeners: [{listeners}]
"
            )
        },
    );
    let set = (
        meta.clone(),
        vec(any_listener(), 1..3),
        select(&NAMESPACES[..1]),
        0..2u8,
    )
        .prop_map(|((namespace, number, age), listeners, parent, gateway)| {
            let listeners = listeners.join(", ");
            format!(
                "
kind: ListenerSet
metadata: {{name: s{number}, namespace: {namespace}, creationTimestamp: {age}}}
spec: {{parentRef: {{name: g{gateway}, namespace: {parent}}}, listeners: [{listeners}]}}
"
            )
        });
    let kinds = select(&["HTTPRoute", "GRPCRoute"][..]);
    let parent = (
        select(&NAMESPACES[..1]),
        0..2u8,
        select(&["", ", sectionName: a", ", port: 80"][..]),
    );
    let backend = (
        select(&["web", "no"][..]),
        select(&NAMESPACES[..]),
        select(&["", ", kind: Odd"][..]),
    );
    let filter = select(
        &[
            "",
            "{type: Odd}",
            "{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}",
        ][..],
    );
    let route = (meta.clone(), kinds, vec(parent, 1..3), select(&HOSTS[..]), vec((backend, filter), 1..3)).prop_map(
        |((namespace, number, age), kind, parents, host, rules)| {
            let parents = parents.iter().map(|(namespace, number, more)| {
                format!("{{name: g{number}, namespace: {namespace}{more}}}")
            });
            let parents: Vec<String> = parents.collect();
            let rules = rules.iter().map(|((service, namespace, kind), filter)| {
                format!(
                    "{{filters: [{filter}], backendRefs: [{{name: {service}, namespace: {namespace}, port: 80{kind}}}]}}"
                )
            });
            let rules: Vec<String> = rules.collect();
            let hosts = if host.is_empty() { String::new() } else { format!("'{host}'") };
            format!(
                "
kind: {kind}
metadata: {{name: r{number}, namespace: {namespace}, creationTimestamp: {age}}}
spec: {{parentRefs: [{}], hostnames: [{hosts}], rules: [{}]}}
",
                parents.join(", "),
                rules.join(", ")
            )
        },
    );
    let grant = (
        meta,
        select(&NAMESPACES[..]),
        select(&["HTTPRoute", "Gateway"][..]),
        select(&["Service", "Secret"][..]),
    )
        .prop_map(|((namespace, number, _), from, kind, to)| {
            format!(
                "
kind: ReferenceGrant
metadata: {{name: p{number}, namespace: {namespace}}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}]
  to: [{{group: '', kind: {to}}}]
"
            )
        });
    prop_oneof![3 => gateway, 2 => set, 4 => route, 1 => grant]
}

/// Manifests; of several of one name the last counts.
fn any_objects() -> impl Strategy<Value = String> {
    vec(any_object(), 0..12).prop_map(|texts| texts.join("\n---\n"))
}

/// A Gateway and sets that want the same port.
fn contested() -> impl Strategy<Value = String> {
    let any = || {
        let hosts = select(&["a.example", "b.example"][..]);
        (select(&["HTTP", "TCP"][..]), hosts).prop_map(|(protocol, host)| {
            format!("{{name: a, port: 80, protocol: {protocol}, hostname: {host}}}")
        })
    };
    (any(), vec((any(), 0..3u8), 1..5)).prop_map(|(listener, sets)| {
        let gateway = format!(
            "
kind: Gateway
metadata: {{name: g}}
spec:
  gatewayClassName: headgate
  allowedListeners: {{namespaces: {{from: All}}}}
  listeners: [{listener}]
"
        );
        let sets = sets.iter().enumerate().map(|(number, (listener, age))| {
            format!(
                "---
kind: ListenerSet
metadata: {{name: s{number}, creationTimestamp: {age}}}
spec: {{parentRef: {{name: g}}, listeners: [{listener}]}}
"
            )
        });
        gateway + &sets.collect::<String>()
    })
}

/// Listeners that are accepted, by Gateway.
fn winners(resolved: &Resolved) -> Vec<(String, String)> {
    let gateways = resolved
        .verdicts
        .iter()
        .map(|(name, one)| (name, &one.listeners));
    let sets = resolved
        .listener_sets
        .iter()
        .map(|(name, one)| (name, &one.listeners));
    gateways
        .chain(sets)
        .flat_map(|(name, listeners)| listeners.iter().map(move |one| (name, one)))
        .filter(|(_, one)| condition(&one.conditions, "Accepted").starts_with("True"))
        .map(|(name, one)| (name.to_string(), one.name.clone()))
        .collect()
}

/// Routes with a parent that accepts them.
fn accepted(resolved: &Resolved) -> Vec<(RouteKind, String)> {
    let is_accepted = |conditions: &[_]| condition(conditions, "Accepted").starts_with("True");
    let routes = resolved.routes.iter();
    let routes = routes.filter(|(_, one)| one.parents.iter().any(|(_, one)| is_accepted(one)));
    routes
        .map(|((kind, name), _)| (*kind, name.to_string()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Objects are kept in maps, so their order is that of names. Names matter only between objects of one
    /// age: with the names reversed and different ages all verdicts are the same.
    #[test]
    fn g32_g69_the_order_of_objects_does_not_matter(texts in vec(any_object(), 0..12)) {
        let mut reversed = texts.clone();
        reversed.reverse();
        // Later objects of one name replace earlier ones: only names that are there once count.
        let key = |text: &String| text.lines().take(3).map(|line| line.split(", creation").next().unwrap_or_default().to_owned()).collect::<Vec<_>>();
        let mut seen: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        for text in &texts {
            *seen.entry(key(text)).or_default() += 1;
        }
        let once = |texts: Vec<String>| {
            let texts: Vec<String> = texts.into_iter().filter(|text| seen[&key(text)] == 1).collect();
            cluster(&texts.join("\n---\n")).resolve()
        };
        prop_assert_eq!(once(texts), once(reversed));
    }

    /// Whatever was there before.
    #[test]
    fn a_resolver_that_is_used_again_gives_the_same_answer(texts in vec(any_objects(), 1..4)) {
        let mut resolver = Resolver::default();
        for text in texts.iter().chain(&texts) {
            let cluster = cluster(text);
            let again = cluster.resolve_again(&mut resolver);
            prop_assert_eq!(again, cluster.resolve());
        }
    }

    #[test]
    fn g33_removing_a_listener_set_that_loses_changes_no_winner(objects in prop_oneof![contested(), any_objects()]) {
        let cluster = cluster(&objects);
        let before = cluster.resolve();
        for (name, verdict) in &before.listener_sets {
            let loses = |one: &headgate_model::gateway::ListenerVerdict| {
                let reason = condition(&one.conditions, "Accepted");
                [Conflict::Protocol, Conflict::Hostname].iter().any(|conflict| reason.ends_with(conflict.reason()))
            };
            // Losers of other sets may have lost against one of the same set that is accepted.
            if !verdict.listeners.iter().all(loses) {
                continue;
            }
            let mut rest = cluster.clone();
            rest.objects.listener_sets.remove(name);
            let (mut was, now) = (winners(&before), winners(&rest.resolve()));
            was.retain(|winner| winner.0 != name.to_string());
            match verdict.listeners.len() {
                1 => prop_assert_eq!(was, now, "without {}", name),
                // Listeners may conflict with each other only, and keep others from their port.
                _ => prop_assert!(was.iter().all(|one| now.contains(one)), "without {}", name),
            }
        }
    }

    #[test]
    fn g52_removing_a_route_that_is_refused_changes_no_other(objects in any_objects()) {
        let cluster = cluster(&objects);
        let before = cluster.resolve();
        for (kind, name) in before.routes.keys() {
            let is_accepted = accepted(&before).contains(&(*kind, name.to_string()));
            if is_accepted {
                continue;
            }
            let mut rest = cluster.clone();
            match kind {
                RouteKind::Http => drop(rest.objects.http_routes.remove(name)),
                _ => drop(rest.objects.grpc_routes.remove(name)),
            }
            let mut now = rest.resolve();
            let verdict = before.routes[&(*kind, name.clone())].clone();
            // One that is not understood keeps its requests: they get an error.
            let mut conditions = verdict.parents.iter().map(|(_, one)| condition(one, "Accepted"));
            if conditions.any(|reason| reason.ends_with("UnsupportedValue")) {
                now.gateways.clone_from(&before.gateways);
            }
            now.routes.insert((*kind, name.clone()), verdict);
            prop_assert_eq!(&now, &before);
        }
    }

    #[test]
    fn g05_what_was_merged_is_not_written_again(objects in any_objects()) {
        let cluster = cluster(&objects);
        let resolved = cluster.resolve();
        let (first, again) = (Merge { generation: 1, now: "t1" }, Merge { generation: 1, now: "t2" });
        for verdict in resolved.verdicts.values() {
            let status = first.gateway(&GatewayStatus::default(), verdict).unwrap();
            prop_assert_eq!(again.gateway(&status, verdict), None);
        }
        for verdict in resolved.listener_sets.values() {
            let status = first.listener_set(&ListenerSetStatus::default(), verdict).unwrap();
            prop_assert_eq!(again.listener_set(&status, verdict), None);
        }
        for verdict in resolved.routes.values() {
            let status = first.route(&RouteStatus::default(), verdict, "c").unwrap_or_default();
            prop_assert_eq!(again.route(&status, verdict, "c"), None);
        }
    }

    #[test]
    fn g56_no_backend_is_reached_without_a_grant(objects in any_objects()) {
        let cluster = cluster(&objects);
        let resolved = cluster.resolve();
        for port in resolved.gateways.values() {
            let hosts = port.listeners.iter().flat_map(|one| one.hosts.values());
            for route in hosts.flat_map(|host| &host.routes) {
                for target in &route.targets {
                    let Target::Upstream(key) = &target.target else { continue };
                    let kind = route.origin.kind.to_string();
                    let from = Referrer {
                        group: "gateway.networking.k8s.io",
                        kind: &kind,
                        namespace: &route.origin.name.namespace,
                    };
                    let to = Referent { group: "", kind: "Service", name: &key.service };
                    prop_assert!(permits(&cluster.objects.grants, from, to), "{} {}", route.origin, key);
                }
            }
        }
    }

    #[test]
    fn g26_g28_every_listener_that_is_served_has_its_name_and_port_alone(objects in any_objects()) {
        let cluster = cluster(&objects);
        let resolved = cluster.resolve();
        let mut targets = Vec::new();
        for (port, entry) in &resolved.gateways {
            let mut names: Vec<&str> = entry.listeners.iter().map(|one| &*one.hostname).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            prop_assert_eq!(names.len(), count, "{}", port);
            targets.push(entry.target_port);
        }
        let count = targets.len();
        targets.sort_unstable();
        targets.dedup();
        prop_assert_eq!(targets.len(), count);
    }
}

#[test]
fn holders_are_shown_with_their_kind() {
    assert_eq!(
        Holder::Gateway(name("web")).to_string(),
        "Gateway default/web"
    );
    assert_eq!(
        Holder::ListenerSet(name("team/a")).to_string(),
        "ListenerSet team/a"
    );
}
