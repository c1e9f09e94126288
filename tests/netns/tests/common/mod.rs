//! Helpers for the tests on a cluster.
#![allow(dead_code, reason = "not every test file uses every helper")]

pub(crate) mod browser;
pub(crate) mod flood;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use headgate_netns::{
    Certificate, Cluster, INGRESSES, Load, Miss, Netns, Node, PROXY_USER, SERVICE, Tally, binary,
    get, slices,
};
use serde_json::Value;

pub(crate) const CLUSTER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
pub(crate) const CLUSTER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10));
/// Most packets of a test whose complete checksum may look partial: one in 65,536 does.
pub(crate) const BY_CHANCE: u64 = 3;
/// Hosts of the example Ingresses.
pub(crate) const SHOP: &str = "shop.example.com";
pub(crate) const API: &str = "api.example.com";
pub(crate) const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));

/// What the names of a test's namespaces begin with; `None` without root.
pub(crate) fn prefix(name: &str) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: {name}: network namespaces need root");
        return None;
    }
    Some(format!("hg{}{name}", std::process::id() % 10_000))
}

/// A cluster whose agents are not started yet; `None` without root.
pub(crate) fn cluster_without_agents(name: &str, nodes: u8, pods: u8) -> Option<Cluster> {
    let prefix = prefix(name)?;
    let cluster = Cluster::new(&prefix, nodes, pods).unwrap();
    let route = format!("route add 203.0.113.0/24 via {}", cluster.nodes[0].v4);
    cluster.client.batch(&route).unwrap();
    Some(cluster)
}

/// Options of agents that forward by SNAT, the default.
pub(crate) const SNAT: &[&str] = &[];
/// Options of agents that forward by direct server return.
pub(crate) const DSR: &[&str] = &["--forwarding", "dsr"];

/// A cluster with agents that serve `web` with these pods; `None` without root.
pub(crate) fn cluster(name: &str, nodes: u8, pods: u8, serving: &[(u8, u8)]) -> Option<Cluster> {
    cluster_with(name, nodes, pods, serving, SNAT)
}

/// A cluster as of [`cluster`], with options of the agents.
pub(crate) fn cluster_with(
    name: &str,
    nodes: u8,
    pods: u8,
    serving: &[(u8, u8)],
    options: &[&str],
) -> Option<Cluster> {
    let mut cluster = cluster_without_agents(name, nodes, pods)?;
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(serving)).unwrap();
    for index in 0..nodes.into() {
        cluster.start_agent_with(index, options).unwrap();
    }
    Some(cluster)
}

/// Turns checksum offload off for pods and client: packets then carry complete checksums, as on a wire,
/// and XDP forwards them instead of leaving them to TC.
pub(crate) fn turn_offload_off(cluster: &Cluster) {
    let pods = cluster.nodes.iter().flat_map(|node| &node.pods);
    let netns = pods.map(|pod| &pod.netns).chain([&cluster.client]);
    for netns in netns {
        let status = netns
            .command("ethtool", None)
            .args(["-K", "eth0", "tx", "off"])
            .output();
        assert!(status.unwrap().status.success());
    }
}

/// A cluster of one node whose proxy serves the example, and the certificate file of its authority.
pub(crate) fn ingress_cluster(name: &str, options: &[&str]) -> Option<(Cluster, PathBuf)> {
    let mut cluster = cluster_without_agents(name, 1, 2)?;
    let certificate = Certificate::new(&[SHOP]).unwrap();
    let authority = cluster.manifests().with_file_name("authority.pem");
    fs::write(&authority, &certificate.authority).unwrap();
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster
        .write("slices.yaml", &slices(&[(1, 1), (1, 2)]))
        .unwrap();
    cluster
        .write("secret.yaml", &certificate.secret("shop-tls"))
        .unwrap();
    cluster.write("ingress.yaml", INGRESSES).unwrap();
    cluster
        .start_agent_with(0, &["--proxy-user", PROXY_USER])
        .unwrap();
    cluster.start_proxy(0, options).unwrap();
    Some((cluster, authority))
}

pub(crate) fn on(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// The pods that answered 40 requests, enough to reach each pod.
pub(crate) fn pods_over_http(from: &Netns, address: SocketAddr) -> BTreeSet<String> {
    from.run(move || {
        let pod = |_| {
            get(address)
                .unwrap_or_else(|error| panic!("{address}: {error}"))
                .pod
        };
        (0..40).map(pod).collect()
    })
}

pub(crate) fn names(pods: &[&str]) -> BTreeSet<String> {
    pods.iter().map(|pod| (*pod).into()).collect()
}

/// Waits until `condition` holds: at most a minute, which a busy machine of two cores may need.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(60), what, condition);
}

