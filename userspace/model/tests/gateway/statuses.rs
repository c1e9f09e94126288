use headgate_model::gateway::{
    Merge, RouteKind,
    object::{Condition, GatewayStatus, RouteStatus},
};

use crate::build::{Cluster, cluster, condition, name, route};

const GATEWAY: &str = "
kind: Gateway
metadata: {name: web, generation: 1}
spec:
  gatewayClassName: headgate
  listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}]
";

const ROUTE: &str = "
kind: HTTPRoute
metadata: {name: r, generation: 4}
spec: {parentRefs: [{name: web, sectionName: a}, {name: web, sectionName: no}]}
";

const OURS: &str = "headgate.io/gateway";

fn at(generation: i64, now: &str) -> Merge<'_> {
    Merge { generation, now }
}

fn both() -> Cluster {
    let mut cluster = cluster(GATEWAY);
    cluster.add(ROUTE);
    cluster
}

fn gateway_status(
    cluster: &Cluster,
    old: &GatewayStatus,
    merge: Merge<'_>,
) -> Option<GatewayStatus> {
    merge.gateway(old, &cluster.resolve().verdicts[&name("web")])
}

fn route_status(cluster: &Cluster, old: &RouteStatus, merge: Merge<'_>) -> Option<RouteStatus> {
    let resolved = cluster.resolve();
    merge.route(old, route(&resolved, RouteKind::Http, "r"), OURS)
}

/// What the API server writes when a Gateway is created.
fn waiting(type_: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: "Unknown".into(),
        observed_generation: None,
        last_transition_time: "1970-01-01T00:00:00Z".into(),
        reason: "Pending".into(),
        message: "Waiting for controller".into(),
    }
}

#[test]
fn g04_g05_conditions_follow_the_generation_and_keep_their_time() {
    let cluster = both();
    let old = GatewayStatus {
        conditions: vec![waiting("Accepted"), waiting("Programmed")],
        ..GatewayStatus::default()
    };
    let first = gateway_status(&cluster, &old, at(1, "t1")).unwrap();
    let all = |status: &GatewayStatus| -> Vec<Condition> {
        let listeners = status.listeners.iter().flat_map(|one| &one.conditions);
        status.conditions.iter().chain(listeners).cloned().collect()
    };
    assert_eq!(all(&first).len(), 10);
    for one in all(&first) {
        assert_eq!(
            (one.observed_generation, &*one.last_transition_time),
            (Some(1), "t1")
        );
    }
    // Nothing differs: nothing is written, also after a restart.
    assert_eq!(gateway_status(&cluster, &first, at(1, "t2")), None);
    let second = gateway_status(&cluster, &first, at(2, "t2")).unwrap();
    for one in all(&second) {
        assert_eq!(
            (one.observed_generation, &*one.last_transition_time),
            (Some(2), "t1")
        );
    }
    // A condition whose status changes has the new time, the others keep theirs.
    let mut changed = cluster.clone();
    changed.add(&GATEWAY.replace("port: 81, protocol: HTTP", "port: 81, protocol: odd"));
    let third = gateway_status(&changed, &second, at(3, "t3")).unwrap();
    let find = |listener: usize, type_: &str| {
        let conditions = &third.listeners[listener].conditions;
        let found = conditions.iter().find(|one| one.type_ == type_).unwrap();
        found.last_transition_time.clone()
    };
    assert_eq!(
        (find(1, "Accepted"), find(1, "Conflicted")),
        ("t3".into(), "t1".into())
    );
    assert_eq!(find(0, "Accepted"), "t1");
}

#[test]
fn g06_conditions_and_entries_of_others_stay_where_they_are() {
    let cluster = both();
    let mut old = gateway_status(&cluster, &GatewayStatus::default(), at(1, "t1")).unwrap();
    old.conditions.insert(0, waiting("example.com/Shiny"));
    old.listeners[0]
        .conditions
        .insert(1, waiting("example.com/Shiny"));
    assert_eq!(gateway_status(&cluster, &old, at(1, "t2")), None);
    let new = gateway_status(&cluster, &old, at(2, "t2")).unwrap();
    assert_eq!(new.conditions[0], waiting("example.com/Shiny"));
    assert_eq!(new.listeners[0].conditions[1], waiting("example.com/Shiny"));

    let mut old = route_status(&cluster, &RouteStatus::default(), at(4, "t1")).unwrap();
    let mut foreign = old.parents[0].clone();
    foreign.controller_name = "example.com/other".into();
    foreign.conditions = vec![waiting("Accepted")];
    old.parents.insert(1, foreign.clone());
    assert_eq!(route_status(&cluster, &old, at(4, "t2")), None);
    let new = route_status(&cluster, &old, at(5, "t2")).unwrap();
    assert_eq!((new.parents.len(), &new.parents[1]), (3, &foreign));
}

#[test]
fn g07_verdicts_about_newer_objects_are_not_overwritten() {
    let cluster = both();
    let newer = gateway_status(&cluster, &GatewayStatus::default(), at(7, "t1")).unwrap();
    assert_eq!(gateway_status(&cluster, &newer, at(6, "t2")), None);
}

