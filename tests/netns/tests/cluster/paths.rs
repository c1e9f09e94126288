//! Real sockets over every path: agents, kernel programs and pods of a small cluster.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, TcpStream},
};

use crate::common::{
    BALANCER, BY_CHANCE, CLUSTER_V4, CLUSTER_V6, DSR, SNAT, cluster, cluster_with,
    cluster_without_agents, content, count, curl, eventually, headgate, names, on, pods_over_http,
    turn_offload_off,
};
use headgate_netns::{
    Node, SERVICE, Talk, binary, get, get_on, slices, udp, udp_connected, udp_of_length,
};

#[test]
fn s11_s20_node_port_reaches_local_and_remote_pods() {
    node_port_reaches_local_and_remote_pods("np", SNAT);
}

#[test]
fn s11_s20_s67_node_port_reaches_local_and_remote_pods_by_dsr() {
    node_port_reaches_local_and_remote_pods("npd", DSR);
}

fn node_port_reaches_local_and_remote_pods(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 1, &[(1, 1), (2, 1)], forwarding) else {
        return;
    };
    let (v4, v6) = (cluster.nodes[0].v4, cluster.nodes[0].v6);
    let both = names(&["web-1-1", "web-2-1"]);
    assert_eq!(pods_over_http(&cluster.client, on(v4, 30080)), both);
    assert_eq!(pods_over_http(&cluster.client, on(v6, 30080)), both);
    assert_eq!(pods_over_http(&cluster.client, on(BALANCER, 80)), both);
    for node in [IpAddr::from(v4), IpAddr::from(v6)] {
        let answers: Vec<_> = cluster
            .client
            .run(move || (0..40).map(|_| udp(on(node, 30007)).unwrap()).collect());
        let pods: BTreeSet<String> = answers
            .iter()
            .map(|(answer, _)| answer.pod.clone())
            .collect();
        assert_eq!(pods, both, "datagrams to {node}");
        for (answer, peer) in &answers {
            assert_eq!(*peer, on(node, 30007), "source of the answer");
            let is_local = answer.pod.starts_with("web-1") || forwarding == DSR;
            let kept =
                !answer.client.ip().to_string().ends_with(".1") && answer.client.ip() != node;
            assert_eq!(
                kept, is_local,
                "client address at {}: {}",
                answer.pod, answer.client
            );
        }
    }
}

#[test]
fn s46_xdp_forwards_packets_with_complete_checksums() {
    let Some(cluster) = cluster("xdp", 2, 1, &[(1, 1), (2, 1)]) else {
        return;
    };
    turn_offload_off(&cluster);
    let (v4, v6) = (cluster.nodes[0].v4, cluster.nodes[0].v6);
    let both = names(&["web-1-1", "web-2-1"]);
    assert_eq!(pods_over_http(&cluster.client, on(v4, 30080)), both);
    assert_eq!(pods_over_http(&cluster.client, on(v6, 30080)), both);
    // XDP left no packet to TC because of its checksum.
    assert!(count(&cluster.nodes[0], "to-backend") > 0);
    assert!(count(&cluster.nodes[0], "partial-checksum") <= BY_CHANCE);
    // TC did not translate again what XDP translated.
    let (_, connections) = headgate(&cluster.nodes[0], &["conntrack"]);
    assert!(
        connections.contains("default/web") && !connections.contains("none"),
        "{connections}"
    );
}

#[test]
fn s175_jumbo_frames_are_forwarded_at_xdp() {
    jumbo_frames_are_forwarded("jumbo", SNAT);
}

#[test]
fn s175_jumbo_frames_are_forwarded_at_xdp_by_dsr() {
    jumbo_frames_are_forwarded("jumbod", DSR);
}

