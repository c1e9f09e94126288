//! Random clusters and steps.

use std::{collections::BTreeMap, net::IpAddr};

use headgate_model::{
    Endpoint, EndpointPort, EndpointSlice, NamespacedName, Node, Protocol, Scope, Service,
    ServicePort,
};
use ipnet::IpNet;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use proptest_state_machine::ReferenceStateMachine;

/// The objects of the API server, and the node.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) services: BTreeMap<NamespacedName, Service>,
    pub(crate) slices: BTreeMap<NamespacedName, EndpointSlice>,
    pub(crate) node: Node,
}

/// A step of a sequence.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Upserts (`Some`) or deletes (`None`) a Service.
    Service(u8, Option<Service>),
    /// Upserts (`Some`) or deletes (`None`) an EndpointSlice.
    Slice(u8, Option<EndpointSlice>),
    /// Changes the addresses of the node.
    Addresses(Node),
    /// Changes the zone of the node.
    Zone(Option<String>),
    /// Runs a pass of the loop.
    Pass,
    /// Crashes the agent after this number of writes of a pass, and starts it again; it gets all objects
    /// again, Services first if the flag is set.
    Crash(Option<usize>, bool),
    /// Lets every write with a multiple of this number fail from now on.
    Fail(usize),
    /// Lets writes work again.
    Heal,
    /// Writes a stray change to the maps.
    Tamper(Stray),
    /// Runs an audit and the pass after it.
    Audit,
}

/// A stray change of the maps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stray {
    /// Removes the first frontend.
    LoseFrontend,
    /// Adds a frontend that belongs to no Service.
    AddFrontend,
    /// Removes the first address.
    LoseAddress,
    /// Adds an address.
    AddAddress,
    /// Changes the port of a backend.
    ChangeBackend,
}

pub(crate) struct Machine;

impl ReferenceStateMachine for Machine {
    type State = Cluster;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Cluster> {
        let nothing = Cluster {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            node: node(&["192.168.50.1", "fd50::1"], 2, true),
        };
        Just(nothing).boxed()
    }

    fn transitions(_: &Cluster) -> BoxedStrategy<Step> {
        let strays = [
            Stray::LoseFrontend,
            Stray::AddFrontend,
            Stray::LoseAddress,
            Stray::AddAddress,
            Stray::ChangeBackend,
        ];
        prop_oneof![
            8 => (0..SERVICES, option::weighted(0.8, service())).prop_map(|(number, service)| {
                Step::Service(number, service.map(|service| Service { name: service_name(number), ..service }))
            }),
            8 => (0..SLICES, 0..SERVICES / TENANTS, option::weighted(0.8, slice())).prop_map(|(number, of, slice)| {
                // A slice belongs to a Service of its own namespace.
                let service = service_name(of * TENANTS + number % TENANTS);
                Step::Slice(number, slice.map(|slice| EndpointSlice { service, ..slice }))
            }),
            1 => addresses().prop_map(Step::Addresses),
            1 => option::of(select(&["a", "b"][..])).prop_map(|zone| Step::Zone(zone.map(Into::into))),
            8 => Just(Step::Pass),
            1 => (option::of(0usize..12), any::<bool>()).prop_map(|(writes, first)| Step::Crash(writes, first)),
            2 => (1usize..6).prop_map(Step::Fail),
            2 => Just(Step::Heal),
            1 => select(strays.to_vec()).prop_map(Step::Tamper),
            1 => Just(Step::Audit),
        ]
        .boxed()
    }

    fn apply(mut cluster: Cluster, step: &Step) -> Cluster {
        fn set<T: Clone>(
            map: &mut BTreeMap<NamespacedName, T>,
            name: NamespacedName,
            to: &Option<T>,
        ) {
            match to {
                Some(value) => map.insert(name, value.clone()),
                None => map.remove(&name),
            };
        }
        match step {
            Step::Service(number, to) => set(&mut cluster.services, service_name(*number), to),
            Step::Slice(number, to) => set(&mut cluster.slices, slice_name(*number), to),
            Step::Addresses(node) => {
                let zone = cluster.node.zone.take();
                cluster.node = Node {
                    zone,
                    ..node.clone()
                };
            }
            Step::Zone(zone) => cluster.node.zone.clone_from(zone),
            Step::Pass
            | Step::Crash(..)
            | Step::Fail(_)
            | Step::Heal
            | Step::Tamper(_)
            | Step::Audit => {}
        }
        cluster
    }
}

const SERVICES: u8 = 4;
const SLICES: u8 = 6;

/// Namespaces, whose objects have the same names, addresses and endpoints.
const TENANTS: u8 = 2;

fn name_of(kind: &str, number: u8) -> NamespacedName {
    let namespace = format!("tenant{}", number % TENANTS);
    NamespacedName::new(&namespace, &format!("{kind}{}", number / TENANTS))
}

