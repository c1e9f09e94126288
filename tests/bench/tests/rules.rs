//! The nftables and iptables rules of the benchmarks load, and balance and masquerade as kube-proxy's do.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use headgate_bench::{
    Family, Service, iptables, load_iptables, load_nftables, manifests, nftables,
};
use headgate_netns::{Cluster, Netns, get, udp};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The client outside of the cluster.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 50, 100));
const REQUESTS: usize = 60;

/// Services for HTTP and datagrams of three pods, amid services without clients.
fn services() -> Vec<Service> {
    let endpoint = |node, pod: u8| ([10, 244, node, pod + 1], 9376).into();
    let web = |protocol, port, node_port| Service {
        name: format!("web-{protocol}"),
        address: CLUSTER_IP.into(),
        port,
        protocol,
        node_port: Some(node_port),
        endpoints: vec![endpoint(1, 1), endpoint(1, 2), endpoint(2, 1)],
    };
    let mut services: Vec<Service> = (0..300).map(Service::filler).collect();
    services[150] = web("tcp", 80, 30080);
    services[151] = web("udp", 7, 30007);
    services
}

/// A cluster of two nodes; `None` without root.
fn cluster(name: &str) -> Option<Cluster> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: {name}: network namespaces need root");
        return None;
    }
    let prefix = format!("hg{}{name}", std::process::id() % 10_000);
    Some(Cluster::new(&prefix, 2, 2).unwrap())
}

/// Asserts that every pod answers over each path, and that connections from outside are masqueraded.
fn check(cluster: &Cluster, masquerades: bool) {
    let node = &cluster.nodes[0];
    let tally =
        |from: &Netns, address: SocketAddr, send: fn(SocketAddr) -> (String, SocketAddr)| {
            from.run(move || {
                let mut pods = BTreeMap::new();
                for _ in 0..REQUESTS {
                    let (pod, client) = send(address);
                    pods.entry(pod).or_insert_with(Vec::new).push(client.ip());
                }
                pods
            })
        };
    let http = |address| {
        let answer = get(address).unwrap();
        (answer.pod, answer.client)
    };
    let datagram = |address| {
        let (answer, _) = udp(address).unwrap();
        (answer.pod, answer.client)
    };
    for (from, address, http_port, udp_port) in [
        (&cluster.client, node.v4, 30080, 30007),
        (&node.pods[1].netns, CLUSTER_IP, 80, 7),
    ] {
        for pods in [
            tally(from, SocketAddr::from((address, http_port)), http),
            tally(from, SocketAddr::from((address, udp_port)), datagram),
        ] {
            let names: Vec<&str> = pods.keys().map(String::as_str).collect();
            assert_eq!(names, ["web-1-1", "web-1-2", "web-2-1"], "{address}");
            for (pod, clients) in &pods {
                // A third of 60 requests, with random variation.
                assert!(
                    (5..=40).contains(&clients.len()),
                    "{pod}: {}",
                    clients.len()
                );
                // Masquerading uses the address of the device towards the pod.
                let is_hidden = masquerades && address == node.v4;
                assert!(!is_hidden || !clients.contains(&CLIENT), "{clients:?}");
            }
        }
    }
}

#[test]
fn nftables_balances_and_masquerades() {
    let Some(cluster) = cluster("nf") else { return };
    let node = &cluster.nodes[0];
    load_nftables(&node.netns, &nftables(&services(), node.v4.into())).unwrap();
    check(&cluster, true);
}

#[test]
fn iptables_balances_and_masquerades() {
    let Some(cluster) = cluster("ip") else { return };
    let rules = iptables(&services(), Family::V4);
    load_iptables(&cluster.nodes[0].netns, Family::V4, &rules).unwrap();
    check(&cluster, true);
}

#[test]
fn headgate_serves_the_same_services() {
    let Some(mut cluster) = cluster("hg") else {
        return;
    };
    cluster
        .write("services.yaml", &manifests(&services()))
        .unwrap();
    cluster.start_agent(0).unwrap();
    check(&cluster, false);
}
