//! Behaviours of the Service API on real sockets.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::common::{
    BALANCER, CLUSTER_V4, CLUSTER_V6, DSR, SNAT, cluster, cluster_with, cluster_without_agents,
    curl, eventually, headgate, names, on, pods_over_http,
};
use headgate_abi::Reason;
use headgate_dataplane::{DatapathConfig, MapSizes, Maps, load, pin_folder};
use headgate_netns::{
    Cluster, Netns, SERVICE, Talk, binary, get, get_on, http, slices, udp, udp_connected,
    udp_exchange, udp_of_length,
};
use nix::sys::{
    signal::Signal,
    socket::{setsockopt, sockopt},
};

/// The example Service with one more line in its spec.
fn service_with(line: &str) -> String {
    SERVICE.replace(
        "  type: LoadBalancer\n",
        &format!("  type: LoadBalancer\n  {line}\n"),
    )
}

/// Writes the Service and waits until every agent logs that it programmed it.
fn write_service(cluster: &Cluster, text: &str) {
    let passes = |cluster: &Cluster| -> Vec<usize> {
        let agents = cluster.nodes.iter().filter_map(|node| node.agent.as_ref());
        agents
            .map(|agent| agent.log().matches("programmed").count())
            .collect()
    };
    // The first pass is logged about when the agent is ready, perhaps later.
    eventually("the first pass is logged", || {
        passes(cluster).iter().all(|count| *count > 0)
    });
    let before = passes(cluster);
    cluster.write("web.yaml", text).unwrap();
    eventually("the agents apply the change", || {
        let now = passes(cluster);
        now.iter().zip(&before).all(|(now, before)| now > before)
    });
}

pub(crate) fn http_answers(from: &Netns, address: SocketAddr) -> bool {
    from.run(move || get(address).is_ok())
}

fn error_of<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// The errors of `get` if packets are dropped.
const SILENCE: [ErrorKind; 2] = [ErrorKind::TimedOut, ErrorKind::WouldBlock];

fn is_silent(from: &Netns, address: SocketAddr) -> bool {
    let error = from.run(move || error_of(get(address)));
    error.is_some_and(|kind| SILENCE.contains(&kind))
}

pub(crate) fn is_refused(from: &Netns, address: SocketAddr) -> bool {
    from.run(move || error_of(get(address))) == Some(ErrorKind::ConnectionRefused)
}

#[test]
fn s10_node_ports_on_the_chosen_addresses() {
    let Some(mut cluster) = cluster_without_agents("s10", 1, 1) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    let range = ["--nodeport-addresses", "192.168.50.0/24"];
    cluster.start_agent_with(0, &range).unwrap();
    let second = "192.168.50.77".parse::<IpAddr>().unwrap();
    {
        let node = &cluster.nodes[0];
        assert!(http_answers(&cluster.client, on(node.v4, 30080)));
        assert!(
            is_refused(&cluster.client, on(node.v6, 30080)),
            "not in the range"
        );
        assert!(curl(&node.netns, &node.cgroup, "http://127.0.0.1:30080/").is_err());
        node.netns
            .batch("address add 192.168.50.77/24 dev eth0")
            .unwrap();
        eventually("the new address answers", || {
            http_answers(&cluster.client, on(second, 30080))
        });
        node.netns
            .batch("address del 192.168.50.77/24 dev eth0")
            .unwrap();
        eventually("the old address does not", || {
            headgate(node, &["services"]).1.matches(":30080").count() == 1
        });
        node.netns
            .batch("address add 192.168.50.77/24 dev eth0")
            .unwrap();
    }
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    cluster
        .start_agent_with(0, &["--nodeport-addresses", "primary"])
        .unwrap();
    let node = &cluster.nodes[0];
    assert!(http_answers(&cluster.client, on(node.v4, 30080)));
    assert!(http_answers(&cluster.client, on(node.v6, 30080)));
    assert!(
        is_refused(&cluster.client, on(second, 30080)),
        "the second of its family"
    );
}

#[test]
fn s11_s20_node_port_of_any_node_from_pods_and_hosts() {
    node_port_of_any_node_from_pods_and_hosts("s11", SNAT);
}

#[test]
fn s11_s20_s67_node_port_of_any_node_from_pods_and_hosts_by_dsr() {
    node_port_of_any_node_from_pods_and_hosts("d11", DSR);
}