pub(crate) fn service_name(number: u8) -> NamespacedName {
    name_of("s", number)
}

pub(crate) fn slice_name(number: u8) -> NamespacedName {
    name_of("slice", number)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(addresses: &[&str], node_ports_on: usize, serves_external_ips: bool) -> Node {
    let addresses: Vec<IpAddr> = addresses.iter().copied().map(ip).collect();
    Node {
        name: "n1".into(),
        zone: None,
        node_port_addresses: addresses.iter().copied().take(node_ports_on).collect(),
        own_addresses: addresses.iter().copied().take(2).collect(),
        addresses,
        networks: vec!["203.0.113.0/30".parse().unwrap()],
        serves_external_ips,
    }
}

fn addresses() -> impl Strategy<Value = Node> {
    let addresses = vec!["192.168.50.1", "fd50::1", "192.168.50.2", "203.0.113.1"];
    (subsequence(addresses, 0..4), 0usize..4, any::<bool>())
        .prop_map(|(addresses, count, external)| node(&addresses, count, external))
}

/// A port with one of few node ports, so that Services collide.
fn port(name: &'static str, protocol: Protocol, number: u16) -> impl Strategy<Value = ServicePort> {
    option::of(30_000u16..30_003).prop_map(move |node_port| ServicePort {
        name: name.into(),
        protocol,
        port: number,
        node_port,
    })
}

fn scope() -> impl Strategy<Value = Scope> {
    select(&[Scope::Cluster, Scope::Local][..])
}

/// A random subset of addresses.
fn some(of: &[&str]) -> impl Strategy<Value = Vec<IpAddr>> {
    let of: Vec<IpAddr> = of.iter().copied().map(ip).collect();
    let most = of.len();
    subsequence(of, 0..=most)
}

fn service() -> impl Strategy<Value = Service> {
    let ports = (
        option::weighted(0.8, port("http", Protocol::Tcp, 80)),
        option::of(port("dns", Protocol::Udp, 53)),
        option::of(port("alt", Protocol::Tcp, 81)),
    );
    let ranges: Vec<IpNet> = ["198.51.100.0/24", "0.0.0.0/0", "2001:db8::/32"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let addresses = (
        some(&["10.96.0.1", "10.96.0.2", "fd96::1"]),
        some(&["203.0.113.1", "192.168.50.2"]),
        some(&["203.0.113.2", "203.0.113.1", "fdcb::1"]),
    );
    let policy = (
        scope(),
        scope(),
        option::weighted(0.3, 1u32..3),
        option::weighted(0.3, subsequence(ranges, 0..=3)),
        option::weighted(0.2, 31_000u16..31_002),
    );
    (option::of(0i64..3), ports, addresses, policy).prop_map(
        |(created_s, ports, addresses, policy)| {
            let (cluster_ips, external_ips, load_balancer_ips) = addresses;
            let (external_policy, internal_policy, affinity_timeout_s, source_ranges, check) =
                policy;
            Service {
                name: service_name(0),
                created_s,
                ports: [ports.0, ports.1, ports.2].into_iter().flatten().collect(),
                cluster_ips,
                external_ips,
                load_balancer_ips,
                external_policy,
                internal_policy,
                affinity_timeout_s,
                source_ranges,
                health_check_node_port: check,
            }
        },
    )
}

/// An endpoint on the node that its address belongs to.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let hints = || subsequence(vec!["a".to_owned(), "b".to_owned()], 0..=2);
    let nodes = subsequence(vec!["n1".to_owned(), "n2".to_owned()], 0..=2);
    let is_ready = select(&[(true, true), (false, true), (false, false)][..]);
    (
        0u16..3,
        1u16..5,
        any::<bool>(),
        is_ready,
        any::<bool>(),
        hints(),
        nodes,
    )
        .prop_map(
            |(on, last, is_v6, (ready, serving), terminating, zone_hints, node_hints)| Endpoint {
                address: match is_v6 {
                    true => IpAddr::from([0xfd44, on, 0, 0, 0, 0, 0, last]),
                    false => IpAddr::from([10, 244, on as u8, last as u8]),
                },
                node: (on != 0).then(|| format!("n{on}")),
                ready,
                serving,
                terminating,
                zone_hints,
                node_hints,
            },
        )
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let ports = vec![
        ("http", Protocol::Tcp, 8080),
        ("http", Protocol::Tcp, 9090),
        ("dns", Protocol::Udp, 5353),
        ("alt", Protocol::Tcp, 8080),
        ("http", Protocol::Udp, 8080),
    ];
    (subsequence(ports, 1..4), vec(endpoint(), 0..5)).prop_map(|(ports, endpoints)| EndpointSlice {
        service: service_name(0),
        ports: ports
            .into_iter()
            .map(|(name, protocol, port)| EndpointPort {
                name: name.into(),
                protocol,
                port,
            })
            .collect(),
        endpoints,
        triggered: None,
    })
}
