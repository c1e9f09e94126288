//! What Services get if the maps cannot hold everything.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use headgate_model::{
    Desired, Endpoint, EndpointPort, EndpointSlice, Frontend, Limits, NamespacedName, Node,
    Planner, Protocol, Scope, Service, ServicePort,
};
use ipnet::IpNet;

/// A Service with an equal number of endpoints behind each port.
struct Wish {
    name: NamespacedName,
    created_s: i64,
    number: u8,
    ports: u16,
    endpoints: u8,
    node_port: Option<u16>,
    ranges: u8,
    has_affinity: bool,
}

impl Wish {
    fn new(namespace: &str, name: &str, created_s: i64, number: u8) -> Self {
        Self {
            name: NamespacedName::new(namespace, name),
            created_s,
            number,
            ports: 1,
            endpoints: 2,
            node_port: None,
            ranges: 0,
            has_affinity: false,
        }
    }

    fn service(&self) -> Service {
        let ports = 0..self.ports;
        Service {
            name: self.name.clone(),
            created_s: Some(self.created_s),
            ports: ports
                .map(|at| ServicePort {
                    name: format!("p{at}"),
                    protocol: Protocol::Tcp,
                    port: 1000 + at,
                    node_port: self.node_port.map(|first| first + at),
                })
                .collect(),
            cluster_ips: vec![[10, 96, 0, self.number].into()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            external_policy: Scope::Cluster,
            internal_policy: Scope::Cluster,
            affinity_timeout_s: self.has_affinity.then_some(60),
            source_ranges: (self.ranges > 0).then(|| {
                let ranges = 0..self.ranges;
                let range = |at| IpNet::new([172, 16, at, 0].into(), 24).unwrap();
                ranges.map(range).collect()
            }),
            health_check_node_port: self.node_port.map(|first| first + 1000),
        }
    }

    fn slice(&self) -> EndpointSlice {
        let endpoints = 0..self.endpoints;
        EndpointSlice {
            service: self.name.clone(),
            ports: (0..self.ports)
                .map(|at| EndpointPort {
                    name: format!("p{at}"),
                    protocol: Protocol::Tcp,
                    port: 8000 + at,
                })
                .collect(),
            endpoints: endpoints
                .map(|last| Endpoint {
                    address: [10, 244, self.number, last].into(),
                    node: Some("n1".into()),
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

    fn add(&self, planner: &mut Planner) {
        planner.set_slice(&self.name, Some(self.slice()));
        planner.set_service(&self.name, Some(self.service()));
    }
}

fn planner(limits: &Limits) -> Planner {
    let node = Node {
        name: "n1".into(),
        node_port_addresses: vec![IpAddr::from([192, 168, 50, 1])],
        ..Node::default()
    };
    Planner::with_limits(node, limits.clone())
}

/// The frontends of each Service, by name.
fn served(desired: &Desired) -> BTreeMap<String, usize> {
    let mut served = BTreeMap::new();
    for spec in desired.frontends.values() {
        *served.entry(spec.inside.service.to_string()).or_default() += 1;
    }
    served
}

/// The desired state for these Services, all at once or one after the other in either order.
fn desired(limits: &Limits, wishes: &[Wish]) -> (Desired, Vec<String>) {
    let mut at_once = planner(limits);
    wishes.iter().for_each(|wish| wish.add(&mut at_once));
    at_once.update();
    let orders: [Box<dyn Iterator<Item = &Wish>>; 2] =
        [Box::new(wishes.iter()), Box::new(wishes.iter().rev())];
    for order in orders {
        let mut gradual = planner(limits);
        for wish in order {
            let before = gradual.desired().clone();
            wish.add(&mut gradual);
            let touched = gradual.update();
            let now = gradual.desired();
            let frontends = before.frontends.keys().chain(now.frontends.keys());
            for key in frontends.filter(|key| before.frontends.get(key) != now.frontends.get(key)) {
                assert!(touched.frontends.contains(key), "{key} has changed");
            }
            let services = before.services.keys().chain(now.services.keys());
            for key in services.filter(|key| before.services.get(key) != now.services.get(key)) {
                assert!(touched.services.contains(key), "{key} has changed");
            }
            let backends = before.backends.symmetric_difference(&now.backends);
            for backend in backends {
                assert!(
                    touched.backends.contains(backend),
                    "{backend:?} has changed"
                );
            }
        }
        assert_eq!(gradual.desired(), at_once.desired(), "the order matters");
    }
    let refusals = at_once.refusals();
    let refusals = refusals.iter().map(ToString::to_string).collect();
    (at_once.desired().clone(), refusals)
}

/// The cluster IP of each Service comes before its node port.
#[test]
fn s144_load_balancers_use_other_nodes_for_what_has_no_capacity_here() {
    let limits = Limits {
        frontends: 3,
        ..Limits::default()
    };
    let wishes = [(1, "old"), (2, "young")].map(|(age, name)| Wish {
        node_port: Some(30_000 + u16::from(age)),
        ..Wish::new("default", name, age.into(), age)
    });
    let (desired, refusals) = desired(&limits, &wishes);
    let [refusal] = &refusals[..] else {
        panic!("{refusals:?}");
    };
    assert!(refusal.starts_with("Service default/young: "), "{refusal}");
    let endpoints = |name| {
        let name = NamespacedName::new("default", name);
        desired.health_checks[&name].local_endpoints
    };
    assert_eq!((endpoints("old"), endpoints("young")), (2, 0));
}

/// Every frontend has its services, and every service its backends.
fn assert_complete(desired: &Desired) {
    for spec in desired.frontends.values() {
        for key in [&spec.inside, &spec.outside] {
            assert!(desired.services.contains_key(key), "{key}");
        }
    }
    let used = desired.services.values();
    let used: BTreeSet<_> = used
        .flat_map(|spec| spec.backends.iter().copied())
        .collect();
    assert_eq!(used, desired.backends);
    let addresses: BTreeSet<IpAddr> = desired.frontends.keys().map(|key| key.address).collect();
    assert!(addresses.iter().eq(desired.addresses.keys()));
}

/// A hog that is older than all others, and others in its namespace and in another one.
fn with_hog(hog: Wish) -> Vec<Wish> {
    let mut wishes = vec![hog];
    for (at, namespace) in ["a", "a", "b"].into_iter().enumerate() {
        let number = at as u8 + 2;
        wishes.push(Wish {
            ranges: 1,
            has_affinity: true,
            ..Wish::new(namespace, &format!("s{at}"), 100, number)
        });
    }
    wishes
}

#[test]
fn s144_no_service_takes_the_capacity_of_the_others() {
    let few = |set: fn(&mut Limits)| {
        let mut limits = Limits::default();
        set(&mut limits);
        limits
    };
    for (what, limits) in [
        ("frontends", few(|limits| limits.frontends = 20)),
        ("services", few(|limits| limits.services = 20)),
        ("backends", few(|limits| limits.backends = 200)),
        ("slots", few(|limits| limits.slots = 400)),
        ("source ranges", few(|limits| limits.source_ranges = 80)),
        ("session affinity", few(|limits| limits.members = 200)),
    ] {
        let hog = Wish {
            ports: 60,
            endpoints: 20,
            ranges: 9,
            has_affinity: true,
            ..Wish::new("b", "hog", 1, 1)
        };
        let (desired, refusals) = desired(&limits, &with_hog(hog));
        assert_complete(&desired);
        let served = served(&desired);
        for name in ["a/s0", "a/s1", "b/s2"] {
            assert_eq!(served.get(name), Some(&1), "{what}: {served:?}");
        }
        let of_hog = served.get("b/hog").copied().unwrap_or_default();
        assert!((3..60).contains(&of_hog), "{what}: {served:?}");
        assert_eq!(refusals.len(), 1, "{what}: {refusals:?}");
        let refused = format!("{} of 60 frontends are not served", 60 - of_hog);
        let is_named = refusals[0].starts_with("Service b/hog: ") && refusals[0].contains(what);
        assert!(is_named && refusals[0].contains(&refused), "{refusals:?}");
    }
}

#[test]
fn s144_a_namespace_with_many_services_takes_nothing_from_another() {
    let limits = Limits {
        frontends: 12,
        ..Limits::default()
    };
    let mut wishes: Vec<Wish> = (0..30)
        .map(|at| Wish::new("many", &format!("s{at:02}"), at.into(), at))
        .collect();
    wishes.extend((0..4).map(|at| Wish::new("few", &format!("s{at}"), 100, 100 + at)));
    let (desired, _) = desired(&limits, &wishes);
    let served = served(&desired);
    let of = |namespace: &str| {
        served
            .keys()
            .filter(|name| name.starts_with(namespace))
            .count()
    };
    assert_eq!((of("few/"), of("many/")), (4, 8), "{served:?}");
    // Within the namespace, the oldest.
    let oldest = (0..8).all(|at| served.contains_key(&format!("many/s{at:02}")));
    assert!(oldest, "{served:?}");
}

#[test]
fn s145_of_equal_services_the_youngest_is_refused_whatever_its_name() {
    let limits = Limits {
        frontends: 3,
        ..Limits::default()
    };
    let wishes: Vec<Wish> = [("z", 1), ("y", 2), ("x", 3), ("a", 4)]
        .into_iter()
        .zip(1..)
        .map(|((name, age), number)| Wish::new("default", name, age, number))
        .collect();
    let (desired, refusals) = desired(&limits, &wishes);
    let served: Vec<String> = served(&desired).into_keys().collect();
    assert_eq!(served, ["default/x", "default/y", "default/z"]);
    assert_eq!(refusals.len(), 1);
    assert!(refusals[0].starts_with("Service default/a: spec.ports: "));
}

#[test]
fn s145_without_slots_for_a_table_a_service_is_served_from_a_plain_list() {
    // Half of the slots is for changes: four tables of 251, and lists.
    let limits = Limits {
        slots: 2 * (4 * 251 + 40),
        tables: vec![251, 509],
        ..Limits::default()
    };
    let hog = Wish {
        ports: 10,
        node_port: Some(30_000),
        ..Wish::new("b", "hog", 1, 1)
    };
    let younger = Wish {
        node_port: Some(31_000),
        ..Wish::new("a", "younger", 2, 2)
    };
    let (desired, refusals) = desired(&limits, &[hog, younger]);
    assert_eq!(refusals, Vec::<String>::new());
    assert_eq!(
        served(&desired),
        [("a/younger".into(), 2), ("b/hog".into(), 20)].into()
    );
    let tables = |name: &str| {
        let services = desired.services.iter();
        let of = services.filter(move |(key, _)| key.service.name == name);
        let (tables, lists): (Vec<_>, Vec<_>) = of.partition(|(_, spec)| spec.consistent);
        assert!(tables.iter().all(|(_, spec)| spec.slots == 251));
        assert!(lists.iter().all(|(_, spec)| spec.slots == 2));
        (tables.len(), lists.len())
    };
    assert_eq!((tables("younger"), tables("hog")), ((1, 0), (3, 7)));
    let frontend = Frontend {
        address: [10, 96, 0, 1].into(),
        port: 1009,
        protocol: Protocol::Tcp,
    };
    assert!(desired.frontends.contains_key(&frontend));
}

/// Larger limits are asked for before the present ones are reached, and hold everything.
#[test]
fn s190_maps_become_larger_before_they_are_full() {
    const MANY: u8 = 100;
    let limits = Limits {
        frontends: 64,
        addresses: 64,
        services: 64,
        backends: 64,
        ..Limits::default()
    };
    let mut planner = planner(&limits);
    let mut times = 0;
    for number in 0..MANY {
        Wish::new("default", &format!("s{number}"), number.into(), number).add(&mut planner);
        planner.update();
        assert!(!planner.is_short(), "Service {number}");
        if let Some(larger) = planner.lacking() {
            assert!(planner.set_limits(larger));
            planner.update();
            assert_eq!(planner.lacking(), None);
            times += 1;
        }
    }
    assert!((1..=4).contains(&times), "each map once, not {times} times");
    assert_eq!(served(planner.desired()).len(), usize::from(MANY));
}
