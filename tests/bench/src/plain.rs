//! What a user of kind or of virtual machines measures first: a client outside, one node, four pods behind plain veth
//! devices, of which nothing is set.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use headgate_netns::{Cluster, Process};
use tempfile::TempDir;

use crate::{
    Options, Report, Service, Table, load_nftables, manifests, nftables,
    paths::{errors, output},
    tools::{http_server, nginx, on_cpu, rate, words},
};

const CLIENT_CPU: u8 = 0;
const SERVER_CPU: u8 = 1;
const PODS: u8 = 4;
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const POD_PORT: u16 = 8000;
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;

/// Loads by name, with the further words for wrk.
const LOADS: [(&str, &[&str]); 2] = [
    ("32 kept connections", &[]),
    ("a connection per request", &["-H", "Connection: close"]),
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
        for (title, (_, more)) in titles.iter().zip(LOADS) {
            if options.wants(title) {
                report.add(sites.measure(title, more, rounds, seconds)?);
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
    fn new(prefix: &str, gro: &str) -> Result<Self> {
        // Removes what an earlier, killed run left behind.
        Cluster::sweep(prefix)?;
        let cluster = Cluster::new(prefix, 1, PODS)?;
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
        let routes = ["10.96.0.0/16", "10.244.1.0/24"]
            .map(|network| format!("route add {network} via {NODE}\n"));
        cluster.client.batch(&routes.concat())?;
        Ok(Self {
            _servers: servers,
            cluster,
            _folder: folder,
        })
    }
}

struct Sites {
    direct: Site,
    headgate: Site,
    nftables: Site,
}

impl Sites {
    fn new(gro: &str) -> Result<Self> {
        let endpoints = (0..PODS).map(|pod| Ipv4Addr::new(10, 244, 1, 2 + pod));
        let service = Service {
            name: "web".into(),
            address: CLUSTER_IP.into(),
            port: PORT,
            protocol: "tcp",
            node_port: Some(NODE_PORT),
            endpoints: endpoints
                .map(|address| SocketAddr::from((address, POD_PORT)))
                .collect(),
        };
        let services = [service];
        let mut headgate = Site::new("hgbp", gro)?;
        let cluster = &mut headgate.cluster;
        cluster.write("services.yaml", &manifests(&services))?;
        cluster.start_agent(0)?;
        let nftables_site = Site::new("hgbq", gro)?;
        let node = &nftables_site.cluster.nodes[0].netns;
        load_nftables(node, &nftables(&services, NODE.into()))?;
        Ok(Self {
            direct: Site::new("hgbo", gro)?,
            headgate,
            nftables: nftables_site,
        })
    }

    fn measure(&self, title: &str, more: &[&str], rounds: usize, seconds: u64) -> Result<Table> {
        let pod = format!("10.244.1.2:{POD_PORT}");
        let cluster_ip = format!("{CLUSTER_IP}:{PORT}");
        let node_port = format!("{NODE}:{NODE_PORT}");
        let subjects = [
            ("direct", &self.direct, &pod),
            ("direct, beside an agent", &self.headgate, &pod),
            ("headgate, ClusterIP", &self.headgate, &cluster_ip),
            ("nftables, ClusterIP", &self.nftables, &cluster_ip),
            ("headgate, NodePort", &self.headgate, &node_port),
            ("nftables, NodePort", &self.nftables, &node_port),
        ];
        let mut samples = vec![Vec::new(); subjects.len()];
        let mut failed = vec![0; subjects.len()];
        for _ in 0..rounds {
            for (index, (name, site, target)) in subjects.iter().enumerate() {
                let mut command = on_cpu(&site.cluster.client, None, CLIENT_CPU, "wrk");
                command.args(words(&format!("-t1 -c32 -d{seconds}s")));
                let command = command.args(more).arg(format!("http://{target}/"));
                let text = output(command).with_context(|| format!("{title}, {name}"))?;
                ensure!(!text.contains("Non-2xx"), "{title}, {name}: {text}");
                let rate = rate(&text).with_context(|| format!("no rate in {text}"))?;
                samples[index].push(rate);
                failed[index] += errors(&text);
            }
        }
        let how = format!("{rounds} rounds of {seconds} s");
        let mut table = Table::new(title, "requests/s", &how, "direct");
        for (index, (name, ..)) in subjects.iter().enumerate() {
            table.add(name, &samples[index]);
            if failed[index] > 0 {
                table.note(format!("{} errors", failed[index]));
            }
        }
        Ok(table)
    }
}
