//! Nodes that have more than a device to the outside and devices of pods.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::net::{TcpListener, TcpStream};

use common::{cluster_without_agents, headgate, names, on, pods_over_http};
use headgate_netns::{SERVICE, slices};

#[test]
fn s11_devices_that_lead_nowhere_are_not_taken_for_the_way_out() {
    let Some(mut cluster) = cluster_without_agents("lo", 2, 1) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster
        .write("slices.yaml", &slices(&[(1, 1), (2, 1)]))
        .unwrap();
    // The bridge comes before eth0 in every list.
    let more = "address add 198.51.100.7/32 dev lo\nlink add docker0 type bridge\n\
                address add 172.17.0.1/16 dev docker0\nlink set docker0 up\n\
                link add kube-ipvs0 type bridge\naddress add 10.96.0.77/32 dev kube-ipvs0";
    cluster.nodes[0].netns.batch(more).unwrap();
    for index in 0..2 {
        cluster.start_agent(index).unwrap();
    }
    let node = &cluster.nodes[0];
    let both = names(&["web-1-1", "web-2-1"]);
    assert_eq!(pods_over_http(&cluster.client, on(node.v4, 30080)), both);
    let to_itself = node.netns.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).map(drop)
    });
    assert!(to_itself.is_ok(), "{to_itself:?}");
    let (_, services) = headgate(node, &["services"]);
    assert!(services.contains("198.51.100.7:30080"), "{services}");
    assert!(!services.contains("10.96.0.77"), "{services}");
}
