//! Nodes with more devices than an external one and those of pods, or without free descriptors.

use std::{
    fs,
    net::{IpAddr, TcpListener, TcpStream},
    process::Command,
};

use crate::common::{
    BALANCER, CLUSTER_V4, CLUSTER_V6, DSR, SNAT, cluster, cluster_with, cluster_without_agents,
    doctor, eventually, headgate, names, on, pods_over_http, turn_offload_off,
};
use headgate_netns::{Process, SERVICE, http, rules::load_nftables, slices, udp};
use nix::sys::signal::Signal;

#[test]
fn s11_bridges_and_loopback_are_not_used_as_the_external_device() {
    let Some(mut cluster) = cluster_without_agents("lo", 2, 1) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster
        .write("slices.yaml", &slices(&[(1, 1), (2, 1)]))
        .unwrap();
    // The bridge is listed before eth0.
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

/// Some load balancers assign the addresses of nodes to a Service.
#[test]
fn s16_a_neighbour_with_the_address_of_a_service_is_still_reached() {
    let Some(mut cluster) = cluster_without_agents("nb", 2, 2) else {
        return;
    };
    let neighbour = IpAddr::from(cluster.nodes[1].v4);
    let service = SERVICE.replace("203.0.113.10", &neighbour.to_string());
    cluster.write("web.yaml", &service).unwrap();
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    cluster.start_agent(0).unwrap();
    let own = cluster.nodes[1]
        .netns
        .run(move || TcpListener::bind((neighbour, 6443)).unwrap());
    let node = &cluster.nodes[0];
    for netns in [&node.netns, &node.pods[1].netns] {
        let reached = netns.run(move || TcpStream::connect(on(neighbour, 6443)).map(drop));
        assert!(reached.is_ok(), "{reached:?} from {}", netns.name());
        own.accept().unwrap();
    }
    let pod = &node.pods[1];
    let found = pods_over_http(&pod.netns, on(neighbour, 80));
    assert_eq!(found, names(&["web-1-1"]));
}

/// A rule as of firewalls and kube-proxy: it drops packets of a connection whose start connection
/// tracking did not see.
const STRICT: &str = "table inet headgate-test {
    chain forward {
        type filter hook forward priority filter
        ct state invalid drop
    }
}";

#[test]
fn s42_firewalls_see_both_directions_of_a_connection_or_neither() {
    firewalls_see_both_directions("fw", SNAT);
}

#[test]
fn s42_s67_firewalls_see_both_directions_of_a_connection_or_neither_by_dsr() {
    firewalls_see_both_directions("fwd", DSR);
}

fn firewalls_see_both_directions(name: &str, forwarding: &[&str]) {
    let Some(cluster) = cluster_with(name, 2, 2, &[(1, 1), (2, 1)], forwarding) else {
        return;
    };
    for node in &cluster.nodes {
        load_nftables(&node.netns, STRICT).unwrap();
    }
    let node = &cluster.nodes[0];
    let both = names(&["web-1-1", "web-2-1"]);
    for is_checked in [false, true] {
        if is_checked {
            turn_offload_off(&cluster);
        }
        let ports: [(IpAddr, u16, u16); 3] = [
            (node.v4.into(), 30080, 30007),
            (node.v6.into(), 30080, 30007),
            (BALANCER, 80, 7),
        ];
        for (address, tcp, datagrams) in ports {
            let found = pods_over_http(&cluster.client, on(address, tcp));
            assert_eq!(found, both, "{address} from outside");
            let (_, peer) = cluster
                .client
                .run(move || udp(on(address, datagrams)).unwrap());
            assert_eq!(peer, on(address, datagrams));
        }
        // The threads of a test are outside of the cgroup, as processes in virtual machines are.
        for address in [CLUSTER_V4, CLUSTER_V6] {
            let pod = &node.pods[1];
            let found = pods_over_http(&pod.netns, on(address, 80));
            assert_eq!(found, both, "{address} from a pod");
        }
    }
}