fn node_port_of_any_node_from_pods_and_hosts(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 1, &[(1, 1), (2, 1)], forwarding) else {
        return;
    };
    let both = names(&["web-1-1", "web-2-1"]);
    let [one, two] = &cluster.nodes[..] else {
        unreachable!("two nodes")
    };
    for address in [IpAddr::from(two.v4), IpAddr::from(two.v6)] {
        // Packets of pods and of the node itself to the address of another node.
        assert_eq!(pods_over_http(&one.pods[0].netns, on(address, 30080)), both);
        assert_eq!(pods_over_http(&one.netns, on(address, 30080)), both);
    }
    for address in [IpAddr::from(one.v4), IpAddr::from(one.v6)] {
        assert_eq!(pods_over_http(&one.pods[0].netns, on(address, 30080)), both);
    }
}

#[test]
fn s13_source_ranges_of_the_load_balancer() {
    let Some(cluster) = cluster("s13", 1, 2, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let balancer = on(BALANCER, 80);
    let ranges = |ranges: &str| service_with(&format!("loadBalancerSourceRanges: [{ranges}]"));
    write_service(&cluster, &ranges("192.168.50.100/32, 10.244.1.3/32"));
    assert!(http_answers(&cluster.client, balancer));
    assert!(
        is_silent(&node.pods[0].netns, balancer),
        "a pod that is not named"
    );
    assert!(http_answers(&node.pods[1].netns, balancer));
    assert!(curl(&node.pods[0].netns, &node.cgroup, "http://203.0.113.10/").is_err());
    assert!(curl(&node.pods[1].netns, &node.cgroup, "http://203.0.113.10/").is_ok());
    // EPERM, at once.
    assert_eq!(
        curl(&node.netns, &node.cgroup, "http://203.0.113.10/"),
        Err(7)
    );
    write_service(&cluster, &ranges("198.51.100.0/24, 192.168.50.1/32"));
    assert!(is_silent(&cluster.client, balancer));
    assert!(
        http_answers(&cluster.client, on(node.v4, 30080)),
        "node ports are not meant"
    );
    assert!(
        http_answers(&node.pods[0].netns, on(CLUSTER_V4, 80)),
        "nor cluster IPs"
    );
    assert!(curl(&node.netns, &node.cgroup, "http://203.0.113.10/").is_ok());
    let (_, status) = headgate(node, &["status"]);
    assert!(status.contains("source-range"), "{status}");
    write_service(&cluster, SERVICE);
    assert!(http_answers(&cluster.client, balancer));
}

#[test]
fn s16_unused_ports_of_service_addresses_are_refused() {
    let Some(cluster) = cluster("s16", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let route = format!("route add 10.96.0.0/16 via {}", node.v4);
    cluster.client.batch(&route).unwrap();
    for address in [BALANCER, CLUSTER_V4] {
        assert!(is_refused(&cluster.client, on(address, 81)), "{address}");
        assert!(
            is_refused(&node.pods[0].netns, on(address, 81)),
            "{address} from a pod"
        );
        let error = cluster
            .client
            .run(move || error_of(udp_connected(on(address, 81))));
        assert_eq!(
            error,
            Some(ErrorKind::ConnectionRefused),
            "{address} over UDP"
        );
        let url = format!("http://{address}:81/");
        assert_eq!(curl(&node.pods[0].netns, &node.cgroup, &url), Err(7));
    }
    assert!(is_refused(&node.pods[0].netns, on(CLUSTER_V6, 81)));
}

#[test]
fn s116_unused_addresses_of_the_service_range_are_refused() {
    let ranges = ["--service-cidrs", "10.96.0.0/16,fd96::/108"];
    let Some(cluster) = cluster_with("s116", 1, 1, &[(1, 1)], &ranges) else {
        return;
    };
    let node = &cluster.nodes[0];
    let pod = &node.pods[0].netns;
    let routes = format!(
        "route add 10.96.0.0/16 via {}\nroute add 10.97.0.0/16 via {}",
        node.v4, node.v4
    );
    cluster.client.batch(&routes).unwrap();
    let unused: IpAddr = [10, 96, 9, 9].into();
    let unused_v6: IpAddr = "fd96::999".parse().unwrap();
    eventually("the range is written", || {
        is_refused(&cluster.client, on(unused, 80))
    });
    assert!(is_refused(pod, on(unused, 80)));
    assert!(is_refused(pod, on(unused_v6, 80)));
    let url = "http://10.96.9.9/";
    assert_eq!(curl(pod, &node.cgroup, url), Err(7), "at the socket");
    assert!(http_answers(&cluster.client, on(CLUSTER_V4, 80)));
    // Outside of the range the kernel decides: it has no route.
    let outside: IpAddr = [10, 97, 9, 9].into();
    assert!(!is_refused(&cluster.client, on(outside, 80)));
}

#[test]
fn s18_host_port_in_the_range_of_node_ports_is_left_alone() {
    let Some(cluster) = cluster("s18", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let mut command = node.netns.command(binary("headgate-echo").unwrap(), None);
    command.args(["--name", "host-port", "--port", "30999"]);
    let _server = headgate_netns::Process::start(command, "ready").unwrap();
    for address in [IpAddr::from(node.v4), IpAddr::from(node.v6)] {
        let answer = cluster.client.run(move || get(on(address, 30999)).unwrap());
        assert_eq!(answer.pod, "host-port");
    }
}

#[test]
fn s21_local_policy_keeps_the_client_and_drops_without_local_pods() {
    let Some(cluster) = cluster("s21", 2, 1, &[(1, 1)]) else {
        return;
    };
    write_service(&cluster, &service_with("externalTrafficPolicy: Local"));
    let [one, two] = &cluster.nodes[..] else {
        unreachable!("two nodes")
    };
    for address in [IpAddr::from(one.v4), IpAddr::from(one.v6)] {
        let answer = cluster.client.run(move || get(on(address, 30080)).unwrap());
        let client = answer.client.ip().to_string();
        assert!(
            client == "192.168.50.100" || client == "fd50::100",
            "{client}"
        );
    }
    assert!(
        is_silent(&cluster.client, on(two.v4, 30080)),
        "dropped, not refused"
    );
    // For clients inside the cluster all endpoints count.
    assert!(http_answers(&two.pods[0].netns, on(two.v4, 30080)));
    let url = format!("http://{}:30080/", two.v4);
    assert!(curl(&two.pods[0].netns, &two.cgroup, &url).is_ok());
    assert!(curl(&two.netns, &two.cgroup, "http://203.0.113.10/").is_ok());
}

#[test]
fn s22_health_check_node_port_answers_for_the_node() {
    let Some(cluster) = cluster("s22", 2, 1, &[(1, 1)]) else {
        return;
    };
    let lines = "externalTrafficPolicy: Local\n  healthCheckNodePort: 30998";
    write_service(&cluster, &service_with(lines));
    let ask = |node: usize| {
        let address = on(cluster.nodes[node].v4, 30998);
        cluster.client.run(move || http(address, "/"))
    };
    eventually("the port answers", || ask(0).is_ok() && ask(1).is_ok());
    let (code, text) = ask(0).unwrap();
    assert_eq!(code, 200);
    assert!(
        text.to_lowercase()
            .contains("x-load-balancing-endpoint-weight: 1\r\n"),
        "{text}"
    );
    let body: serde_json::Value =
        serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let expected = serde_json::json!({
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 1,
        "serviceProxyHealthy": true,
    });
    assert_eq!(body, expected);
    assert_eq!(ask(1).unwrap().0, 503, "no endpoint on this node");
    let taint = "kind: Node\napiVersion: v1\nmetadata: {name: n1}\n\
                 spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}";
    cluster.write("node.yaml", taint).unwrap();
    eventually("the node is leaving", || {
        ask(0).is_ok_and(|(code, _)| code == 503)
    });
    write_service(&cluster, SERVICE);
    eventually("the port is free again", || {
        error_of(ask(0)) == Some(ErrorKind::ConnectionRefused)
    });
}

#[test]
fn s23_internal_local_policy() {
    let Some(cluster) = cluster("s23", 2, 1, &[(1, 1)]) else {
        return;
    };
    write_service(&cluster, &service_with("internalTrafficPolicy: Local"));
    let [one, two] = &cluster.nodes[..] else {
        unreachable!("two nodes")
    };
    for address in [CLUSTER_V4, CLUSTER_V6] {
        assert!(http_answers(&one.pods[0].netns, on(address, 80)));
        assert!(
            is_silent(&two.pods[0].netns, on(address, 80)),
            "dropped, not refused"
        );
    }
    assert!(curl(&one.pods[0].netns, &one.cgroup, "http://10.96.0.10/").is_ok());
    assert!(curl(&two.pods[0].netns, &two.cgroup, "http://10.96.0.10/").is_err());
    assert!(
        http_answers(&cluster.client, on(two.v4, 30080)),
        "from outside all count"
    );
}

#[test]
fn s24_session_affinity() {
    session_affinity("s24", SNAT);
}

#[test]
fn s24_s67_session_affinity_by_dsr() {
    session_affinity("d24", DSR);
}

fn session_affinity(name: &str, forwarding: &[&str]) {
    let Some(mut cluster) = cluster_with(name, 2, 2, &[(1, 1), (1, 2), (2, 1), (2, 2)], forwarding)
    else {
        return;
    };
    write_service(&cluster, &service_with("sessionAffinity: ClientIP"));
    let addresses = [
        IpAddr::from(cluster.nodes[0].v4),
        cluster.nodes[0].v6.into(),
    ];
    let from_outside = |cluster: &Cluster| -> Vec<BTreeSet<String>> {
        let http = addresses.map(|address| pods_over_http(&cluster.client, on(address, 30080)));
        let udp = addresses.map(|address| {
            let ask = move || {
                (0..20)
                    .map(|_| udp(on(address, 30007)).unwrap().0.pod)
                    .collect()
            };
            cluster.client.run(ask)
        });
        http.into_iter().chain(udp).collect()
    };
    let first = from_outside(&cluster);
    assert!(first.iter().all(|pods| pods.len() == 1), "{first:?}");
    let pod = &cluster.nodes[0].pods[0];
    let [v4, v6] = [CLUSTER_V4, CLUSTER_V6].map(|ip| pods_over_http(&pod.netns, on(ip, 80)));
    assert_eq!((v4.len(), v6.len()), (1, 1), "a pod is one client");
    let by_socket: BTreeSet<String> = (0..20)
        .map(|_| curl(&pod.netns, &cluster.nodes[0].cgroup, "http://10.96.0.10/").unwrap())
        .map(|text| {
            text.split('"')
                .find(|word| word.starts_with("web-"))
                .unwrap()
                .into()
        })
        .collect();
    assert_eq!(by_socket.len(), 1, "a pod is one client at its socket, too");
    let (_, table) = headgate(
        &cluster.nodes[0],
        &["affinity", "--address", "192.168.50.100"],
    );
    assert!(
        table.contains("default/web") && !table.contains("netns"),
        "{table}"
    );
    // Affinity survives a killed agent, and other endpoints that leave.
    cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    cluster.start_agent_with(0, forwarding).unwrap();
    assert_eq!(from_outside(&cluster), first);
    let all = [(1, 1), (1, 2), (2, 1), (2, 2)];
    let kept = first[0].first().unwrap().clone();
    let name = |(node, pod): &(u8, u8)| format!("web-{node}-{pod}");
    let other = all
        .iter()
        .find(|pod| first.iter().all(|pods| !pods.contains(&name(pod))));
    if let Some(other) = other {
        let rest: Vec<(u8, u8)> = all.iter().filter(|pod| *pod != other).copied().collect();
        cluster.write("slices.yaml", &slices(&rest)).unwrap();
        eventually("an endpoint leaves", || {
            !headgate(&cluster.nodes[0], &["backends"])
                .1
                .contains(&format!("10.244.{}.{}:", other.0, other.1 + 1))
        });
        assert_eq!(from_outside(&cluster), first);
    }
    let rest: Vec<(u8, u8)> = all
        .iter()
        .filter(|pod| name(pod) != kept)
        .copied()
        .collect();
    cluster.write("slices.yaml", &slices(&rest)).unwrap();
    eventually("a backend that left is replaced", || {
        let now = pods_over_http(&cluster.client, on(addresses[0], 30080));
        now.len() == 1 && !now.contains(&kept)
    });
    write_service(&cluster, SERVICE);
    assert!(
        pods_over_http(&cluster.client, on(addresses[0], 30080)).len() > 1,
        "off"
    );
}

#[test]
fn s33_established_connections_outlive_their_endpoint() {
    established_connections_outlive_their_endpoint("s33", SNAT);
}

#[test]
fn s33_s67_established_connections_outlive_their_endpoint_by_dsr() {
    established_connections_outlive_their_endpoint("d33", DSR);
}

fn established_connections_outlive_their_endpoint(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 1, &[(1, 1)], forwarding) else {
        return;
    };
    let target = on(cluster.nodes[0].v4, 30080);
    let inside = on(CLUSTER_V4, 80);
    let open = |netns: &Netns, address| netns.run(move || TcpStream::connect(address).unwrap());
    let outside = open(&cluster.client, target);
    let pod = open(&cluster.nodes[1].pods[0].netns, inside);
    for stream in [&outside, &pod] {
        assert_eq!(get_on(stream).unwrap().pod, "web-1-1");
    }
    let terminating = slices(&[(1, 1)]).replace(
        "conditions: {ready: true}",
        "conditions: {ready: false, serving: true, terminating: true}",
    );
    for next in [
        terminating + &slices(&[(2, 1)]).replace("name: web-", "name: more-"),
        slices(&[(2, 1)]),
    ] {
        cluster.write("slices.yaml", &next).unwrap();
        eventually("new connections go elsewhere", || {
            pods_over_http(&cluster.client, target) == names(&["web-2-1"])
        });
        for stream in [&outside, &pod] {
            assert_eq!(get_on(stream).unwrap().pod, "web-1-1");
        }
    }
}

/// A connected UDP socket in a namespace.
fn udp_socket(netns: &Netns, address: SocketAddr) -> UdpSocket {
    netns.run(move || {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(address).unwrap();
        socket
    })
}

#[test]
fn s34_udp_moves_when_its_endpoint_goes() {
    udp_moves_when_its_endpoint_goes("s34", SNAT);
}

#[test]
fn s34_s67_udp_moves_when_its_endpoint_goes_by_dsr() {
    udp_moves_when_its_endpoint_goes("d34", DSR);
}

fn udp_moves_when_its_endpoint_goes(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 1, &[(1, 1)], forwarding) else {
        return;
    };
    let node = &cluster.nodes[0];
    let packets: Vec<UdpSocket> = vec![
        udp_socket(&cluster.client, on(node.v4, 30007)),
        udp_socket(&cluster.client, on(node.v6, 30007)),
        udp_socket(&node.pods[0].netns, on(CLUSTER_V4, 7)),
    ];
    for socket in &packets {
        assert_eq!(udp_exchange(socket).unwrap().pod, "web-1-1");
    }
    let other = &cluster.nodes[1];
    let connected = on(CLUSTER_V4, 7);
    let mut talk = Talk::start(&other.pods[0].netns, &other.cgroup, Some(connected)).unwrap();
    assert!(talk.to(connected).unwrap().starts_with("web-1-1 "));
    cluster.write("slices.yaml", &slices(&[(2, 1)])).unwrap();
    for socket in &packets {
        eventually("the same socket reaches the other pod", || {
            udp_exchange(socket).is_ok_and(|answer| answer.pod == "web-2-1")
        });
    }
    eventually("a connected socket gets an error", || {
        talk.to(connected).unwrap().starts_with("error ")
    });
    let mut again = Talk::start(&other.pods[0].netns, &other.cgroup, Some(connected)).unwrap();
    assert!(again.to(connected).unwrap().starts_with("web-2-1 "));
}

#[test]
fn s166_sockets_are_remembered_until_they_close_and_no_longer() {
    let name = "s166";
    let Some(cluster) = cluster_with(name, 1, 2, &[(1, 1)], &["--max-sockets", "3"]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let maps = Maps::open(&node.pins).unwrap();
    let entries = || maps.all_sockets().unwrap().count();
    let service = on(CLUSTER_V4, 7);
    let web = on(CLUSTER_V4, 80);
    let pod = &node.pods[1].netns;
    let full = || {
        let reasons = maps.reasons().unwrap().into_iter();
        let mut counts = reasons.filter(|(reason, _)| *reason == Reason::SocketsFull);
        counts.next().unwrap().1
    };
    let mut unconnected = Talk::start(pod, &node.cgroup, None).unwrap();
    for address in [service, on(CLUSTER_V6, 7), service] {
        let line = unconnected.to(address).unwrap();
        assert!(line.ends_with(&format!(" {address}")), "{line}");
    }
    let connected = Talk::start_tcp(pod, &node.cgroup, Some(web)).unwrap();
    assert_eq!((entries(), full()), (3, 0));
    // One more of a pod is left to its packets, and takes no other's place.
    let mut further = Talk::start(pod, &node.cgroup, None).unwrap();
    let line = further.to(service).unwrap();
    assert!(line.starts_with("web-1-1 "), "{line}");
    assert!(line.ends_with(&format!(" {service}")), "{line}");
    assert_eq!((entries(), full()), (3, 1));
    let mut again = Talk::start_tcp(pod, &node.cgroup, Some(web)).unwrap();
    assert!(again.to(web).unwrap().starts_with("web-1-1 "));
    // One of the node is translated at the socket.
    let mut own = Talk::start(&node.netns, &node.cgroup, Some(service)).unwrap();
    assert!(own.to(service).unwrap().starts_with("web-1-1 "));
    assert_eq!((entries(), full()), (3, 3));
    let line = unconnected.to(service).unwrap();
    assert!(line.ends_with(&format!(" {service}")), "{line}");
    drop(connected);
    eventually("the connected socket is forgotten", || entries() == 2);
    drop(unconnected);
    eventually("the other one is forgotten", || entries() == 0);
    // A refused connection leaves nothing.
    let mut refused = Talk::start_tcp(pod, &node.cgroup, None).unwrap();
    assert!(refused.to(on(CLUSTER_V4, 9)).unwrap().starts_with("error "));
    assert!(refused.to(web).unwrap().starts_with("web-1-1 "));
    eventually("a short connection is forgotten", || entries() == 0);
}

#[test]
fn s35_udp_client_that_was_refused_gets_through_later() {
    let Some(cluster) = cluster("s35", 1, 1, &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let sockets: Vec<UdpSocket> = vec![
        udp_socket(&cluster.client, on(node.v4, 30007)),
        udp_socket(&cluster.client, on(node.v6, 30007)),
        udp_socket(&cluster.client, on(BALANCER, 7)),
        udp_socket(&node.pods[0].netns, on(CLUSTER_V4, 7)),
    ];
    for socket in &sockets {
        let error = error_of(udp_exchange(socket));
        assert_eq!(error, Some(ErrorKind::ConnectionRefused));
    }
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    for socket in &sockets {
        eventually("the same source port gets through", || {
            udp_exchange(socket).is_ok()
        });
    }
}

#[test]
fn s36_service_that_loses_its_endpoints_and_gets_them_back() {
    let Some(cluster) = cluster("s36", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let targets = [on(node.v4, 30080), on(node.v6, 30080), on(BALANCER, 80)];
    for _ in 0..2 {
        assert!(
            targets
                .iter()
                .all(|target| http_answers(&cluster.client, *target))
        );
        cluster.write("slices.yaml", &slices(&[])).unwrap();
        for target in targets {
            eventually("refused", || is_refused(&cluster.client, target));
        }
        assert_eq!(
            curl(&node.netns, &node.cgroup, "http://10.96.0.10/"),
            Err(7)
        );
        cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
        eventually("answers again", || {
            http_answers(&cluster.client, targets[0])
        });
    }
}

#[test]
fn s43_one_socket_sees_each_service_by_its_address() {
    let Some(cluster) = cluster("s43", 2, 1, &[(1, 1), (2, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let addresses = [
        on(CLUSTER_V4, 7),
        on(CLUSTER_V6, 7),
        on(node.v4, 30007),
        on(node.v6, 30007),
        on(BALANCER, 7),
    ];
    for netns in [&node.netns, &node.pods[0].netns] {
        let mut talk = Talk::start(netns, &node.cgroup, None).unwrap();
        for _ in 0..3 {
            for address in addresses {
                let line = talk.to(address).unwrap();
                assert!(line.ends_with(&format!(" {address}")), "{address}: {line}");
            }
        }
        for address in addresses {
            let mut talk = Talk::start(netns, &node.cgroup, Some(address)).unwrap();
            let line = talk.to(address).unwrap();
            assert!(
                line.ends_with(&format!(" {address}")),
                "getpeername: {line}"
            );
        }
    }
}

#[test]
fn s44_fragmented_datagrams_reach_one_pod_and_come_back() {
    fragmented_datagrams_reach_one_pod_and_come_back("s44", SNAT);
}

#[test]
fn s44_s67_fragmented_datagrams_reach_one_pod_and_come_back_by_dsr() {
    fragmented_datagrams_reach_one_pod_and_come_back("d44", DSR);
}

fn fragmented_datagrams_reach_one_pod_and_come_back(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 1, &[(1, 1), (2, 1)], forwarding) else {
        return;
    };
    let node = &cluster.nodes[0];
    for address in [on(node.v4, 30007), on(node.v6, 30007)] {
        // With DSR the client learns the MTU from its first datagram.
        let ask = move || udp_of_length(address, 4000).is_ok();
        eventually("datagrams arrive", || {
            (0..10).all(|_| cluster.client.run(ask))
        });
        let pods: BTreeSet<String> = cluster.client.run(move || {
            let ask = |_| udp_of_length(address, 4000).unwrap().0.pod;
            (0..30).map(ask).collect()
        });
        assert_eq!(pods, names(&["web-1-1", "web-2-1"]), "{address}");
    }
    let pod = &node.pods[0].netns;
    for address in [on(CLUSTER_V4, 7), on(CLUSTER_V6, 7)] {
        let (_, peer) = pod.run(move || udp_of_length(address, 4000).unwrap());
        assert_eq!(peer, address);
    }
}

#[test]
fn s45_icmp_errors_reach_the_client_with_the_addresses_it_used() {
    icmp_errors_reach_the_client_with_the_addresses_it_used("s45", SNAT);
}

#[test]
fn s45_s67_icmp_errors_reach_the_client_with_the_addresses_it_used_by_dsr() {
    icmp_errors_reach_the_client_with_the_addresses_it_used("d45", DSR);
}

fn icmp_errors_reach_the_client_with_the_addresses_it_used(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 1, &[(1, 1)], forwarding) else {
        return;
    };
    let [one, two] = &cluster.nodes[..] else {
        unreachable!("two nodes")
    };
    // Path MTU: the MTU of the link to the pod is smaller than the client's datagrams.
    one.netns.batch("link set lxc1 mtu 1300").unwrap();
    one.pods[0].netns.batch("link set eth0 mtu 1300").unwrap();
    for address in [
        one.v4.into(),
        one.v6.into(),
        IpAddr::from(two.v4),
        two.v6.into(),
    ] {
        // The first datagram is lost, with an error that quotes the address that the client used; later
        // ones are fragmented to fit.
        let ask = move || udp_of_length(on(address, 30007), 1400).is_ok();
        eventually("the client learns the path MTU", || cluster.client.run(ask));
    }
    // Port unreachable: no process listens on the target port.
    let closed = slices(&[(1, 1)]).replace("port: 9376", "port: 9");
    cluster.write("slices.yaml", &closed).unwrap();
    for address in [
        one.v4.into(),
        one.v6.into(),
        IpAddr::from(two.v4),
        two.v6.into(),
    ] {
        eventually("the client gets the error", || {
            let ask = move || error_of(udp_connected(on(address, 30007)));
            cluster.client.run(ask) == Some(ErrorKind::ConnectionRefused)
        });
    }
}

#[test]
fn s47_expired_hop_limit_is_reported_to_the_client() {
    expired_hop_limit_is_reported_to_the_client("s47", SNAT);
}

#[test]
fn s47_s67_expired_hop_limit_is_reported_to_the_client_by_dsr() {
    expired_hop_limit_is_reported_to_the_client("d47", DSR);
}

fn expired_hop_limit_is_reported_to_the_client(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 1, &[(2, 1)], forwarding) else {
        return;
    };
    let socket = udp_socket(&cluster.client, on(cluster.nodes[0].v4, 30007));
    socket.set_ttl(1).unwrap();
    // Without this option the kernel does not report ICMP errors of routers to the socket.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    let error = udp_exchange(&socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    socket.set_ttl(64).unwrap();
    assert_eq!(udp_exchange(&socket).unwrap().pod, "web-2-1");
}

#[test]
fn s60_s129_probes_metrics_and_mode() {
    let Some(cluster) = cluster("s60", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let ask = |port: u16, path: &'static str| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        node.netns.run(move || http(address, path).unwrap())
    };
    let (code, text) = ask(10256, "/healthz");
    assert_eq!(code, 200, "{text}");
    for field in ["lastUpdated", "currentTime", "\"nodeEligible\":true"] {
        assert!(text.contains(field), "{text}");
    }
    assert_eq!(ask(10256, "/readyz").0, 200);
    let taint = "kind: Node\napiVersion: v1\nmetadata: {name: n1}\n\
                 spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}";
    cluster.write("node.yaml", taint).unwrap();
    eventually("the health check fails", || ask(10256, "/healthz").0 == 503);
    assert_eq!(
        ask(10256, "/livez").0,
        200,
        "the agent of a leaving node stays live"
    );
    let (code, text) = ask(10249, "/proxyMode");
    assert_eq!(
        (code, text.ends_with("\r\n\r\nebpf")),
        (200, true),
        "{text}"
    );
    let (code, text) = ask(10249, "/metrics");
    assert_eq!(code, 200);
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_proxy_healthz_total{code=\"503\"}",
        "headgate_frontends",
    ] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
}

#[test]
fn s63_stray_entries_are_repaired_and_foreign_maps_refused() {
    let Some(mut cluster) = cluster("s63", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let target = on(node.v4, 30080);
    let mut maps = Maps::open(&node.pins).unwrap();
    let entries: Vec<_> = maps.frontends.iter().map(Result::unwrap).collect();
    let (mut stray, mut entry) = entries[0];
    stray.zero = 1;
    entry.inside = 4000;
    maps.frontends.insert(stray, entry, 0).unwrap();
    for (key, _) in &entries {
        maps.frontends.remove(key).unwrap();
    }
    assert!(!http_answers(&cluster.client, target));
    node.agent.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    eventually("the frontends are back", || {
        http_answers(&cluster.client, target)
    });
    let keys: Vec<_> = maps.frontends.keys().map(Result::unwrap).collect();
    assert_eq!(keys.len(), entries.len());
    assert!(!keys.contains(&stray));

    // A map of another kind under the name of one of ours.
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    let foreign = cluster.nodes[0].pins.with_file_name("foreign");
    let other = cluster.nodes[0].pins.with_file_name("other");
    let few = MapSizes {
        frontends: 16,
        services: 16,
        backends: 16,
        slots: 16,
        connections: 16,
        sockets: 16,
        ..MapSizes::default()
    };
    load(&other, &DatapathConfig::default(), &few).unwrap();
    std::fs::create_dir_all(pin_folder(&foreign)).unwrap();
    let map = aya::maps::MapData::from_pin(pin_folder(&other).join("SOCKETS")).unwrap();
    map.pin(pin_folder(&foreign).join("FRONTENDS")).unwrap();
    let node = &cluster.nodes[0];
    let output = node
        .netns
        .command(binary("headgate").unwrap(), None)
        .arg("--pins")
        .arg(&foreign)
        .args(["agent", "--node-name", "n1", "--source"])
        .arg(cluster.manifests())
        .arg("--cgroup")
        .arg(&node.cgroup)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    for folder in [&foreign, &other] {
        std::fs::remove_dir_all(folder).unwrap();
    }
    assert!(!output.status.success());
    assert!(
        error.contains("FRONTENDS is not a map of Headgate"),
        "{error}"
    );
}

#[test]
fn s61_agent_with_new_options_takes_over_without_a_loss() {
    let Some(mut cluster) = cluster("s61", 1, 1, &[(1, 1)]) else {
        return;
    };
    let target = on(cluster.nodes[0].v4, 30080);
    let socket = udp_socket(&cluster.client, on(cluster.nodes[0].v4, 30007));
    udp_exchange(&socket).unwrap();
    let load = cluster
        .client
        .spawn(move || (0..300).filter(|_| get(target).is_err()).count());
    let datagrams = std::thread::spawn(move || {
        let lost = (0..300).filter(|_| {
            std::thread::sleep(Duration::from_millis(2));
            udp_exchange(&socket).is_err()
        });
        lost.count()
    });
    for seed in ["1", "2"] {
        cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
        cluster.start_agent_with(0, &["--seed", seed]).unwrap();
    }
    assert_eq!((load.join().unwrap(), datagrams.join().unwrap()), (0, 0));
}

/// A Service of this many UDP ports from 20,000 on, as media servers have it, for the first pod of node 1. A slice has at
/// most 100 ports.
fn media(count: u16) -> String {
    let numbers: Vec<u16> = (20_000..20_000 + count).collect();
    let ports = |numbers: &[u16], fields: &str| -> String {
        let port = |number: &u16| {
            let fields = fields.replace("{number}", &number.to_string());
            format!("- {{name: p{number}, protocol: UDP, {fields}}}\n")
        };
        numbers.iter().map(port).collect()
    };
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: media}}\nspec:\n  clusterIP: 10.96.0.77\n  ports:\n{}",
        ports(&numbers, "port: {number}, targetPort: 9376").replace("- {", "  - {")
    );
    for (slice, numbers) in numbers.chunks(100).enumerate() {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: media-{slice}\n  \
             labels: {{kubernetes.io/service-name: media}}\naddressType: IPv4\nports:\n{}\
             endpoints: [{{addresses: ['10.244.1.2'], nodeName: n1}}]\n",
            ports(numbers, "port: 9376")
        );
    }
    text
}

#[test]
fn s214_a_service_of_1100_udp_ports_works_beside_others() {
    const PORTS: u16 = 1100;
    let Some(cluster) = cluster("s214", 1, 2, &[(1, 1), (1, 2)]) else {
        return;
    };
    cluster.write("media.yaml", &media(PORTS)).unwrap();
    let pod = &cluster.nodes[0].pods[1].netns;
    let address = IpAddr::from([10, 96, 0, 77]);
    eventually("the last port is served", || {
        pod.run(move || udp(on(address, 20_000 + PORTS - 1)).is_ok())
    });
    pod.run(move || {
        for port in (20_000..20_000 + PORTS).step_by(99) {
            let (answer, peer) = udp(on(address, port)).unwrap();
            assert_eq!((answer.pod.as_str(), peer), ("web-1-1", on(address, port)));
        }
        assert!(udp(on(address, 20_000 + PORTS)).is_err());
        get(on(CLUSTER_V4, 80)).unwrap();
    });
    let rows = crate::common::json(&cluster.nodes[0], &["status"]);
    assert!(rows["agent"]["refusals"].as_array().unwrap().is_empty());
}
