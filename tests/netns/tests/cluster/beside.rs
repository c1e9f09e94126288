//! Rules of others on the node: they see what they must.

use std::{net::TcpStream, time::Duration};

use crate::common::{BALANCER, CLUSTER_V4, cluster, names, on, pods_over_http};
use headgate_netns::{Netns, get, rules::load_nftables};

/// Whether a connection opens within a second.
fn opens(from: &Netns, address: std::net::SocketAddr) -> bool {
    from.run(move || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}

/// A network policy as plugins write it: a pod accepts packets of some sources. A client reaches a pod of the node
/// that it uses with its own address, whatever the frontend.
#[test]
fn s170_policies_for_pods_of_the_node_see_the_client() {
    let Some(cluster) = cluster("pol", 1, 2, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let [pod, other] = &node.pods[..] else {
        panic!("two pods")
    };
    let frontends = [on(node.v4, 30080), on(BALANCER, 80)];
    load_nftables(
        &node.netns,
        &format!(
            "table inet np {{
                chain forward {{
                    type filter hook forward priority filter; policy accept;
                    ip daddr {0} ip saddr != {1} ct direction original drop
                }}
            }}",
            pod.v4, other.v4
        ),
    )
    .unwrap();
    for frontend in frontends {
        assert!(!opens(&cluster.client, frontend), "{frontend}");
        assert!(opens(&other.netns, frontend), "{frontend}");
    }
    assert!(opens(&other.netns, on(CLUSTER_V4, 80)));
    load_nftables(&node.netns, "flush table inet np").unwrap();
    for frontend in frontends {
        let found = pods_over_http(&cluster.client, frontend);
        assert_eq!(found, names(&["web-1-1"]));
    }
}

/// Rules as of the plugins `portmap` (a host port) and `ip-masq` (packets of pods to other networks).
#[test]
fn s171_host_ports_and_masquerading_of_network_plugins_work() {
    let Some(cluster) = cluster("hostp", 1, 2, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let [pod, other] = &node.pods[..] else {
        panic!("two pods")
    };
    load_nftables(
        &node.netns,
        &format!(
            "table ip plugins {{
                chain prerouting {{
                    type nat hook prerouting priority dstnat;
                    tcp dport 8080 fib daddr type local dnat to {0}:9376
                }}
                chain output {{
                    type nat hook output priority -100;
                    tcp dport 8080 fib daddr type local dnat to {0}:9376
                }}
                chain postrouting {{
                    type nat hook postrouting priority srcnat;
                    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
                }}
            }}",
            other.v4
        ),
    )
    .unwrap();
    let v4 = node.v4;
    let answer = |from: &Netns, address| from.run(move || get(address).unwrap());
    // The host port, from outside and from a pod, and a node port beside it.
    for from in [&cluster.client, &pod.netns] {
        let found = answer(from, on(v4, 8080));
        assert_eq!(found.pod, "web-1-2", "{}", from.name());
    }
    assert_eq!(answer(&cluster.client, on(v4, 30080)).pod, "web-1-1");
    // A pod's own connection to the world carries the node's address, one to a Service its own.
    let outside = cluster
        .client
        .run(|| std::net::TcpListener::bind("192.168.50.100:7000").unwrap());
    assert!(opens(&pod.netns, on([192, 168, 50, 100], 7000)));
    let (_, peer) = outside.accept().unwrap();
    assert_eq!(peer.ip(), v4);
    let found = answer(&other.netns, on(CLUSTER_V4, 80));
    assert_eq!(found.client.ip(), other.v4);
}

/// A firewall that accepts what it knows and some ports, and drops the rest, as firewalld does with the network of the
/// pods in its trusted zone.
#[test]
fn s172_firewall_with_trusted_pods_serves_node_ports() {
    let Some(cluster) = cluster("fwd", 2, 1, &[(1, 1), (2, 1)]) else {
        return;
    };
    for node in &cluster.nodes {
        load_nftables(
            &node.netns,
            "table inet guard {
                chain input {
                    type filter hook input priority filter + 10; policy drop;
                    ct state { established, related } accept
                    iif lo accept
                    ip saddr 10.244.0.0/16 accept
                    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                    tcp dport 22 accept
                }
                chain forward {
                    type filter hook forward priority filter + 10; policy drop;
                    ct state { established, related } accept
                    ip saddr 10.244.0.0/16 accept
                    ip daddr 10.244.0.0/16 accept
                }
            }",
        )
        .unwrap();
    }
    let both = names(&["web-1-1", "web-2-1"]);
    let node = &cluster.nodes[0];
    for address in [on(node.v4, 30080), on(BALANCER, 80)] {
        assert_eq!(pods_over_http(&cluster.client, address), both, "{address}");
    }
    let found = pods_over_http(&node.pods[0].netns, on(CLUSTER_V4, 80));
    assert_eq!(found, both);
}
