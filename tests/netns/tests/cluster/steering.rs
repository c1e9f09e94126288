//! Steering of connections to sockets of an unprivileged process, as for the L7 proxy.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::common::{BALANCER, cluster_without_agents, eventually, finish, on, on_node};
use headgate_netns::{
    Answer, Cluster, Load, Netns, Node, Process, SERVICE, binary, connections, get, get_on, http,
    slices,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const PROXY_USER: u32 = 65_532;
const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 50, 100));
const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 0x100));

fn start_agent(cluster: &mut Cluster, options: &[&str]) {
    let user = PROXY_USER.to_string();
    let options = [&["--proxy-user", &user], options].concat();
    cluster.start_agent_with(0, &options).unwrap();
}

/// A cluster of one node whose agent allows the user of the proxy to steer.
fn steering_cluster(name: &str) -> Option<Cluster> {
    let mut cluster = cluster_without_agents(name, 1, 1)?;
    start_agent(&mut cluster, &[]);
    Some(cluster)
}

/// Starts a process of a user that accepts the connections to a port.
fn steered_as(node: &Node, user: u32, name: &str, port: u16) -> anyhow::Result<Process> {
    let mut command = node.netns.command(binary("headgate-steered")?, None);
    command
        .current_dir(&node.pins)
        .args(["--name", name, "--port", &port.to_string()])
        .args(["--user", &user.to_string()]);
    Process::start(command, "ready")
}

fn steered(node: &Node, name: &str) -> Process {
    steered_as(node, PROXY_USER, name, 80).unwrap()
}

/// Starts an ordinary server on every address of a node.
fn ordinary(node: &Node, port: u16) -> Process {
    let mut command = node.netns.command(binary("headgate-echo").unwrap(), None);
    command.args(["--name", "ordinary", "--port", &port.to_string()]);
    Process::start(command, "ready").unwrap()
}

fn addresses(node: &Node) -> [IpAddr; 2] {
    [node.v4.into(), node.v6.into()]
}

fn answer(from: &Netns, address: SocketAddr) -> Result<Answer, ErrorKind> {
    from.run(move || get(address).map_err(|error| error.kind()))
}

fn server(from: &Netns, address: SocketAddr) -> String {
    answer(from, address).unwrap().pod
}

fn is_refused(from: &Netns, address: SocketAddr) -> bool {
    answer(from, address).err() == Some(ErrorKind::ConnectionRefused)
}

/// The addresses of client and node of a connection, as the server sees them.
fn ends(from: &Netns, address: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (_, text) = from.run(move || http(address, "/").unwrap());
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let end = |name: &str| body[name].as_str().unwrap().parse().unwrap();
    (end("client"), end("local"))
}

/// One client for each address, which opens one connection after another.
fn load(from: &Netns, addresses: [IpAddr; 2]) -> Load {
    addresses.into_iter().fold(Load::new(), |load, address| {
        load.with(from, Duration::ZERO, connections(on(address, 80)))
    })
}

#[test]
fn connections_to_every_address_are_steered_by_port() {
    let Some(cluster) = steering_cluster("steer") else {
        return;
    };
    let (node, client) = (&cluster.nodes[0], &cluster.client);
    let _steered = steered(node, "proxy");
    for (address, from) in addresses(node).into_iter().zip([CLIENT_V4, CLIENT_V6]) {
        let (peer, local) = ends(client, on(address, 80));
        assert_eq!((peer.ip(), local), (from, on(address, 80)));
        // The node connects to itself over its loopback device.
        let (peer, local) = ends(&node.netns, on(address, 80));
        assert_eq!((peer.ip(), local), (address, on(address, 80)));
        assert!(
            is_refused(client, on(address, 81)),
            "a port that is not steered"
        );
    }
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        assert!(is_refused(&node.netns, on(address, 80)), "{address}");
    }
    let _ordinary = ordinary(node, 8080);
    for address in addresses(node) {
        assert_eq!(server(client, on(address, 8080)), "ordinary");
        assert_eq!(server(client, on(address, 80)), "proxy");
    }
    let status = on_node(node, &["status"]).unwrap();
    assert!(status.contains("netns: hg_sk_lookup"), "{status}");
}

#[test]
fn port_is_given_back_when_its_socket_closes() {
    let Some(cluster) = steering_cluster("giveb") else {
        return;
    };
    let (node, client) = (&cluster.nodes[0], &cluster.client);
    let proxy = steered(node, "proxy");
    let everywhere = addresses(node).map(|address| on(address, 80));
    for address in everywhere {
        assert_eq!(server(client, address), "proxy");
    }
    proxy.kill().unwrap();
    for address in everywhere {
        assert!(is_refused(client, address), "{address}");
    }
    let _ordinary = ordinary(node, 80);
    for address in everywhere {
        assert_eq!(server(client, address), "ordinary");
    }
    let proxy = steered(node, "proxy");
    for address in everywhere {
        assert_eq!(server(client, address), "proxy");
    }
    assert_eq!(server(&node.netns, on(Ipv4Addr::LOCALHOST, 80)), "ordinary");
    proxy.kill().unwrap();
    for address in everywhere {
        assert_eq!(server(client, address), "ordinary");
    }
}

#[test]
fn handover_to_another_process_loses_no_connection() {
    let Some(cluster) = steering_cluster("hando") else {
        return;
    };
    let (node, client) = (&cluster.nodes[0], &cluster.client);
    let mut proxy = steered(node, "0");
    let load = load(client, addresses(node));
    for name in ["1", "2", "3"] {
        let next = steered(node, name);
        for address in addresses(node) {
            assert_eq!(server(client, on(address, 80)), name);
        }
        proxy.terminate().unwrap();
        proxy = next;
        for address in addresses(node) {
            assert_eq!(server(client, on(address, 80)), name, "the old one ended");
        }
    }
    finish(load);
}