#[test]
fn s152_without_free_descriptors_the_agent_continues_and_catches_up() {
    let Some(cluster) = cluster("nofile", 1, 2, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let agent = node.agent.as_ref().unwrap();
    let limit = |number: u16| {
        // The soft limit alone: without CAP_SYS_RESOURCE the hard one cannot be raised again.
        let limit = format!("--nofile={number}:");
        let mut command = Command::new("prlimit");
        command.args(["--pid", &agent.id().to_string(), &limit]);
        assert!(command.status().unwrap().success());
    };
    let pods = || pods_over_http(&cluster.client, on(node.v4, 30080));
    let (one, both) = (names(&["web-1-1"]), names(&["web-1-1", "web-1-2"]));
    // It can open nothing.
    limit(3);
    cluster
        .write("slices.yaml", &slices(&[(1, 1), (1, 2)]))
        .unwrap();
    let inside = node.pods[0].netns.name();
    let add = format!("link add lxc8 type veth peer name eth8 netns {inside}\nlink set lxc8 up");
    node.netns.batch(&add).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    let healthz = on(node.v4, 10256);
    let waiting = cluster
        .client
        .run(move || TcpStream::connect(healthz).unwrap());
    for what in ["manifests", "cannot follow devices", "audit failed"] {
        eventually(what, || {
            let log = agent.log();
            let mut lines = log.lines().filter(|line| line.contains(what));
            lines.any(|line| line.contains("Too many open files"))
        });
    }
    assert_eq!(pods(), one);
    drop(waiting);
    limit(1024);
    eventually("the manifest is read", || pods() == both);
    eventually("the new device is attached", || {
        let log = agent.log();
        log.lines()
            .any(|line| line.contains("lxc8") && line.contains("attached"))
    });
    eventually("it is healthy", || {
        let answer = node.netns.run(move || http(healthz, "/healthz"));
        answer.is_ok_and(|(code, _)| code == 200)
    });
}

#[test]
fn s152_an_agent_that_cannot_start_loses_nothing() {
    let Some(mut cluster) = cluster("start", 1, 1, &[(1, 1)]) else {
        return;
    };
    cluster.nodes[0].agent.take().unwrap().kill().unwrap();
    let target = on(cluster.nodes[0].v4, 30080);
    // The loader of shared libraries needs one descriptor.
    for limit in [8, 12, 16, 24, 32] {
        let limit = format!("--nofile={limit}:{limit}");
        let command = cluster.agent_command_by(0, &["prlimit", &limit], &[]);
        let error = Process::start(command.unwrap(), "ready").unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("Too many open files"), "{limit}: {error}");
        let served = pods_over_http(&cluster.client, target);
        assert_eq!(served, names(&["web-1-1"]), "{limit}");
    }
    cluster.start_agent(0).unwrap();
}

#[test]
fn s164_device_that_is_replaced_or_renamed_is_served() {
    let Some(cluster) = cluster("repl", 1, 1, &[(1, 1)]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let pod = &node.pods[0];
    let agent = node.agent.as_ref().unwrap();
    let has = |device: &str| {
        let (_, status) = headgate(node, &["status"]);
        let mut lines = status.lines().map(str::trim);
        lines.any(|line| line.starts_with(&format!("{device}: ")) && line.contains("hg_tc_pod"))
    };
    let is_served = |device: &str| {
        eventually(&format!("{device} has programs"), || has(device));
        let found = pods_over_http(&pod.netns, on(CLUSTER_V4, 80));
        assert_eq!(found, names(&["web-1-1"]), "{device}");
    };
    is_served("lxc1");
    // With a running agent, and with one that cannot look.
    cluster.replace_device(0, 0).unwrap();
    is_served("lxc1");
    agent.signal(Signal::SIGSTOP).unwrap();
    cluster.replace_device(0, 0).unwrap();
    assert!(!has("lxc1"), "the links of the old device do not count");
    let (_, doctor) = headgate(node, &["doctor", "--no-api"]);
    assert!(doctor.contains("programs are missing on lxc1"), "{doctor}");
    agent.signal(Signal::SIGCONT).unwrap();
    is_served("lxc1");
    node.netns
        .batch("link set lxc1 down\nlink set lxc1 name lxc9\nlink set lxc9 up")
        .unwrap();
    let routes = format!(
        "route replace {}/32 dev lxc9\nroute replace {}/128 dev lxc9",
        pod.v4, pod.v6
    );
    node.netns.batch(&routes).unwrap();
    is_served("lxc9");
    assert!(!has("lxc1"));
}

#[test]
fn s181_xdp_that_another_program_keeps_away_is_attached_when_it_is_gone() {
    let Some(mut cluster) = cluster_without_agents("held", 1, 1) else {
        return;
    };
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&[(1, 1)])).unwrap();
    let other = cluster.occupy_xdp(0).unwrap();
    cluster.start_agent(0).unwrap();
    let node = &cluster.nodes[0];
    let is_served = || {
        let found = pods_over_http(&cluster.client, on(node.v4, 30080));
        assert_eq!(found, names(&["web-1-1"]));
    };
    let report = || headgate(node, &["doctor", "--no-api", "--xdp", "always"]).1;
    assert!(report().contains("eth0 has TC only"), "{}", report());
    is_served();
    fs::remove_file(other).unwrap();
    // As once a minute.
    node.agent.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    eventually("eth0 has XDP", || {
        report().contains("eth0 has XDP in its driver")
    });
    is_served();
}

