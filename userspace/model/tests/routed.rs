//! Ports of Services that routes serve: what a planner makes of them.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;

use headgate_model::{
    Endpoint, EndpointPort, EndpointSlice, FrontendSpec, Limits, NamespacedName, Node, Planner,
    Protocol, Scope, Service, ServicePort, ServiceSpec,
    gateway::{L4Backend, L4Port, RoutedPort},
};
use proptest::{collection::vec, prelude::*};

const TABLE: u32 = 4093;

fn name(text: &str) -> NamespacedName {
    NamespacedName::new("default", text)
}

fn gateway() -> Service {
    Service {
        name: name("gateway"),
        created_s: None,
        ports: vec![ServicePort {
            name: "tcp-9000".into(),
            protocol: Protocol::Tcp,
            port: 9000,
            node_port: None,
        }],
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer_ips: vec![[203, 0, 113, 9].into()],
        external_policy: Scope::Local,
        internal_policy: Scope::Cluster,
        affinity_timeout_s: None,
        source_ranges: None,
        health_check_node_port: None,
    }
}

/// The slice of a Service with endpoints `10.244.number.*`.
fn slice(number: u8, endpoints: u8) -> EndpointSlice {
    EndpointSlice {
        service: name(&format!("s{number}")),
        ports: vec![EndpointPort {
            name: "p".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: (1..=endpoints)
            .map(|last| Endpoint {
                address: [10, 244, number, last].into(),
                node: Some("n2".into()),
                ready: true,
                serving: true,
                terminating: false,
                zone_hints: Vec::new(),
                node_hints: Vec::new(),
            })
            .collect(),
        triggered: None,
    }
}

fn planner(tables: &[u32]) -> Planner {
    let limits = Limits {
        tables: tables.to_vec(),
        ..Limits::default()
    };
    let mut planner = Planner::with_limits(Node::default(), limits);
    planner.set_service(&name("gateway"), Some(gateway()));
    planner
}

/// Routes the port to Services `s0`, `s1` and so on by weight; `None` is a reference that is not valid.
fn route(planner: &mut Planner, backends: &[(u32, Option<u8>)]) {
    let backends = backends.iter().map(|(weight, number)| L4Backend {
        weight: *weight,
        port: number.map(|number| L4Port {
            service: name(&format!("s{number}")),
            port: 80,
            name: "p".into(),
        }),
    });
    let routed = RoutedPort {
        route: Some(name("lines")),
        backends: backends.collect(),
    };
    let ports = BTreeMap::from([((Protocol::Tcp, 9000), routed)]);
    planner.set_routed(&name("gateway"), ports);
}

fn spec(planner: &mut Planner) -> ServiceSpec {
    planner.update();
    let (_, frontend) = planner.desired().frontends.first_key_value().unwrap();
    planner.desired().services[&frontend.outside].clone()
}

/// Slots of each Service; of what refuses under 255.
fn slots(spec: &ServiceSpec) -> BTreeMap<u8, u32> {
    let mut slots = BTreeMap::new();
    let shares = spec
        .shares
        .clone()
        .unwrap_or_else(|| vec![1; spec.backends.len()].into());
    for (backend, share) in spec.backends.iter().zip(shares.iter()) {
        let std::net::IpAddr::V4(address) = backend.address else {
            panic!("{backend}")
        };
        *slots.entry(address.octets()[2]).or_default() += share;
    }
    let used: u32 = slots.values().sum();
    if spec.shares.is_some() && used < spec.slots {
        slots.insert(255, spec.slots - used);
    }
    slots
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn g126_weight_counts_between_services_then_endpoints_are_even(
        parts in vec((0u32..1000, 0u8..5, any::<bool>()), 1..6),
    ) {
        let mut planner = planner(&[TABLE]);
        let mut backends = Vec::new();
        for (number, (weight, endpoints, is_valid)) in (0..).zip(&parts) {
            planner.set_slice(&name(&format!("s{number}-1")), Some(slice(number, *endpoints)));
            backends.push((*weight, is_valid.then_some(number)));
        }
        route(&mut planner, &backends);
        let spec = spec(&mut planner);
        let total: u32 = parts.iter().map(|(weight, ..)| weight).sum();
        let reached = |(weight, endpoints, is_valid): &(u32, u8, bool)| *weight > 0 && *endpoints > 0 && *is_valid;
        if !parts.iter().any(reached) {
            prop_assert_eq!(spec.slots, 0, "all is refused");
            return Ok(());
        }
        prop_assert!(spec.consistent);
        let slots = slots(&spec);
        let whole: u32 = slots.values().sum();
        for (number, part) in (0..).zip(&parts) {
            let expected = if reached(part) { f64::from(part.0) / f64::from(total) } else { 0.0 };
            let share = f64::from(slots.get(&number).copied().unwrap_or(0)) / f64::from(whole);
            prop_assert!((share - expected).abs() < 0.002, "{number}: {share}, not {expected}");
        }
        if let Some(shares) = &spec.shares {
            prop_assert_eq!(spec.slots, TABLE);
            for (backend, share) in spec.backends.iter().zip(shares.iter()) {
                let same = spec.backends.iter().zip(shares.iter());
                let mut same = same.filter(|(other, _)| other.address.to_string().rsplit_once('.').map(|(net, _)| net.to_owned())
                    == backend.address.to_string().rsplit_once('.').map(|(net, _)| net.to_owned()));
                prop_assert!(same.all(|(_, other)| other.abs_diff(*share) <= 1), "{:?}", shares);
            }
        }
    }
}

#[test]
fn g129_equal_weights_are_a_table_without_shares() {
    let mut planner = planner(&[TABLE]);
    planner.set_slice(&name("s0-1"), Some(slice(0, 2)));
    planner.set_slice(&name("s1-1"), Some(slice(1, 3)));
    // Two to three, as the endpoints are.
    route(&mut planner, &[(20, Some(0)), (30, Some(1)), (0, Some(2))]);
    let even = spec(&mut planner);
    let mut frontends = planner.desired().frontends.values();
    let is_whole = |spec: &FrontendSpec| spec.inside == spec.outside;
    assert!(frontends.all(is_whole), "traffic policies do not count");
    assert_eq!(
        (even.shares, even.backends.len(), even.slots),
        (None, 5, TABLE)
    );
    // An endpoint of a Service that a route names comes: the port follows.
    planner.set_slice(&name("s1-1"), Some(slice(1, 4)));
    let uneven = spec(&mut planner);
    assert_eq!(slots(&uneven), BTreeMap::from([(0, 1637), (1, 2456)]));
    // The other Service keeps its number of slots.
    planner.set_slice(&name("s1-1"), Some(slice(1, 1)));
    assert_eq!(
        slots(&spec(&mut planner)),
        BTreeMap::from([(0, 1637), (1, 2456)])
    );
    planner.set_slice(&name("s1-1"), None);
    assert_eq!(
        slots(&spec(&mut planner)),
        BTreeMap::from([(0, 1637), (255, 2456)])
    );
    // Without routes the port has the endpoints of its own Service: none.
    planner.set_routed(&name("gateway"), BTreeMap::new());
    assert_eq!(spec(&mut planner).slots, 0);
}

#[test]
fn g129_without_room_for_a_table_weights_are_left_out() {
    let mut planner = planner(&[]);
    planner.set_slice(&name("s0-1"), Some(slice(0, 2)));
    planner.set_slice(&name("s1-1"), Some(slice(1, 1)));
    route(&mut planner, &[(70, Some(0)), (20, Some(1)), (10, None)]);
    let spec = spec(&mut planner);
    assert_eq!((spec.shares, spec.slots, spec.consistent), (None, 3, false));
    let refusals = planner.refusals();
    assert_eq!(refusals.len(), 1);
    let text = refusals[0].to_string();
    let begin = "Service default/gateway: spec.ports[tcp-9000]: the weights of TCPRoute default/lines are left out";
    assert!(text.starts_with(begin), "{text}");
    // Routes without weights lose nothing.
    route(&mut planner, &[(1, Some(0))]);
    planner.update();
    assert_eq!(planner.refusals(), []);
}

#[test]
fn g129_where_slots_are_short_the_refusal_names_the_service() {
    // Half of the slots is for changes: room for lists, not for a table.
    let limits = Limits {
        slots: 2 * 200,
        tables: vec![251],
        ..Limits::default()
    };
    let mut planner = Planner::with_limits(Node::default(), limits);
    planner.set_service(&name("gateway"), Some(gateway()));
    planner.set_slice(&name("s0-1"), Some(slice(0, 2)));
    planner.set_slice(&name("s1-1"), Some(slice(1, 1)));
    route(&mut planner, &[(70, Some(0)), (30, Some(1))]);
    assert_eq!(spec(&mut planner).shares, None);
    let refusals: Vec<String> = planner.refusals().iter().map(ToString::to_string).collect();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].starts_with("Service default/gateway: spec.ports[tcp-9000]: "));
}

