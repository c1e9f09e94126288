//! Source ports and addresses that are used again, by real sockets.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd,
};

use crate::common::{cluster, eventually, names, on, pods_over_http};
use headgate_dataplane::netfilter::translated;
use headgate_netns::{Cluster, Netns, get, get_on, rules::load_nftables, slices};
use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket,
        sockopt::{ReuseAddr, SendTimeout, TcpRepair},
    },
    time::{TimeVal, TimeValLike},
};

/// The source port of the clients.
const PORT: u16 = 45_000;

/// A connection from that port; an error if it is not open within a second.
fn from_port(from: &Netns, to: SocketAddr) -> nix::Result<TcpStream> {
    let SocketAddr::V4(to) = to else {
        panic!("an IPv4 address")
    };
    from.run(move || {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        )?;
        setsockopt(&socket, ReuseAddr, &true)?;
        setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(500))?;
        let own = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
        bind(socket.as_raw_fd(), &SockaddrIn::from(own))?;
        connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
        Ok(TcpStream::from(socket))
    })
}

/// Ends a connection without a packet, as a client that loses power.
fn vanish(stream: TcpStream) {
    setsockopt(&stream, TcpRepair, &1).unwrap();
}

/// Another Service, with the pod that was an endpoint of `web`.
const OTHER: &str = "apiVersion: v1
kind: Service
metadata: {name: other}
spec:
  clusterIP: 10.96.0.99
  ports: [{port: 80, targetPort: 9376}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: other
  labels: {kubernetes.io/service-name: other}
addressType: IPv4
ports: [{port: 9376}]
endpoints:
- {addresses: [10.244.1.2], nodeName: n1, conditions: {ready: true}}
";

#[test]
fn s180_a_client_does_not_follow_an_address_to_another_service() {
    let Some(cluster) = cluster("reuse", 1, 2, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let address = on(node.v4, 30080);
    let first = from_port(&cluster.client, address).unwrap();
    assert_eq!(get_on(&first).unwrap().pod, "web-1-1");
    cluster.write("slices.yaml", &slices(&[(1, 2)])).unwrap();
    cluster.write("other.yaml", OTHER).unwrap();
    eventually("the endpoint is replaced", || {
        pods_over_http(&cluster.client, address) == names(&["web-1-2"])
    });
    let other = on([10, 96, 0, 99], 80);
    eventually("the other Service has the address", || {
        let answer = node.pods[1].netns.run(move || get(other));
        answer.is_ok_and(|answer| answer.pod == "web-1-1")
    });
    // The open connection stays with its pod.
    assert_eq!(get_on(&first).unwrap().pod, "web-1-1");
    vanish(first);
    eventually("the same port reaches the Service's own pod", || {
        let Ok(again) = from_port(&cluster.client, address) else {
            return false;
        };
        let answer = get_on(&again);
        let found = answer.map(|answer| answer.pod).unwrap_or_default();
        vanish(again);
        found == "web-1-2"
    });
}

/// Rules of a network plugin translate a second connection from the port of a first one, which the kernel does not track,
/// to the same pod. Then an agent takes over.
#[test]
fn s184_a_connection_of_rules_with_the_replies_of_ours_is_not_adopted() {
    let Some(mut cluster) = cluster("adopt", 1, 1, &[(1, 1)]) else {
        return;
    };
    let (v4, pod) = (cluster.nodes[0].v4, cluster.nodes[0].pods[0].v4);
    let first = from_port(&cluster.client, on(v4, 30080)).unwrap();
    assert_eq!(get_on(&first).unwrap().pod, "web-1-1");
    let host_port = format!(
        "add table ip plugin\n\
         add chain ip plugin prerouting {{ type nat hook prerouting priority -101 ; }}\n\
         add rule ip plugin prerouting tcp dport 8080 dnat to {pod}:9376\n"
    );
    load_nftables(&cluster.nodes[0].netns, &host_port).unwrap();
    // The pod would answer by its open connection, and the client reset that.
    let deaf = "add table ip deaf\n\
                add chain ip deaf input { type filter hook input priority 0 ; }\n\
                add rule ip deaf input tcp flags & (syn | ack) == syn drop\n";
    load_nftables(&cluster.nodes[0].pods[0].netns, deaf).unwrap();
    assert!(from_port(&cluster.client, on(v4, 8080)).is_err());
    let has_second = |cluster: &Cluster| {
        let list = cluster.nodes[0].netns.run(|| translated().unwrap());
        list.iter()
            .any(|one| one.original.destination_port.number() == 8080)
    };
    assert!(has_second(&cluster), "the kernel has it");
    cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    cluster.start_agent(0).unwrap();
    assert!(!has_second(&cluster), "the kernel has forgotten it");
    assert_eq!(get_on(&first).unwrap().pod, "web-1-1");
}