fn jumbo_frames_are_forwarded(name: &str, forwarding: &[&str]) {
    let Some(mut cluster) = cluster_without_agents(name, 2, 1) else {
        return;
    };
    cluster.set_mtu(9000).unwrap();
    turn_offload_off(&cluster);
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster
        .write("slices.yaml", &slices(&[(1, 1), (2, 1)]))
        .unwrap();
    for index in 0..2 {
        cluster.start_agent_with(index, forwarding).unwrap();
    }
    let node = &cluster.nodes[0];
    let (_, doctor) = headgate(node, &["doctor", "--no-api"]);
    assert!(doctor.contains("eth0 has XDP in its driver"), "{doctor}");
    let left = || {
        // One of each is left to TC for a while: the first frame, and the first to an unknown neighbour.
        ["malformed", "partial-checksum", "for-tc", "no-tailroom"].map(|reason| count(node, reason))
    };
    let before = left();
    for address in [IpAddr::from(node.v4), node.v6.into()] {
        for _ in 0..20 {
            let ask = move || udp_of_length(on(address, 30007), 8000);
            let (_, peer) = cluster.client.run(ask).unwrap();
            assert_eq!(peer, on(address, 30007));
        }
        let served = pods_over_http(&cluster.client, on(address, 30080));
        assert_eq!(served, names(&["web-1-1", "web-2-1"]));
    }
    let after = left();
    let grown = before
        .iter()
        .zip(after)
        .map(|(before, after)| after - before);
    assert!(grown.sum::<u64>() <= BY_CHANCE, "{before:?} {after:?}");
}