#[test]
fn g10_g11_entries_without_a_parent_go() {
    let mut cluster = both();
    let old = route_status(&cluster, &RouteStatus::default(), at(4, "t1")).unwrap();
    let sections = |status: &RouteStatus| -> Vec<String> {
        let parents = status.parents.iter();
        let names = parents.map(|one| one.parent_ref.section().unwrap_or_default().to_owned());
        names.collect()
    };
    assert_eq!(sections(&old), ["a", "no"]);
    assert!(old.parents.iter().all(|one| one.controller_name == OURS));
    cluster.add(&ROUTE.replace("{name: web, sectionName: a}, ", ""));
    let new = route_status(&cluster, &old, at(5, "t2")).unwrap();
    assert_eq!(sections(&new), ["no"]);
    // The Gateway is gone: so are our entries.
    cluster.objects.gateways.clear();
    let new = route_status(&cluster, &new, at(5, "t3")).unwrap();
    assert!(new.parents.is_empty());
    assert_eq!(route_status(&cluster, &new, at(5, "t4")), None);
}

#[test]
fn g12_there_are_at_most_32_parents() {
    let mut cluster = both();
    let parents: Vec<String> = (0..32)
        .map(|port| format!("{{name: web, port: {}}}", port + 1))
        .collect();
    cluster.add(&format!(
        "
kind: HTTPRoute
metadata: {{name: r}}
spec: {{parentRefs: [{}]}}
",
        parents.join(", ")
    ));
    let mut old = route_status(&cluster, &RouteStatus::default(), at(1, "t1")).unwrap();
    assert_eq!(old.parents.len(), 32);
    for entry in &mut old.parents[..3] {
        entry.controller_name = "example.com/other".into();
    }
    let new = route_status(&cluster, &old, at(1, "t2"));
    // Three of ours have no place.
    assert_eq!(new, None);
}

#[test]
fn g01_g02_g03_classes() {
    let verdict = |spec: &str, version: Option<&str>| {
        let mut cluster = cluster(&format!(
            "{{kind: GatewayClass, metadata: {{name: c}}, spec: {{{spec}}}}}"
        ));
        cluster.options.bundle_version = version.map(Into::into);
        cluster.resolve().classes.get("c").cloned()
    };
    let ours = "controllerName: headgate.io/gateway";
    let odd = format!("{ours}, parametersRef: {{group: a, kind: B, name: c}}");
    for (spec, version, accepted, supported) in [
        (ours, None, "True/Accepted", "True/SupportedVersion"),
        (
            ours,
            Some("v1.6.1"),
            "True/Accepted",
            "True/SupportedVersion",
        ),
        (
            ours,
            Some("v1.16.0"),
            "True/Accepted",
            "False/UnsupportedVersion",
        ),
        (
            &odd[..],
            None,
            "False/InvalidParameters",
            "True/SupportedVersion",
        ),
    ] {
        let verdict = verdict(spec, version).unwrap();
        assert_eq!(
            condition(&verdict.conditions, "Accepted"),
            accepted,
            "{spec}"
        );
        assert_eq!(
            condition(&verdict.conditions, "SupportedVersion"),
            supported,
            "{version:?}"
        );
        let mut sorted = verdict.features.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(verdict.features, sorted);
        assert!(verdict.features.contains(&"HTTPRoute"));
    }
    assert!(verdict("controllerName: example.com/other", None).is_none());
}

#[test]
fn g03_addresses_that_gateways_name_need_a_pool() {
    let mut cluster = cluster(
        "{kind: GatewayClass, metadata: {name: c}, spec: {controllerName: headgate.io/gateway}}",
    );
    for (pools, has_pool) in [
        (vec![], false),
        (vec!["192.0.2.0/24".parse().unwrap()], true),
    ] {
        cluster.options.pools = pools;
        let features = &cluster.resolve().classes["c"].features;
        assert_eq!(features.contains(&"GatewayStaticAddresses"), has_pool);
        assert!(features.contains(&"GatewayAddressEmpty"));
        assert!(features.contains(&"GatewayInfrastructurePropagation"));
    }
}

#[test]
fn g18_listeners_that_are_removed_go_from_status() {
    let mut cluster = both();
    let old = gateway_status(&cluster, &GatewayStatus::default(), at(1, "t1")).unwrap();
    cluster.add(&GATEWAY.replace("{name: a, port: 80, protocol: HTTP}, ", ""));
    let new = gateway_status(&cluster, &old, at(2, "t2")).unwrap();
    let names: Vec<&str> = new.listeners.iter().map(|one| &*one.name).collect();
    assert_eq!(names, ["b"]);
    let ports: Vec<u16> = cluster
        .resolve()
        .gateways
        .keys()
        .map(|one| one.port)
        .collect();
    assert_eq!(ports, [81]);
}

#[test]
fn g131_addresses_have_a_type() {
    let status = gateway_status(&both(), &GatewayStatus::default(), at(1, "t1")).unwrap();
    let address = &status.addresses[0];
    assert_eq!(
        (&*address.type_, &*address.value),
        ("IPAddress", "192.0.2.1")
    );
}
