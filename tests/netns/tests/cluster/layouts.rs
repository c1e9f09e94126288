//! Services on nodes as network plugins make them.

use std::{collections::BTreeSet, net::IpAddr};

use crate::common::{
    CLUSTER_V4, CLUSTER_V6, count, eventually, headgate, names, on, pods_over_http, prefix,
    turn_offload_off,
};
use headgate_netns::{Cluster, Layout, Netns, SERVICE, rules::load_nftables, slices, udp};

/// How the agents of a test learn where endpoints are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NodeNames {
    Given,
    Missing,
}

/// Asks every kind of frontend from outside, from pods and from nodes, over both families.
fn services_work(name: &str, layout: Layout, node_names: NodeNames, options: &[&str]) {
    let Some(prefix) = prefix(name) else { return };
    let mut cluster = Cluster::laid_out(&prefix, 2, 1, layout).unwrap();
    // AWS's plugin sets it to loose: the way back of a pod's packets is another one.
    let filter = match layout {
        Layout::Rules => "2",
        _ => "1",
    };
    for node in &cluster.nodes {
        let filter = [("ipv4/conf/all/rp_filter", filter)];
        node.netns.sysctl(&filter).unwrap();
    }
    if layout == Layout::Rules {
        // So does the plugin: the mark of a connection that it has seen at the node's first card.
        let marks = "table ip vpc { chain prerouting {
            type filter hook prerouting priority mangle
            iifname \"eni*\" meta mark set ct mark and 0x80
        }
        }";
        for node in &cluster.nodes {
            load_nftables(&node.netns, marks).unwrap();
        }
    }
    let mut endpoints = slices(&[(1, 1), (2, 1)]);
    if node_names == NodeNames::Missing {
        let lines = endpoints.lines().filter(|line| !line.contains("nodeName"));
        endpoints = lines.collect::<Vec<&str>>().join("\n");
    }
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &endpoints).unwrap();
    for index in 0..2 {
        cluster.start_agent_with(index, options).unwrap();
    }
    let both = names(&["web-1-1", "web-2-1"]);
    let [n1, n2] = &cluster.nodes[..] else {
        panic!("two nodes")
    };
    let from_outside: [(IpAddr, u16, u16); 4] = [
        (n1.v4.into(), 30080, 30007),
        (n1.v6.into(), 30080, 30007),
        (n2.v4.into(), 30080, 30007),
        (n2.v6.into(), 30080, 30007),
    ];
    for (address, tcp, datagrams) in from_outside {
        let found = pods_over_http(&cluster.client, on(address, tcp));
        assert_eq!(found, both, "{layout:?}: {address} from outside");
        for _ in 0..4 {
            let answer = cluster.client.run(move || udp(on(address, datagrams)));
            let (_, peer) =
                answer.unwrap_or_else(|error| panic!("{layout:?} {address}: {error:#}"));
            assert_eq!(peer, on(address, datagrams));
        }
    }
    for address in [CLUSTER_V4, CLUSTER_V6] {
        // The threads of a test are outside of the cgroup, so these packets are translated at devices. One of the
        // endpoints is the pod itself.
        let found = pods_over_http(&n1.pods[0].netns, on(address, 80));
        assert_eq!(found, both, "{layout:?}: {address} from a pod");
    }
    let devices = attached(&headgate(n1, &["status"]).1);
    println!(
        "{layout:?}: {}",
        devices.into_iter().collect::<Vec<_>>().join(" ")
    );
    let (_, doctor) = headgate(n1, &["doctor"]);
    assert!(!doctor.contains("programs are missing"), "{doctor}");
}

/// The devices that `status` names.
fn attached(status: &str) -> BTreeSet<String> {
    let lines = status.lines().filter(|line| line.contains("hg_tc"));
    lines
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect()
}

const NONE: &[&str] = &[];
const XDP: &[&str] = &["--xdp", "always"];

#[test]
fn s165_services_work_by_host_routes_and_xdp() {
    services_work("lrtx", Layout::Routed, NodeNames::Given, XDP);
}

#[test]
fn s165_services_work_with_device_names_of_its_own_and_without_node_names() {
    services_work("lpl", Layout::Plain, NodeNames::Missing, NONE);
}

#[test]
fn s165_services_work_with_one_address_on_all_ends() {
    services_work("lpp", Layout::PointToPoint, NodeNames::Given, NONE);
}

#[test]
fn s165_services_work_behind_a_bridge() {
    services_work("lbr", Layout::Bridge, NodeNames::Given, NONE);
}

#[test]
fn s165_services_work_behind_a_bridge_over_vxlan() {
    services_work("lbv", Layout::BridgeVxlan, NodeNames::Given, NONE);
}

#[test]
fn s165_services_work_by_host_routes_over_vxlan() {
    services_work("lrv", Layout::RoutedVxlan, NodeNames::Missing, NONE);
}

#[test]
fn s165_services_work_over_a_private_card() {
    services_work("ltc", Layout::TwoCards, NodeNames::Given, NONE);
}

#[test]
fn s165_services_work_over_a_private_card_by_xdp() {
    services_work("ltcx", Layout::TwoCards, NodeNames::Given, XDP);
}

#[test]
fn s165_services_work_with_rules_for_each_pod() {
    services_work("lru", Layout::Rules, NodeNames::Given, NONE);
}

#[test]
fn s165_services_work_over_a_tunnel_without_link_headers() {
    services_work("ltu", Layout::Tunnel, NodeNames::Given, NONE);
}

#[test]
fn s177_services_work_on_addresses_of_a_vlan() {
    let Some(prefix) = prefix("vlan") else { return };
    let netns = Netns::new(&prefix).unwrap();
    let add = "link add eth0 type dummy\nlink add link eth0 name eth0.100 type vlan id 100";
    if netns.batch(add).is_err() {
        println!(
            "SKIPPED: s177_services_work_on_addresses_of_a_vlan: the kernel has no VLANs (8021q)"
        );
        return;
    }
    services_work("lvl", Layout::Vlan, NodeNames::Given, XDP);
}

#[test]
fn s176_xdp_sends_to_other_devices() {
    let Some(prefix) = prefix("xdev") else { return };
    let mut cluster = Cluster::laid_out(&prefix, 2, 1, Layout::TwoCards).unwrap();
    turn_offload_off(&cluster);
    cluster.write("web.yaml", SERVICE).unwrap();
    // Behind the second card.
    cluster.write("slices.yaml", &slices(&[(2, 1)])).unwrap();
    for index in 0..2 {
        cluster.start_agent_with(index, XDP).unwrap();
    }
    let node = &cluster.nodes[0];
    let (_, status) = headgate(node, &["status"]);
    for device in ["eth0: ", "eth1: "] {
        let mut lines = status.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(device)).unwrap();
        assert!(line.contains("hg_xdp_external"), "{line}");
    }
    let (v4, v6) = (node.v4, node.v6);
    let ask = || {
        for address in [on(v4, 30007), on(v6, 30007)] {
            let (answer, peer) = cluster.client.run(move || udp(address)).unwrap();
            assert_eq!((&*answer.pod, peer), ("web-2-1", address));
        }
    };
    // Neighbours are not known yet.
    eventually("the neighbours are known", || {
        let before = count(node, "no-neighbour");
        ask();
        count(node, "no-neighbour") == before
    });
    let before = count(node, "no-neighbour");
    for _ in 0..20 {
        ask();
    }
    let left = count(node, "no-neighbour") - before;
    // The kernel may ask for a neighbour again meanwhile.
    assert!(left < 10, "{left} of 80 packets were left to TC");
}