#[test]
fn s01_s42_cluster_ip_by_socket_and_by_packet() {
    let Some(cluster) = cluster("cip", 2, 2, &[(1, 1), (2, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let pod = &node.pods[1];
    let both = names(&["web-1-1", "web-2-1"]);
    // The threads of this test are outside of the cgroup: TC translates their packets.
    for address in [CLUSTER_V4, CLUSTER_V6] {
        assert_eq!(
            pods_over_http(&pod.netns, on(address, 80)),
            both,
            "{address} from a pod"
        );
        let (_, peer) = pod.netns.run(move || udp(on(address, 7)).unwrap());
        assert_eq!(peer, on(address, 7));
    }
    // For a process of the cgroup the socket hook selects the backend, in pods and on the node.
    for (netns, url) in [
        (&pod.netns, "http://10.96.0.10/".into()),
        (&pod.netns, "http://[fd96::10]/".into()),
        (&node.netns, "http://10.96.0.10/".into()),
        (&node.netns, "http://[fd96::10]/".into()),
        (&node.netns, "http://127.0.0.1:30080/".into()),
        (&node.netns, format!("http://{}:30080/", node.v4)),
        (&pod.netns, format!("http://{}:30080/", node.v4)),
    ] {
        let pods: BTreeSet<String> = (0..24)
            .map(|_| {
                curl(netns, &node.cgroup, &url).unwrap_or_else(|code| panic!("{url}: curl {code}"))
            })
            .map(|body| {
                body.split('"')
                    .find(|word| word.starts_with("web-"))
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(pods, both, "{url} from {}", netns.name());
    }
    assert!(
        curl(&pod.netns, &node.cgroup, "http://127.0.0.1:30080/").is_err(),
        "a pod's loopback is its own"
    );
}

#[test]
fn s40_pod_reaches_itself_through_its_service() {
    let Some(cluster) = cluster("hair", 1, 1, &[(1, 1)]) else {
        return;
    };
    let pod = &cluster.nodes[0].pods[0];
    for address in [CLUSTER_V4, CLUSTER_V6] {
        assert_eq!(
            pods_over_http(&pod.netns, on(address, 80)),
            names(&["web-1-1"])
        );
    }
}

#[test]
fn s41_host_network_backend_answers_with_the_frontends_address() {
    let Some(cluster) = cluster("hostnet", 1, 1, &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let mut command = node.netns.command(binary("headgate-echo").unwrap(), None);
    command.args(["--name", "host", "--port", "9376"]);
    let _server = headgate_netns::Process::start(command, "ready").unwrap();
    let slice = slices(&[(1, 1)])
        .replace("10.244.1.2", &node.v4.to_string())
        .replace("fd44:1::2", &node.v6.to_string());
    cluster.write("slices.yaml", &slice).unwrap();
    for address in [IpAddr::from(node.v4), IpAddr::from(node.v6)] {
        let reaches = move || get(on(address, 30080)).is_ok();
        eventually("the host's server answers", || cluster.client.run(reaches));
        let (answer, peer) = cluster.client.run(move || udp(on(address, 30007)).unwrap());
        assert_eq!((answer.pod.as_str(), peer), ("host", on(address, 30007)));
    }
}

#[test]
fn s36_service_without_endpoint_refuses_at_once() {
    let Some(cluster) = cluster("none", 1, 1, &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let refused = |result: std::io::Result<_>| result.map(|_: ()| ()).unwrap_err().kind();
    for address in [IpAddr::from(node.v4), IpAddr::from(node.v6)] {
        let error = cluster
            .client
            .run(move || get(on(address, 30080)).map(drop));
        assert_eq!(
            refused(error),
            ErrorKind::ConnectionRefused,
            "TCP to {address}"
        );
        let error = cluster
            .client
            .run(move || udp_connected(on(address, 30007)).map(drop));
        assert_eq!(
            refused(error),
            ErrorKind::ConnectionRefused,
            "UDP to {address}"
        );
    }
    let pod = &node.pods[0];
    for address in [CLUSTER_V4, CLUSTER_V6] {
        let error = pod.netns.run(move || get(on(address, 80)).map(drop));
        assert_eq!(
            refused(error),
            ErrorKind::ConnectionRefused,
            "TCP to {address} from a pod"
        );
        let error = pod
            .netns
            .run(move || udp_connected(on(address, 7)).map(drop));
        assert_eq!(
            refused(error),
            ErrorKind::ConnectionRefused,
            "UDP to {address} from a pod"
        );
    }
    // curl exits with 7: could not connect.
    assert_eq!(curl(&pod.netns, &node.cgroup, "http://10.96.0.10/"), Err(7));
}

#[test]
fn s61_killed_agent_loses_nothing() {
    killed_agent_loses_nothing("kill", SNAT);
}

#[test]
fn s61_s67_killed_agent_loses_nothing_by_dsr() {
    killed_agent_loses_nothing("killd", DSR);
}

fn killed_agent_loses_nothing(name: &str, forwarding: &[&str]) {
    let Some(mut cluster) = cluster_with(name, 2, 1, &[(1, 1), (2, 1)], forwarding) else {
        return;
    };
    let target = on(cluster.nodes[0].v4, 30080);
    let kept = cluster.client.run(move || {
        let stream = TcpStream::connect(target).unwrap();
        get_on(&stream).unwrap();
        stream
    });
    cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    let both = names(&["web-1-1", "web-2-1"]);
    assert_eq!(
        pods_over_http(&cluster.client, target),
        both,
        "while the agent is dead"
    );
    get_on(&kept).expect("a connection made before the crash");
    // The next agent applies a change that was made meanwhile.
    cluster.write("slices.yaml", &slices(&[(2, 1)])).unwrap();
    let load = move || (0..400).filter(|_| get(target).is_err()).count();
    let load = cluster.client.spawn(load);
    for _ in 0..3 {
        cluster.start_agent_with(0, forwarding).unwrap();
        cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    }
    cluster.start_agent_with(0, forwarding).unwrap();
    assert_eq!(
        load.join().unwrap(),
        0,
        "requests lost while agents came and went"
    );
    assert_eq!(pods_over_http(&cluster.client, target), names(&["web-2-1"]));
    get_on(&kept).expect("a connection made before the crash");
}

#[test]
fn s65_bad_manifests_are_named_and_remove_nothing() {
    let Some(cluster) = cluster("bad", 1, 1, &[(1, 1)]) else {
        return;
    };
    let target = on(cluster.nodes[0].v4, 30080);
    let log = || cluster.nodes[0].agent.as_ref().unwrap().log();
    for (file, text, complaint) in [
        (
            "web.yaml",
            "kind: Service\nmetadata: {name: [",
            &["web.yaml", "document 1"][..],
        ),
        (
            "web.yaml",
            &SERVICE.replace("port: 80,", "prot: 80,"),
            &[
                "web.yaml",
                "Service default/web: unknown field spec.ports.0.prot",
            ],
        ),
        (
            "zero.yaml",
            "kind: Service\nmetadata: {name: zero}\nspec: {clusterIP: 10.96.0.9, ports: [{port: 0}]}",
            &[
                "Service default/zero",
                "spec.ports[0].port",
                "0 is not a port",
            ],
        ),
        (
            "range.yaml",
            "kind: Service\nmetadata: {name: range}\nspec: {clusterIP: 10.96.0.8, loadBalancerSourceRanges: [10.0.0.0/33], ports: [{port: 1}]}",
            &[
                "Service default/range",
                "spec.loadBalancerSourceRanges[0]",
                "`10.0.0.0/33`",
            ],
        ),
    ] {
        cluster.write(file, text).unwrap();
        let is_complaint = |line: &str| complaint.iter().all(|part| line.contains(part));
        eventually(file, || log().lines().any(is_complaint));
        assert_eq!(
            pods_over_http(&cluster.client, target),
            names(&["web-1-1"]),
            "{complaint:?}"
        );
    }
}

#[test]
fn s64_commands_read_the_pins_and_cleanup_removes_them() {
    let Some(mut cluster) = cluster("cli", 1, 1, &[(1, 1)]) else {
        return;
    };
    let target = on(cluster.nodes[0].v4, 30080);
    cluster.client.run(move || get(target).unwrap());
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    let node = &cluster.nodes[0];
    let headgate = |words: &[&str]| headgate(node, words);
    let (_, text) = headgate(&["services"]);
    assert!(text.contains("192.168.50.1:30080"), "{text}");
    let (_, text) = headgate(&["backends", "-o", "json"]);
    assert!(text.contains("\"backend\": \"10.244.1.2:9376\""), "{text}");
    let (_, text) = headgate(&["conntrack", "-o", "yaml"]);
    assert!(
        text.contains("service: default/web\n") && text.contains("backend: 10.244.1.2:9376"),
        "{text}"
    );
    let (_, text) = headgate(&["status"]);
    assert!(
        text.contains("eth0: hg_tc_egress hg_tc_external hg_xdp_external")
            && text.contains("in sync: ")
            && text.contains("to-backend"),
        "{text}"
    );
    let (_, text) = headgate(&[
        "conntrack",
        "--namespace",
        "default",
        "--address",
        "10.244.1.2",
    ]);
    assert!(text.contains("10.244.1.2:9376"), "{text}");
    for filter in [
        ["--namespace", "other"],
        ["--name", "we"],
        ["--address", "10.244.1.9"],
    ] {
        let (_, text) = headgate(&["conntrack", filter[0], filter[1]]);
        assert!(!text.contains("10.244.1.2"), "{filter:?}: {text}");
    }
    let (_, text) = headgate(&["maps", "-o", "json"]);
    let fills = content(&text);
    let services = fills
        .as_array()
        .unwrap()
        .iter()
        .find(|fill| fill["map"] == "SERVICES");
    assert_eq!(services.unwrap()["entries"], 4);
    assert!(services.unwrap()["kib"].as_u64().unwrap() > 0);
    assert!(
        !headgate(&["drops"]).1.contains("to-backend"),
        "a forwarded packet is not a drop"
    );
    assert!(!headgate(&["drops", "--colour"]).0);
    assert!(headgate(&["cleanup"]).0);
    assert!(!node.pins.exists());
    // The kernel detaches programs some time after their last pin is removed.
    let is_detached = move || get(target).is_err();
    eventually("programs are detached", || cluster.client.run(is_detached));
    assert!(!headgate(&["status"]).0, "there is nothing to show");
}

#[test]
fn s133_udp_socket_of_the_node_that_is_older_than_a_service_is_ended() {
    let Some(mut cluster) = cluster_without_agents("s133", 1, 1) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&[])).unwrap();
    let (node, echo) = (&cluster.nodes[0], on(CLUSTER_V4, 7));
    let start = |node: &Node| Talk::start(&node.netns, &node.cgroup, Some(echo)).unwrap();
    let mut older = start(node);
    cluster.start_agent(0).unwrap();
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    eventually("the socket is ended", || {
        older.to(echo).unwrap().contains("os error 103")
    });
    let answer = start(&cluster.nodes[0]).to(echo).unwrap();
    assert!(answer.starts_with("web-1-1 "), "{answer}");
}
