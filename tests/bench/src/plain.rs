//! What a user of kind or of virtual machines measures first: a client outside, one node, four pods behind plain veth
//! devices, of which nothing is set.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use headgate_netns::{Cluster, Process};
use tempfile::TempDir;

use crate::{
    Options, Report, Service, Table, load_nftables, manifests, nftables,
    tools::{Requests, http_server, nginx, on_cpu, output, words},
};

const CLIENT_CPU: u8 = 0;
const SERVER_CPU: u8 = 1;
const PODS: u8 = 4;
const NODE: [u8; 4] = [192, 168, 50, 1];
const POD_PORT: u16 = 8000;

const LOADS: [(&str, Requests); 2] = [
    ("32 kept connections", Requests::Kept),
    ("a connection per request", Requests::ConnectionEach),
];

/// Runs the benchmark.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (rounds, seconds) = if options.quick { (3, 1) } else { (7, 3) };
    for (gro, gro_name) in [("off", "GRO off"), ("on", "GRO on")] {
        let titles = LOADS.map(|(load, _)| format!("plain veth, {gro_name}: {load}"));
        if !titles.iter().any(|title| options.wants(title)) {
            continue;
        }
        let sites = Sites::new(gro)?;
        for (title, (_, requests)) in titles.iter().zip(LOADS) {
            if options.wants(title) {
                report.add(sites.measure(title, requests, rounds, seconds)?);
            }
        }
    }
    Ok(())
}

/// A cluster of one node, and the servers in its pods.
struct Site {
    _servers: Vec<Process>,
    cluster: Cluster,
    _folder: TempDir,
}

impl Site {
    fn new(prefix: &str, gro: &str, datapath: Datapath) -> Result<Self> {
        // Removes what an earlier, killed run left behind.
        Cluster::sweep(prefix)?;
        let mut cluster = Cluster::new(prefix, 1, PODS)?;
        if datapath != Datapath::HeadgateAtXdp {
            cluster = cluster.without_fabric_program()?;
        }
        let folder = tempfile::tempdir()?;
        let http = http_server(POD_PORT);
        let node = &cluster.nodes[0];
        let mut servers = Vec::new();
        for (number, pod) in node.pods.iter().enumerate() {
            let cgroup = Some(node.cgroup.as_path());
            let name = format!("{prefix}-{number}");
            let server = nginx(&pod.netns, cgroup, folder.path(), &name, SERVER_CPU, &http);
            servers.push(server?);
        }
        // The ends of connections, whose devices are not the node's.
        let pods = node.pods.iter().map(|pod| &pod.netns);
        for netns in pods.chain([&cluster.client]) {
            let mut command = netns.command("ethtool", None);
            output(command.args(words(&format!("-K eth0 gro {gro}"))))?;
        }
        let node = IpAddr::from(NODE);
        let routes = ["10.96.0.0/16", "10.244.1.0/24"]
            .map(|network| format!("route add {network} via {node}\n"));
        cluster.client.batch(&routes.concat())?;
        Ok(Self {
            _servers: servers,
            cluster,
            _folder: folder,
        })
    }
}

/// What serves the Service of a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Datapath {
    None,
    Headgate,
    /// With an option, and a program on each device that nodes send to: the other choice of hook for veth devices.
    HeadgateAtXdp,
    Nftables,
}

/// A row: what is measured, in a cluster of its own, because a server remembers closed connections by the client's
/// address and port. If the client uses a port again for another address of the same server, the server drops the SYN
/// for its timestamp.
struct Subject {
    name: &'static str,
    site: Site,
    target: SocketAddr,
}

const POD: SocketAddr = socket([10, 244, 1, 2], POD_PORT);
const CLUSTER_IP: SocketAddr = socket([10, 96, 0, 1], 80);
const NODE_PORT: SocketAddr = socket(NODE, 30_080);
const SUBJECTS: [(&str, Datapath, SocketAddr); 7] = [
    ("direct", Datapath::None, POD),
    ("direct, beside an agent", Datapath::Headgate, POD),
    ("headgate, ClusterIP", Datapath::Headgate, CLUSTER_IP),
    ("nftables, ClusterIP", Datapath::Nftables, CLUSTER_IP),
    ("headgate, NodePort", Datapath::Headgate, NODE_PORT),
    ("nftables, NodePort", Datapath::Nftables, NODE_PORT),
    (
        "headgate at XDP, NodePort",
        Datapath::HeadgateAtXdp,
        NODE_PORT,
    ),
];

const fn socket([a, b, c, d]: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

struct Sites(Vec<Subject>);

impl Sites {
    fn new(gro: &str) -> Result<Self> {
        let endpoints = (0..PODS).map(|pod| Ipv4Addr::new(10, 244, 1, 2 + pod));
        let service = Service {
            name: "web".into(),
            address: CLUSTER_IP.ip(),
            port: CLUSTER_IP.port(),
            protocol: "tcp",
            node_port: Some(NODE_PORT.port()),
            endpoints: endpoints
                .map(|address| SocketAddr::from((address, POD_PORT)))
                .collect(),
        };
        let services = [service];
        let mut subjects = Vec::new();
        for (number, (name, datapath, target)) in SUBJECTS.into_iter().enumerate() {
            let mut site = Site::new(&format!("hgp{number}"), gro, datapath)?;
            match datapath {
                Datapath::None => {}
                Datapath::Headgate | Datapath::HeadgateAtXdp => {
                    let xdp = match datapath {
                        Datapath::HeadgateAtXdp => "--xdp=always",
                        _ => "--xdp=auto",
                    };
                    let cluster = &mut site.cluster;
                    cluster.write("services.yaml", &manifests(&services))?;
                    cluster.start_agent_with(0, &[xdp])?;
                }
                Datapath::Nftables => {
                    let node = &site.cluster.nodes[0].netns;
                    load_nftables(node, &nftables(&services, NODE.into()))?;
                }
            }
            subjects.push(Subject { name, site, target });
        }
        Ok(Self(subjects))
    }

    fn measure(
        &self,
        title: &str,
        requests: Requests,
        rounds: usize,
        seconds: u64,
    ) -> Result<Table> {
        let mut samples = vec![Vec::new(); self.0.len()];
        let mut failed = vec![0; self.0.len()];
        for _ in 0..rounds {
            for (index, Subject { name, site, target }) in self.0.iter().enumerate() {
                let client = &site.cluster.client;
                let on_cpu = |program: &str| on_cpu(client, None, CLIENT_CPU, program);
                let (rate, errors) = requests
                    .run(on_cpu, 32, seconds, &target.to_string())
                    .with_context(|| format!("{title}, {name}"))?;
                samples[index].push(rate);
                failed[index] += errors;
            }
        }
        let how = format!("{rounds} rounds of {seconds} s");
        let mut table = Table::new(title, "requests/s", &how, "direct");
        for (index, Subject { name, .. }) in self.0.iter().enumerate() {
            table.add(name, &samples[index]);
            if failed[index] > 0 {
                table.note(format!("{} errors", failed[index]));
            }
        }
        Ok(table)
    }
}