/// Waits at most this long.
pub(crate) fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command of the binary with the pins of a node; returns whether it succeeds, and its output.
pub(crate) fn headgate(node: &Node, words: &[&str]) -> (bool, String) {
    let mut command = node.netns.command(binary("headgate").unwrap(), None);
    let output = command
        .arg("--pins")
        .arg(&node.pins)
        .args(words)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

/// Runs a command of the binary in the namespace of a node, as an operator does; returns its output, or
/// its error output.
pub(crate) fn on_node(node: &Node, words: &[&str]) -> Result<String, String> {
    let mut command = node.netns.command(binary("headgate").unwrap(), None);
    let output = command
        .arg("--pins")
        .arg(&node.pins)
        .args(words)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

/// The JSON output of a command of the binary: its items if it is a list.
pub(crate) fn json(node: &Node, words: &[&str]) -> Value {
    let words = [words, &["-o", "json"]].concat();
    content(&on_node(node, &words).unwrap())
}

/// The content of a JSON output: its items if it is a list.
pub(crate) fn content(text: &str) -> Value {
    let mut output: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(output["version"], 1, "{text}");
    match output.get_mut("items") {
        Some(items) => items.take(),
        None => output,
    }
}

/// The counter of a reason.
pub(crate) fn count(node: &Node, reason: &str) -> u64 {
    let counters = json(node, &["counters"]);
    let mut rows = counters.as_array().unwrap().iter();
    let row = rows.find(|row| row["reason"] == reason);
    row.map_or(0, |row| row["count"].as_u64().unwrap())
}

/// The output of `doctor` on a node.
pub(crate) fn doctor(node: &Node) -> String {
    let mut command = node.netns.command(binary("headgate").unwrap(), None);
    let output = command
        .arg("--pins")
        .arg(&node.pins)
        .args(["doctor", "--no-api"])
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// Runs curl as a process of a cgroup, so that the socket hooks apply: the threads of the test are outside
/// of the cgroup. Returns the body, or the exit code of curl.
pub(crate) fn curl(netns: &Netns, cgroup: &Path, url: &str) -> Result<String, i32> {
    let output = netns
        .command("curl", Some(cgroup))
        .args([
            "--silent",
            "--globoff",
            "--noproxy",
            "*",
            "--max-time",
            "3",
            url,
        ])
        .output()
        .unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        code => Err(code.unwrap_or(-1)),
    }
}

/// Stops the clients and asserts that every request of each was answered; returns the sum.
pub(crate) fn finish(load: Load) -> Tally {
    let tallies = load.finish();
    for tally in &tallies {
        assert!(
            tally.answered() > 0 && tally.lost.is_empty() && tally.moved.is_empty(),
            "{tally:?}"
        );
    }
    tallies.into_iter().sum()
}

/// Two clients of the example's API: one opens a connection for each request, the other keeps its
/// connection until the proxy closes it.
pub(crate) fn requests(cluster: &Cluster) -> Load {
    let address = on(cluster.nodes[0].v4, 80);
    [true, false]
        .into_iter()
        .fold(Load::new(), |load, is_kept| {
            let mut kept = None;
            let send = move || {
                let (status, stream) = request(address, kept.take())?;
                kept = stream.filter(|_| is_kept);
                match status {
                    200 => Ok(API.into()),
                    _ => Err(Miss::lost(status)),
                }
            };
            load.with(&cluster.client, Duration::ZERO, Box::new(send))
        })
}

/// Sends a request; returns the status, and the connection if the server keeps it open.
fn request(address: SocketAddr, kept: Option<TcpStream>) -> io::Result<(u16, Option<TcpStream>)> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(address)?,
    };
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // One write: Nagle's algorithm would delay a second packet.
    let text = format!("GET /v1/ HTTP/1.1\r\nHost: {API}\r\n\r\n");
    stream.write_all(text.as_bytes())?;
    let mut reader = BufReader::new(&stream);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::Error::other(format!("closed after {head:?}")));
        }
        if line == "\r\n" {
            break;
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().map_err(io::Error::other)?;
        }
        head.push(line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let status = head
        .first()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let stays = !head.iter().any(|line| line == "connection: close");
    Ok((status.unwrap_or(0), stays.then_some(stream)))
}
