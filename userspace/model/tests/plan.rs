//! Properties of `desired` and `diff`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use headgate_model::{
    Actual, Change, Desired, Endpoint, EndpointPort, EndpointSlice, Location, NamespacedName, Node,
    Planner, Protocol, Routed, Scope, Service, ServicePort, Touched, contribution, diff,
};
use proptest::{collection::vec, prelude::*};

fn node() -> Node {
    Node {
        name: "n1".into(),
        zone: Some("z1".into()),
        addresses: vec![IpAddr::from([192, 168, 50, 1])],
        own_addresses: vec![IpAddr::from([192, 168, 50, 1])],
        networks: Vec::new(),
        node_port_addresses: vec![
            IpAddr::from([192, 168, 50, 1]),
            IpAddr::from([127, 0, 0, 1]),
        ],
        serves_external_ips: true,
    }
}

prop_compose! {
    fn service()(
        number in 0u8..4,
        created_s in proptest::option::of(0i64..3),
        node_port in proptest::option::of(30_000u16..30_003),
        external in proptest::option::of(0u8..2),
        local in any::<bool>(),
    ) -> Service {
        Service {
            name: NamespacedName::new("default", &format!("s{number}")),
            created_s,
            ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port }],
            cluster_ips: vec![IpAddr::from([10, 96, 0, number])],
            external_ips: external.map(|last| IpAddr::from([203, 0, 113, last])).into_iter().collect(),
            load_balancer_ips: Vec::new(),
            external_policy: if local { Scope::Local } else { Scope::Cluster },
            internal_policy: Scope::Cluster,
            affinity_timeout_s: None,
            source_ranges: None,
            health_check_node_port: None,
        }
    }
}

prop_compose! {
    fn endpoint()(last in 1u8..6, on in 1u8..3, ready in any::<bool>(), terminating in any::<bool>()) -> Endpoint {
        Endpoint {
            address: IpAddr::from([10, 244, on, last]),
            node: Some(format!("n{on}")),
            ready,
            serving: true,
            terminating,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }
}

/// The objects of a cluster.
#[derive(Clone, Debug, Default)]
struct Model {
    services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, EndpointSlice>,
}

prop_compose! {
    fn model()(
        services in vec(service(), 0..4),
        slices in vec((0u8..4, vec(endpoint(), 0..5)), 0..5),
    ) -> Model {
        let mut model = Model::default();
        for service in services {
            model.services.insert(service.name.clone(), service);
        }
        for (index, (number, endpoints)) in slices.into_iter().enumerate() {
            let slice = EndpointSlice {
                triggered: None,
                service: NamespacedName::new("default", &format!("s{number}")),
                ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
                endpoints,
            };
            model.slices.insert(NamespacedName::new("default", &format!("slice{index}")), slice);
        }
        model
    }
}

/// Sends the difference between two states to the planner.
fn update(planner: &mut Planner, before: &Model, model: &Model) -> Touched {
    for name in before.services.keys().chain(model.services.keys()) {
        planner.set_service(name, model.services.get(name).cloned());
    }
    for name in before.slices.keys().chain(model.slices.keys()) {
        planner.set_slice(name, model.slices.get(name).cloned());
    }
    planner.update()
}

/// The desired state of a model, without history.
fn desired(model: &Model) -> Desired {
    let mut planner = Planner::new(node());
    update(&mut planner, &Model::default(), model);
    planner.desired().clone()
}

fn assert_consistent(actual: &Actual) {
    for (frontend, spec) in &actual.frontends {
        for key in [&spec.inside, &spec.outside] {
            assert!(
                actual.services.contains_key(key),
                "{frontend} names {key}, which is not there"
            );
        }
    }
    for (key, (_, spec)) in &actual.services {
        for backend in spec.backends.iter() {
            assert!(
                actual.backends.contains_key(backend),
                "{key} names {backend}, which is not there"
            );
        }
    }
    let ids: BTreeSet<_> = actual.services.values().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), actual.services.len(), "two services with one id");
    let ids: BTreeSet<_> = actual.backends.values().collect();
    assert_eq!(ids.len(), actual.backends.len(), "two backends with one id");
}

