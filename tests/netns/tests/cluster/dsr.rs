//! Direct server return on real sockets: what differs from SNAT. Behaviour that is the same with both is
//! in `paths.rs` and `services.rs`.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread::JoinHandle,
    time::Duration,
};

use crate::common::{
    BALANCER, BY_CHANCE, DSR, cluster_with, count, eventually, finish, headgate, names, on,
    on_node, pods_over_http, turn_offload_off,
};
use headgate_netns::{
    Cluster, Load, Netns, binary, connections, get, get_on, slices, udp, udp_exchange,
};

const ACCEPTING: &[&str] = &["--forwarding", "snat-accept-dsr"];
/// The UDP port of encapsulated packets.
const PORT: u16 = 6090;

#[test]
fn s67_xdp_forwards_packets_with_complete_checksums_by_dsr() {
    let Some(cluster) = cluster_with("dxdp", 2, 1, &[(2, 1)], DSR) else {
        return;
    };
    turn_offload_off(&cluster);
    let node = &cluster.nodes[0];
    for address in [on(node.v4, 30080), on(node.v6, 30080), on(BALANCER, 80)] {
        assert_eq!(
            pods_over_http(&cluster.client, address),
            names(&["web-2-1"])
        );
        let answer = cluster.client.run(move || get(address).unwrap());
        let client = answer.client.ip().to_string();
        assert!(
            ["192.168.50.100", "fd50::100"].contains(&client.as_str()),
            "{client}"
        );
    }
    // XDP left no packet to TC, except complete checksums that look partial by chance, and no reply came
    // back through this node.
    assert!(count(node, "encapsulated") > 100);
    assert!(count(node, "partial-checksum") <= BY_CHANCE);
    for reason in ["no-headroom", "to-client"] {
        assert_eq!(count(node, reason), 0, "{reason}");
    }
    let (_, table) = headgate(node, &["conntrack"]);
    assert!(table.contains("192.168.50.100"), "{table}");
    let (_, status) = headgate(node, &["status"]);
    assert!(
        status.contains("forwarding: dsr, to UDP port 6090"),
        "{status}"
    );
    let explain = [
        "explain",
        "192.168.50.100:4000",
        "tcp",
        "192.168.50.1:30080",
    ];
    let text = on_node(node, &explain).unwrap();
    for words in [
        "that node answers the client directly, so the whole packet goes there, encapsulated in a datagram to UDP port 6090",
        "encapsulated: ",
        "192.168.50.1:",
        " → 10.244.2.2:6090 udp",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
}

#[test]
fn s67_host_network_backend_of_another_node() {
    let Some(cluster) = cluster_with("dhost", 2, 0, &[], DSR) else {
        return;
    };
    let [one, two] = &cluster.nodes[..] else {
        unreachable!("two nodes")
    };
    let mut command = two.netns.command(binary("headgate-echo").unwrap(), None);
    command.args(["--name", "host", "--port", "9376"]);
    let _server = headgate_netns::Process::start(command, "ready").unwrap();
    let slice = slices(&[(2, 1)])
        .replace("10.244.2.2", &two.v4.to_string())
        .replace("fd44:2::2", &two.v6.to_string());
    cluster.write("slices.yaml", &slice).unwrap();
    for address in [IpAddr::from(one.v4), IpAddr::from(one.v6)] {
        eventually("the host's server answers", || {
            cluster.client.run(move || get(on(address, 30080)).is_ok())
        });
        let (answer, peer) = cluster.client.run(move || udp(on(address, 30007)).unwrap());
        assert_eq!((answer.pod.as_str(), peer), ("host", on(address, 30007)));
        let client = answer.client.ip().to_string();
        assert!(
            ["192.168.50.100", "fd50::100"].contains(&client.as_str()),
            "{client}"
        );
    }
}

/// A connection continues through every node at which the client's packets arrive.
#[test]
fn s67_established_connection_moves_to_another_node() {
    let Some(cluster) = cluster_with("dmove", 3, 1, &[(2, 1)], DSR) else {
        return;
    };
    let target = on(BALANCER, 80);
    let stream = cluster
        .client
        .run(move || TcpStream::connect(target).unwrap());
    let datagrams = cluster.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(on(BALANCER, 7)).unwrap();
        socket
    });
    // Node 2 is the node of the backend.
    for node in [0, 2, 1, 0] {
        let via = cluster.nodes[node].v4;
        let route = format!("route replace 203.0.113.0/24 via {via}");
        cluster.client.batch(&route).unwrap();
        for _ in 0..5 {
            assert_eq!(
                get_on(&stream).unwrap().pod,
                "web-2-1",
                "through node {}",
                node + 1
            );
            assert_eq!(udp_exchange(&datagrams).unwrap().pod, "web-2-1");
        }
    }
    for node in [0, 2] {
        assert!(count(&cluster.nodes[node], "encapsulated") > 0);
    }
    // After a reset by the client, the same client port can be used again.
    drop(stream);
    assert_eq!(pods_over_http(&cluster.client, target), names(&["web-2-1"]));
}

