//! Taking over from kube-proxy's rules and giving back to them, under load.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use headgate_netns::{
    Cluster, Load, Netns, Node, SERVICE, Talk, connection, connections, datagrams,
    rules::{Family, Service, iptables, load_iptables, load_nftables, nftables},
    slices, talk,
};

use crate::{
    ALL, Outcome,
    common::{CLUSTER_V4, CLUSTER_V6, cluster_without_agents, on, on_node},
    rounds,
};

/// Kept connections on each path and in each family: both together are enough to meet each pod, and the source ports of
/// others.
const KEPT: usize = 2;
/// Pause of a client that opens connections. All clients together open one each millisecond or two.
const NEW_PACE: Duration = Duration::from_millis(30);
/// Pause of a client with a kept connection. A connection that is lost stays lost, so that its client need not
/// ask often.
const KEPT_PACE: Duration = Duration::from_millis(50);
/// Pause of a client with a flow. All flows together send one datagram each millisecond.
const FLOW_PACE: Duration = Duration::from_millis(20);
/// Time with load between two changes of the rules.
const BETWEEN: Duration = Duration::from_millis(500);

/// The rules of kube-proxy for `web`, on a node.
type LoadRules = fn(&Node);

/// The services of both families.
fn services() -> Vec<Service> {
    let mut services = Vec::new();
    for cluster_ip in [CLUSTER_V4, CLUSTER_V6] {
        let endpoints = ALL.map(|(node, pod)| {
            let (node, host) = (u16::from(node), u16::from(pod) + 1);
            match cluster_ip {
                IpAddr::V4(_) => SocketAddr::from(([10, 244, node as u8, host as u8], 9376)),
                IpAddr::V6(_) => ([0xfd44, node, 0, 0, 0, 0, 0, host], 9376).into(),
            }
        });
        for (protocol, port, node_port) in [("tcp", 80, 30080), ("udp", 7, 30007)] {
            services.push(Service {
                name: format!("web-{protocol}"),
                address: cluster_ip,
                port,
                protocol,
                node_port: Some(node_port),
                endpoints: endpoints.to_vec(),
            });
        }
    }
    services
}

fn with_nftables(node: &Node) {
    for address in [node.v4.into(), node.v6.into()] {
        load_nftables(&node.netns, &nftables(&services(), address)).unwrap();
    }
}

fn with_iptables(node: &Node) {
    for family in [Family::V4, Family::V6] {
        load_iptables(&node.netns, family, &iptables(&services(), family)).unwrap();
    }
}

/// The load of the scenario: requests and datagrams.
#[derive(Default)]
struct Paths {
    requests: Load,
    datagrams: Load,
}

impl Paths {
    /// Adds clients that keep their connections and flows, and clients that open connections, from outside,
    /// from pods by packet and by socket, and from hosts.
    fn add(mut self, cluster: &Cluster) -> Self {
        let outside = &cluster.client;
        for node in &cluster.nodes {
            for address in [IpAddr::from(node.v4), node.v6.into()] {
                self = self.by_packet(outside, on(address, 30080), on(address, 30007));
            }
        }
        for (index, node) in cluster.nodes.iter().enumerate() {
            for address in [CLUSTER_V4, CLUSTER_V6] {
                self = self.by_packet(&node.pods[0].netns, on(address, 80), on(address, 7));
            }
            // A socket that is connected directly to a pod may have the ports of a connection by packet, which
            // the other pod therefore makes. Each client is a process, so each has one family.
            let [first, second] = match index % 2 {
                0 => [CLUSTER_V4, CLUSTER_V6],
                _ => [CLUSTER_V6, CLUSTER_V4],
            };
            self = self.by_socket(&node.pods[1].netns, node, first);
            self = self.by_socket(&node.netns, node, second);
        }
        self
    }

    fn by_packet(mut self, from: &Netns, http: SocketAddr, echo: SocketAddr) -> Self {
        for _ in 0..KEPT {
            self.requests = self.requests.with(from, KEPT_PACE, connection(http));
            self.datagrams = self.datagrams.with(from, FLOW_PACE, datagrams(echo));
        }
        self.requests = self.requests.with(from, NEW_PACE, connections(http));
        self
    }

    fn by_socket(mut self, from: &Netns, node: &Node, address: IpAddr) -> Self {
        let (http, echo) = (on(address, 80), on(address, 7));
        for is_kept in [true, false] {
            let client = Talk::start_tcp(from, &node.cgroup, is_kept.then_some(http)).unwrap();
            let pace = if is_kept { KEPT_PACE } else { NEW_PACE };
            self.requests = self.requests.with(from, pace, talk(client, http, is_kept));
        }
        let client = Talk::start(from, &node.cgroup, Some(echo)).unwrap();
        self.datagrams = self
            .datagrams
            .with(from, FLOW_PACE, talk(client, echo, true));
        self
    }

    fn finish(self) -> Outcome {
        let sum = |load: Load| load.finish().into_iter().sum();
        Outcome {
            requests: sum(self.requests),
            datagrams: sum(self.datagrams),
        }
    }
}

fn wait() {
    std::thread::sleep(BETWEEN);
}

/// Takes over from the rules and gives back to them, again and again.
fn scenario(name: &str, title: &str, load_rules: LoadRules) {
    let rounds = rounds(2).div_ceil(2);
    let Some(mut cluster) = cluster_without_agents(name, 2, 2) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&ALL)).unwrap();
    cluster.nodes.iter().for_each(load_rules);
    let mut paths = Paths::default().add(&cluster);
    for round in 0..rounds {
        wait();
        for index in 0..2 {
            cluster.start_agent(index).unwrap();
        }
        wait();
        for node in &cluster.nodes {
            let text = on_node(node, &["replace-kube-proxy", "--yes"]).unwrap();
            assert!(text.contains("removed "), "{text}");
        }
        wait();
        if round == 0 {
            // Clients of our own connections, which are given back.
            paths = paths.add(&cluster);
        }
        wait();
        cluster.nodes.iter().for_each(load_rules);
        wait();
        for index in 0..2 {
            cluster.nodes[index]
                .agent
                .take()
                .unwrap()
                .terminate()
                .unwrap();
        }
        for node in &cluster.nodes {
            let text = on_node(node, &["cleanup"]).unwrap();
            assert!(text.contains("to kube-proxy's rules"), "{text}");
        }
    }
    wait();
    let outcome = paths.finish();
    outcome.report(
        title,
        rounds,
        "attached, rules removed, rules back, detached",
    );
}

#[test]
fn s125_fault_taking_over_from_nftables_and_back() {
    scenario(
        "ftakenf",
        "taking over from nftables, and back",
        with_nftables,
    );
}

#[test]
fn s125_fault_taking_over_from_iptables_and_back() {
    scenario(
        "ftakeip",
        "taking over from iptables, and back",
        with_iptables,
    );
}