#[test]
fn connections_that_wait_at_a_handover_are_served() {
    let Some(cluster) = steering_cluster("waits") else {
        return;
    };
    let (node, client) = (&cluster.nodes[0], &cluster.client);
    let target = on(node.v4, 80);
    let old = steered(node, "old");
    old.signal(Signal::SIGSTOP).unwrap();
    let connect = move |_| TcpStream::connect(target).unwrap();
    let waiting: Vec<TcpStream> = client.run(move || (0..20).map(connect).collect());
    let _next = steered(node, "next");
    assert_eq!(server(client, target), "next");
    old.signal(Signal::SIGTERM).unwrap();
    old.signal(Signal::SIGCONT).unwrap();
    for stream in &waiting {
        assert_eq!(get_on(stream).unwrap().pod, "old");
    }
    old.terminate().unwrap();
    assert_eq!(server(client, target), "next");
}

#[test]
fn steering_outlives_the_agent_and_ends_with_its_option_or_cleanup() {
    let Some(mut cluster) = steering_cluster("stays") else {
        return;
    };
    let target = on(cluster.nodes[0].v4, 80);
    let proxy = steered(&cluster.nodes[0], "proxy");
    let load = load(&cluster.client, addresses(&cluster.nodes[0]));
    for seed in ["1", "2"] {
        cluster.nodes[0].agent.take().unwrap().kill().unwrap();
        start_agent(&mut cluster, &["--seed", seed]);
    }
    finish(load);
    let _another = steered(&cluster.nodes[0], "another");
    assert_eq!(server(&cluster.client, target), "another");
    proxy.kill().unwrap();

    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    cluster.start_agent(0).unwrap();
    // The kernel detaches a link some time after its pin is removed.
    eventually("refused without the option", || {
        is_refused(&cluster.client, target)
    });
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    start_agent(&mut cluster, &[]);
    assert_eq!(server(&cluster.client, target), "another");
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    assert_eq!(server(&cluster.client, target), "another");
    on_node(&cluster.nodes[0], &["cleanup"]).unwrap();
    eventually("refused after cleanup", || {
        is_refused(&cluster.client, target)
    });
}

#[test]
fn agent_shares_the_map_with_the_capabilities_of_its_daemonset_and_chown() {
    let Some(mut cluster) = cluster_without_agents("chown", 1, 1) else {
        return;
    };
    const CAPABILITIES: &str = "-all,+bpf,+perfmon,+net_admin,+sys_admin,+sys_ptrace";
    let target = on(cluster.nodes[0].v4, 80);
    for user in [PROXY_USER, PROXY_USER, PROXY_USER + 1] {
        let option = user.to_string();
        let capabilities = format!("{CAPABILITIES},+chown");
        cluster
            .start_agent_as(0, &capabilities, &["--proxy-user", &option])
            .unwrap();
        let proxy = steered_as(&cluster.nodes[0], user, "proxy", 80).unwrap();
        assert_eq!(server(&cluster.client, target), "proxy");
        proxy.kill().unwrap();
        cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    }
    let option = PROXY_USER.to_string();
    cluster
        .start_agent_as(0, CAPABILITIES, &["--proxy-user", &option])
        .unwrap();
    let log = cluster.nodes[0].agent.as_ref().unwrap().log();
    assert!(log.contains("the L7 proxy gets no connections"), "{log}");
}

#[test]
fn load_balancer_reaches_the_steered_socket_of_the_node() {
    let Some(cluster) = steering_cluster("balan") else {
        return;
    };
    let (node, client) = (&cluster.nodes[0], &cluster.client);
    let _steered = steered(node, "proxy");
    cluster.write("web.yaml", SERVICE).unwrap();
    let slice = slices(&[(1, 1)])
        .replace("10.244.1.2", &node.v4.to_string())
        .replace("fd44:1::2", &node.v6.to_string())
        .replace("name: http, port: 9376", "name: http, port: 80");
    cluster.write("slices.yaml", &slice).unwrap();
    let balancer = on(BALANCER, 80);
    eventually("the balancer answers", || answer(client, balancer).is_ok());
    let (peer, local) = ends(client, balancer);
    assert_eq!((peer.ip(), local), (CLIENT_V4, on(node.v4, 80)));
    for address in addresses(node) {
        let (_, local) = ends(client, on(address, 30080));
        assert_eq!(local, on(address, 80), "through the node port");
        assert_eq!(server(client, on(address, 80)), "proxy", "and directly");
    }
}

#[test]
fn only_the_user_of_the_proxy_can_steer() {
    let Some(mut cluster) = cluster_without_agents("user", 1, 1) else {
        return;
    };
    cluster.start_agent(0).unwrap();
    let refused = |cluster: &Cluster, user: u32| {
        let error = steered_as(&cluster.nodes[0], user, "thief", 80).unwrap_err();
        assert!(
            error.to_string().contains("LISTENERS") && error.to_string().contains("denied"),
            "{error}"
        );
    };
    refused(&cluster, PROXY_USER);
    cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
    start_agent(&mut cluster, &[]);
    refused(&cluster, PROXY_USER + 1);
    let _steered = steered(&cluster.nodes[0], "proxy");
    assert_eq!(
        server(&cluster.client, on(cluster.nodes[0].v4, 80)),
        "proxy"
    );
}