const BULK: u16 = 9400;

/// Reads everything from a client until its end, and sends the same bytes back.
fn serve_bulk(pod: &Netns) -> JoinHandle<()> {
    pod.spawn(|| {
        let listener = TcpListener::bind(("::", BULK)).unwrap();
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        }
    })
}

/// Sends 3 MB and asserts that the same bytes come back.
fn bulk(address: SocketAddr) {
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let mut stream = TcpStream::connect(address).unwrap();
    let timeout = Some(Duration::from_secs(20));
    stream.set_read_timeout(timeout).unwrap();
    stream.set_write_timeout(timeout).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(
        got == sent,
        "{} of {} bytes came back",
        got.len(),
        sent.len()
    );
}

fn large_transfers(cluster: &Cluster) {
    let ports = slices(&[(2, 1)]).replace("port: 9376", &format!("port: {BULK}"));
    let server = serve_bulk(&cluster.nodes[1].pods[0].netns);
    cluster.write("slices.yaml", &ports).unwrap();
    let (v4, v6) = (cluster.nodes[0].v4, cluster.nodes[0].v6);
    eventually("the agents apply the change", || {
        let (_, table) = headgate(&cluster.nodes[0], &["backends"]);
        let (_, other) = headgate(&cluster.nodes[1], &["backends"]);
        [table, other]
            .iter()
            .all(|table| table.contains(&format!("]:{BULK}")))
    });
    for address in [on(v4, 30080), on(v6, 30080)] {
        cluster.client.run(move || bulk(address));
    }
    server.join().unwrap();
    // The segment size offered to TCP clients leaves space for the outer header.
    assert_eq!(count(&cluster.nodes[0], "too-big"), 0);
}

#[test]
fn s69_large_transfers_in_both_directions() {
    let Some(cluster) = cluster_with("dbulk", 2, 1, &[(2, 1)], DSR) else {
        return;
    };
    large_transfers(&cluster);
}

/// Every packet has at most the size of a wire packet: none is merged on the path.
#[test]
fn s69_large_transfers_packet_by_packet() {
    let Some(cluster) = cluster_with("dwire", 2, 1, &[(2, 1)], DSR) else {
        return;
    };
    turn_offload_off(&cluster);
    large_transfers(&cluster);
    let node = &cluster.nodes[0];
    assert!(count(node, "encapsulated") > 4000);
    assert!(count(node, "partial-checksum") <= BY_CHANCE);
}

#[test]
fn s68_encapsulated_packets_for_unknown_backends_are_dropped_and_counted() {
    let Some(cluster) = cluster_with("dspoof", 2, 1, &[(2, 1)], DSR) else {
        return;
    };
    let [one, two] = &cluster.nodes[..] else {
        unreachable!("two nodes")
    };
    let route = format!("route add 10.244.2.0/24 via {}", two.v4);
    cluster.client.batch(&route).unwrap();
    let pod = IpAddr::from(two.pods[0].v4);
    // An encapsulated SYN from an outside address to a port that no Service uses.
    let mut packet = vec![1, 0];
    packet.extend(9376_u16.to_be_bytes());
    packet.extend([
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 8, 8, 8, 8, 192, 168, 50, 1,
    ]);
    packet.extend([
        0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
    ]);
    let send = |netns: &Netns| {
        let packet = packet.clone();
        netns.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(&packet, (pod, PORT)).unwrap();
        });
    };
    send(&cluster.client);
    eventually("it is dropped", || count(two, "encapsulated-unknown") == 1);
    // A pod may not send encapsulated packets: only nodes may.
    send(&one.pods[0].netns);
    eventually("it goes no further", || count(one, "spoofed") == 1);
    assert_eq!(count(two, "encapsulated-unknown"), 1);
}

/// A change from SNAT to DSR and back, node after node and under load, loses nothing.
#[test]
fn s67_forwarding_changes_without_a_loss() {
    let Some(mut cluster) = cluster_with("droll", 2, 1, &[(1, 1), (2, 1)], &[]) else {
        return;
    };
    let targets = [
        on(cluster.nodes[0].v4, 30080),
        on(cluster.nodes[1].v6, 30080),
    ];
    let kept: Vec<TcpStream> = (0..8)
        .map(|turn| {
            let target = targets[turn % 2];
            cluster
                .client
                .run(move || TcpStream::connect(target).unwrap())
        })
        .collect();
    let client = &cluster.client;
    // A low rate, so that new connections do not evict the kept ones from the table.
    let pause = Duration::from_millis(10);
    let load = targets.into_iter().fold(Load::new(), |load, target| {
        load.with(client, pause, connections(target))
    });
    for forwarding in [ACCEPTING, DSR, ACCEPTING, &[]] {
        for node in 0..2 {
            cluster.nodes[node]
                .agent
                .take()
                .unwrap()
                .terminate()
                .unwrap();
            cluster.start_agent_with(node, forwarding).unwrap();
        }
        for stream in &kept {
            get_on(stream).unwrap();
        }
    }
    finish(load);
}