proptest! {
    #[test]
    fn changes_lead_to_desired_through_consistent_states(models in vec(model(), 1..4)) {
        let mut actual = Actual::default();
        let mut planner = Planner::new(node());
        let mut sent = Model::default();
        for model in models {
            let touched = update(&mut planner, &sent, &model);
            sent = model;
            let wanted = planner.desired().clone();
            prop_assert_eq!(&wanted, &desired(&sent), "the result depends on the history");
            let before = actual.clone();
            for change in diff(&before, &wanted, &touched) {
                if let Change::PutBackend { id, .. } = &change {
                    prop_assert_ne!(id.0, 0);
                }
                actual.record(&change, Instant::now());
                assert_consistent(&actual);
            }
            let everything = Touched::everything(&actual, &wanted);
            prop_assert_eq!(diff(&actual, &wanted, &everything), vec![]);
            prop_assert_eq!(&actual.addresses, &wanted.addresses);
            prop_assert_eq!(&actual.frontends, &wanted.frontends);
            prop_assert_eq!(actual.services.len(), wanted.services.len());
            prop_assert_eq!(actual.backends.len(), wanted.backends.len());
            for (backend, id) in &before.backends {
                if let Some(now) = actual.backends.get(backend) {
                    prop_assert_eq!(now, id, "an id changed");
                }
            }
        }
    }

    #[test]
    fn backends_are_those_of_the_policy(model in model()) {
        let wanted = desired(&model);
        for (key, spec) in &wanted.services {
            for backend in spec.backends.iter() {
                let location = match backend.address.to_string().starts_with("10.244.1.") {
                    true => Location::ThisNode,
                    false => Location::OtherNode,
                };
                prop_assert!(key.scope == Scope::Cluster || location == Location::ThisNode);
                prop_assert_eq!(backend.location, location);
                prop_assert!(wanted.backends.contains(backend));
            }
        }
        let gone = Model { services: Default::default(), ..model };
        prop_assert_eq!(desired(&gone), Desired::default());
    }
}

/// A Service with TCP port 80 and no address.
fn plain_service(name: &str, node_port: Option<u16>) -> Service {
    Service {
        name: NamespacedName::new("default", name),
        created_s: None,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port,
        }],
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        external_policy: Scope::Cluster,
        internal_policy: Scope::Cluster,
        affinity_timeout_s: None,
        source_ranges: None,
        health_check_node_port: None,
    }
}

#[test]
fn older_service_wins_an_address() {
    let claim = |name: &str, created_s| Service {
        created_s: Some(created_s),
        external_ips: vec![IpAddr::from([203, 0, 113, 7])],
        ..plain_service(name, None)
    };
    let mut model = Model::default();
    for service in [claim("a-younger", 20), claim("b-older", 10)] {
        model.services.insert(service.name.clone(), service);
    }
    let mut planner = Planner::new(node());
    update(&mut planner, &Model::default(), &model);
    let (wanted, refusals) = (planner.desired(), planner.refusals());
    let spec = wanted.frontends.values().next().unwrap();
    assert_eq!(spec.inside.service.name, "b-older");
    assert_eq!(
        refusals[0].to_string(),
        "Service default/a-younger: spec.externalIPs: tcp 203.0.113.7:80 belongs to default/b-older"
    );
}

#[test]
fn s117_node_ports_of_one_family_leave_the_other_alone() {
    let [v4, v6]: [IpAddr; 2] = ["192.168.50.1", "fd50::1"].map(|text| text.parse().unwrap());
    let node = Node {
        node_port_addresses: vec![v4, v6],
        ..node()
    };
    let cases: [(&[&str], &[IpAddr]); 4] = [
        (&["10.96.0.10"], &[v4]),
        (&["fd96::a"], &[v6]),
        (&["fd96::a", "10.96.0.10"], &[v4, v6]),
        (&[], &[v4, v6]),
    ];
    for (cluster_ips, wanted) in cases {
        let service = Service {
            cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..plain_service("web", Some(30_080))
        };
        let added = contribution(&service, &[], &Routed::new(), &node);
        let node_ports = added.ownerships.iter().map(|owned| owned.frontend);
        let addresses: Vec<IpAddr> = node_ports
            .filter(|frontend| frontend.port == 30_080)
            .map(|frontend| frontend.address)
            .collect();
        assert_eq!(addresses, wanted, "cluster IPs {cluster_ips:?}");
    }
}