#[test]
fn s182_device_gets_the_programs_of_its_role_when_that_changes() {
    role_is_followed("role", SNAT, "hg_tc_external");
}

/// The agent refuses to start with such a device. One that comes later is treated as a pod's, which may not send
/// encapsulated packets, by agent and `doctor` alike.
#[test]
fn s182_s183_device_that_may_lead_to_pods_is_treated_as_if_it_did_by_dsr() {
    role_is_followed("roled", DSR, "hg_tc_pod");
}

fn role_is_followed(name: &str, forwarding: &[&str], while_doubtful: &str) {
    let Some(cluster) = cluster_with(name, 1, 2, &[(1, 1)], forwarding) else {
        return;
    };
    let node = &cluster.nodes[0];
    let pod = &node.pods[1].netns;
    let is_ready = |program: &str| {
        eventually(&format!("vx1 has {program} alone"), || {
            let (_, status) = headgate(node, &["status"]);
            let mut lines = status.lines().map(str::trim);
            let line = lines.find(|line| line.starts_with("vx1: "));
            let ingress = ["hg_tc_external", "hg_tc_pod"];
            line.is_some_and(|line| {
                let found = ingress.iter().filter(|name| line.contains(**name));
                found.eq([&program])
            })
        });
        let found = pods_over_http(pod, on(CLUSTER_V4, 80));
        assert_eq!(found, names(&["web-1-1"]), "{program}");
        let report = doctor(node);
        assert!(!report.contains("programs are missing"), "{report}");
        report
    };
    // A network of its own: it may be the way out of the node.
    let inside = pod.name();
    let add = format!(
        "link add vx1 type veth peer name eth9 netns {inside}\nlink set vx1 up\n\
         address add 10.77.1.1/24 dev vx1"
    );
    node.netns.batch(&add).unwrap();
    pod.batch(
        "link set eth9 up\naddress add 10.77.1.2/24 dev eth9\n\
         route add 10.96.0.0/16 via 10.77.1.1 src 10.77.1.2",
    )
    .unwrap();
    let report = is_ready(while_doubtful);
    assert!(
        report.contains("vx1 leads to another network namespace"),
        "{report}"
    );
    // A single host: it is a pod's.
    node.netns
        .batch(
            "address del 10.77.1.1/24 dev vx1\naddress add 10.77.1.1/32 dev vx1\n\
             route add 10.77.1.2/32 dev vx1",
        )
        .unwrap();
    let report = is_ready("hg_tc_pod");
    assert!(!report.contains("vx1 leads to"), "{report}");
    node.netns
        .batch("route del 10.77.1.2/32 dev vx1\naddress add 10.77.1.1/24 dev vx1")
        .unwrap();
    is_ready(while_doubtful);
}