#[test]
fn l198_weights_that_are_left_out_are_reported() {
    let texts = |planner: &Planner| -> Vec<String> {
        let refusals = planner.refusals();
        refusals.iter().map(ToString::to_string).collect()
    };
    let weights = [(70, Some(0)), (20, Some(1)), (0, Some(2)), (10, None)];
    let text = |reason: &str| {
        format!(
            "Service default/gateway: spec.ports[tcp-9000]: the weights of TCPRoute default/lines are left out, as \
             {reason}: each endpoint of default/s0, default/s1 gets the same share, and what would be refused is served"
        )
    };
    // No table is large enough.
    let mut small = planner(&[]);
    let mut large = planner(&[TABLE]);
    for planner in [&mut small, &mut large] {
        for number in 0..3 {
            planner.set_slice(&name(&format!("s{number}-1")), Some(slice(number, 2)));
        }
        route(planner, &weights);
        planner.update();
    }
    assert_eq!(texts(&small), [text("no table has slots for 4 endpoints")]);
    assert_eq!(texts(&large), [""; 0]);
    // The map has slots for another Service alone.
    let limits = Limits {
        tables: vec![TABLE],
        slots: 2 * TABLE,
        ..Limits::default()
    };
    let mut other = gateway();
    other.name = name("other");
    other.created_s = Some(1);
    other.ports[0].port = 9001;
    other.load_balancer_ips = vec![[203, 0, 113, 10].into()];
    let mut short = Planner::with_limits(Node::default(), limits);
    for (at, service) in [gateway(), other].into_iter().enumerate() {
        short.set_service(&service.name.clone(), Some(service));
        let mut own = slice(9, 4);
        own.service = name(["gateway", "other"][at]);
        own.ports[0].name = "tcp-9000".into();
        short.set_slice(&name(&format!("own-{at}")), Some(own));
    }
    for number in 0..3 {
        short.set_slice(&name(&format!("s{number}-1")), Some(slice(number, 2)));
    }
    route(&mut short, &weights);
    short.update();
    let memory = text("this node has no capacity for more slots (--max-map-memory)");
    assert_eq!(texts(&short), [memory]);
    // Equal weights need no table, and nothing is lost.
    route(&mut short, &[(1, Some(0)), (1, Some(1))]);
    short.update();
    assert_eq!(texts(&short), [""; 0]);
    route(&mut short, &weights);
    short.set_service(&name("other"), None);
    short.update();
    assert_eq!(texts(&short), [""; 0]);
}
