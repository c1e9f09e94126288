//! The cost of connections, requests and bytes to services over whole paths, compared with the rules of
//! kube-proxy: five small clusters of the same shape, with the load on one CPU and the servers on another.
//!
//! Devices between machines behave as on a wire: checksums are complete, and received segments are merged
//! (GRO).

use std::{net::Ipv4Addr, path::Path, sync::OnceLock};

use anyhow::{Context, Result};
use headgate_netns::{Cluster, Netns, Process, binary};
use tempfile::TempDir;

use crate::{
    Family, Options, Report, Service, Table, iptables, load_iptables, load_nftables, manifests,
    nftables, plain,
    tools::{Requests, http_server, nginx, on_cpu, output, words},
};

const CLIENT_CPU: u8 = 0;
const SERVER_CPU: u8 = 1;
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// Port on which pods answer HTTP. They discard streams on the next port, and answer datagrams on the one
/// after that.
const POD_PORT: u16 = 8000;
const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 2)];

/// The datapath that carries traffic to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datapath {
    /// None: clients use the addresses of pods.
    Direct,
    Headgate,
    /// Headgate with direct server return, which also needs an agent on the node of the backend.
    HeadgateByDsr,
    Nftables,
    Iptables,
}

/// The kind of service address, and the node of the backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    ClusterIp,
    NodePortLocal,
    NodePortRemote,
}

/// A row of a table: what is measured on a route.
struct Subject {
    name: &'static str,
    datapath: Datapath,
    /// Whether the client is a process to which the socket hooks apply.
    is_hooked: bool,
}

const fn subject(name: &'static str, datapath: Datapath, is_hooked: bool) -> Subject {
    Subject {
        name,
        datapath,
        is_hooked,
    }
}

const DIRECT: Subject = subject("direct", Datapath::Direct, false);
const NFTABLES: Subject = subject("nftables", Datapath::Nftables, false);
const IPTABLES: Subject = subject("iptables", Datapath::Iptables, false);

/// Each route with its name and subjects.
const ROUTES: [(Route, &str, &[Subject]); 3] = [
    (
        Route::ClusterIp,
        "ClusterIP, pod to pod",
        &[
            DIRECT,
            subject("headgate, at the socket", Datapath::Headgate, true),
            subject("headgate, at TC", Datapath::Headgate, false),
            NFTABLES,
            IPTABLES,
        ],
    ),
    (
        Route::NodePortLocal,
        "NodePort, local backend",
        &[
            DIRECT,
            subject("headgate", Datapath::Headgate, false),
            NFTABLES,
            IPTABLES,
        ],
    ),
    (
        Route::NodePortRemote,
        "NodePort, remote backend",
        &[
            DIRECT,
            subject("headgate, SNAT", Datapath::Headgate, false),
            subject("headgate, DSR", Datapath::HeadgateByDsr, false),
            NFTABLES,
            IPTABLES,
        ],
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Connections,
    Requests,
    Stream,
    Datagrams,
}

const LOADS: [(Load, &str, &str); 4] = [
    (Load::Connections, "a connection per request", "requests/s"),
    (Load::Requests, "16 kept connections", "requests/s"),
    (Load::Stream, "one stream", "Mbit/s"),
    (Load::Datagrams, "datagram and reply", "exchanges/s"),
];

/// Numbers of services. Established connections do not depend on it and are measured with the larger one.
const SIZES: [u16; 2] = [10, 10_000];

/// Runs the benchmark.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    plain::run(options, report)?;
    let (rounds, seconds) = if options.quick { (3, 1) } else { (5, 2) };
    let how = format!("{rounds} rounds of {seconds} s");
    let half = format!("{rounds} rounds of {} s", seconds as f64 / 2.0);
    for size in SIZES {
        let mut wanted = Vec::new();
        for (load, load_name, unit) in LOADS {
            if size != SIZES[1] && load != Load::Connections {
                continue;
            }
            for (route, route_name, subjects) in ROUTES {
                let title = format!("{route_name}: {load_name}, {size} services");
                if options.wants(&title) {
                    wanted.push((load, unit, route, subjects, title));
                }
            }
        }
        let connect = format!("connect of a datagram socket, {size} services");
        let wants_connect = options.wants(&connect);
        if wanted.is_empty() && !wants_connect {
            continue;
        }
        let sites = Sites::new(size)?;
        for (load, unit, route, subjects, title) in wanted {
            let mut samples = vec![Vec::new(); subjects.len()];
            let mut errors = vec![0; subjects.len()];
            for _ in 0..rounds {
                for (index, subject) in subjects.iter().enumerate() {
                    let sample = sites.measure(subject, route, load, seconds);
                    let (sample, failed) =
                        sample.with_context(|| format!("{title}, {}", subject.name))?;
                    samples[index].push(sample);
                    errors[index] += failed;
                }
            }
            let how = match load {
                Load::Connections | Load::Requests => &how,
                Load::Stream | Load::Datagrams => &half,
            };
            let mut table = Table::new(&title, unit, how, DIRECT.name);
            for (index, subject) in subjects.iter().enumerate() {
                table.add(subject.name, &samples[index]);
                if errors[index] > 0 {
                    table.note(format!("{} errors", errors[index]));
                }
            }
            report.add(table);
        }
        if wants_connect {
            report.add(sites.connects(&connect, rounds)?);
        }
    }
    Ok(())
}

/// Map sizes for the larger number of services.
const LIMITS: [&str; 4] = [
    "--max-services=32768",
    "--max-backends=65536",
    "--max-connections=524288",
    "--max-slots=262144",
];

/// The services that are measured, amid `size` services in all.
fn services(size: u16) -> Vec<Service> {
    let mut services: Vec<Service> = (0..size).map(Service::filler).collect();
    // In the middle, because iptables searches the rules one by one.
    let middle = (services.len() - 6) / 2;
    for (backend, address) in BACKENDS.into_iter().enumerate() {
        for kind in 0..3 {
            let port = POD_PORT + kind;
            services[middle + 3 * backend + usize::from(kind)] = Service {
                name: format!("measured-{backend}-{kind}"),
                address: cluster_ip(backend, kind).into(),
                port,
                protocol: if kind == 2 { "udp" } else { "tcp" },
                node_port: Some(node_port(backend, kind)),
                endpoints: vec![(address, port).into()],
            };
        }
    }
    services
}

fn cluster_ip(backend: usize, kind: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, backend as u8, 1 + kind as u8)
}

fn node_port(backend: usize, kind: u16) -> u16 {
    30_080 + 10 * backend as u16 + kind
}

/// A cluster, and the servers in its pods.
struct Site {
    _servers: Vec<Process>,
    cluster: Cluster,
    _folder: TempDir,
}

struct Sites {
    direct: Site,
    headgate: Site,
    headgate_by_dsr: Site,
    nftables: Site,
    iptables: Site,
}

impl Sites {
    fn new(size: u16) -> Result<Self> {
        let services = services(size);
        let direct = Site::new("hgbd")?;
        // The same route as translated traffic: through the first node, in both directions.
        let client = &direct.cluster.client;
        client.batch(&format!(
            "route add 10.244.1.0/24 via {NODE}\nroute add 10.244.2.0/24 via {NODE}"
        ))?;
        let second = &direct.cluster.nodes[1].netns;
        second.batch(&format!("route add 192.168.50.100/32 via {NODE}"))?;
        let mut headgate = Site::new("hgbh")?;
        headgate.start_agents(&services, 1, &LIMITS)?;
        let mut headgate_by_dsr = Site::new("hgbr")?;
        let options = [&LIMITS[..], &["--forwarding=dsr"]].concat();
        headgate_by_dsr.start_agents(&services, 2, &options)?;
        let nftables_site = Site::new("hgbn")?;
        let first = &nftables_site.cluster.nodes[0].netns;
        load_nftables(first, &nftables(&services, NODE.into()))?;
        let iptables_site = Site::new("hgbi")?;
        let first = &iptables_site.cluster.nodes[0].netns;
        load_iptables(first, Family::V4, &iptables(&services, Family::V4))?;
        Ok(Self {
            direct,
            headgate,
            headgate_by_dsr,
            nftables: nftables_site,
            iptables: iptables_site,
        })
    }

    fn site(&self, datapath: Datapath) -> &Site {
        match datapath {
            Datapath::Direct => &self.direct,
            Datapath::Headgate => &self.headgate,
            Datapath::HeadgateByDsr => &self.headgate_by_dsr,
            Datapath::Nftables => &self.nftables,
            Datapath::Iptables => &self.iptables,
        }
    }

    /// Runs a load; returns its rate, and the number of failed requests.
    fn measure(
        &self,
        subject: &Subject,
        route: Route,
        load: Load,
        seconds: u64,
    ) -> Result<(f64, u32)> {
        let cluster = &self.site(subject.datapath).cluster;
        let backend = usize::from(route == Route::NodePortRemote);
        let kind = match load {
            Load::Connections | Load::Requests => 0,
            Load::Stream => 1,
            Load::Datagrams => 2,
        };
        let target = match (subject.datapath, route) {
            (Datapath::Direct, _) => format!("{}:{}", BACKENDS[backend], POD_PORT + kind),
            (_, Route::ClusterIp) => format!("{}:{}", cluster_ip(backend, kind), POD_PORT + kind),
            (_, Route::NodePortLocal | Route::NodePortRemote) => {
                format!("{NODE}:{}", node_port(backend, kind))
            }
        };
        let netns = match route {
            // One pod for each subject, because a server remembers closed connections by client port.
            Route::ClusterIp => &cluster.nodes[0].pods[1 + usize::from(subject.is_hooked)].netns,
            Route::NodePortLocal | Route::NodePortRemote => &cluster.client,
        };
        let cgroup = subject.is_hooked.then_some(&*cluster.nodes[0].cgroup);
        let milliseconds = (seconds * 500).to_string();
        match load {
            Load::Connections | Load::Requests => {
                let requests = match load {
                    Load::Connections => Requests::ConnectionEach,
                    _ => Requests::Kept,
                };
                let on_cpu = |program: &str| on_cpu(netns, cgroup, CLIENT_CPU, program);
                requests.run(on_cpu, 16, seconds, &target)
            }
            Load::Stream => run_load(netns, cgroup, &["stream", &target, &milliseconds]),
            Load::Datagrams => run_load(netns, cgroup, &["exchange", &target, &milliseconds]),
        }
    }

    /// The cost of the socket hooks: connect(2) of a datagram socket sends nothing.
    fn connects(&self, title: &str, rounds: usize) -> Result<Table> {
        let pod = format!("{}:{POD_PORT}", BACKENDS[0]);
        let service = format!("{}:{}", cluster_ip(0, 2), POD_PORT + 2);
        let subjects = [
            ("direct", &self.direct, &pod),
            ("headgate, no service", &self.headgate, &pod),
            ("headgate, ClusterIP", &self.headgate, &service),
        ];
        let mut samples = vec![Vec::new(); subjects.len()];
        for _ in 0..rounds {
            for ((_, site, target), samples) in subjects.iter().zip(&mut samples) {
                let node = &site.cluster.nodes[0];
                let words = ["connect", target, "200"];
                samples.push(run_load(&node.pods[1].netns, Some(&node.cgroup), &words)?.0);
            }
        }
        let how = format!("{rounds} rounds of 0.2 s");
        let mut table = Table::new(title, "ns", &how, "direct");
        for ((name, ..), samples) in subjects.iter().zip(&samples) {
            table.add(name, samples);
        }
        Ok(table)
    }
}

impl Site {
    fn new(prefix: &str) -> Result<Self> {
        // Removes what an earlier, killed run left behind.
        Cluster::sweep(prefix)?;
        let cluster = Cluster::new(prefix, 2, 3)?;
        let folder = tempfile::tempdir()?;
        let nodes = cluster.nodes.iter().map(|node| &node.netns);
        for netns in nodes.chain([&cluster.client]) {
            let mut command = netns.command("ethtool", None);
            output(command.args(words("-K eth0 tx off gro on")))?;
            // Otherwise ICMP redirects would send clients over a shorter route than the measured one.
            netns.sysctl(&[
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/eth0/send_redirects", "0"),
            ])?;
        }
        let mut servers = Vec::new();
        let http = http_server(POD_PORT);
        for node in &cluster.nodes {
            let netns = &node.pods[0].netns;
            let cgroup = Some(node.cgroup.as_path());
            let name = format!("{prefix}-{}", node.name);
            servers.push(nginx(
                netns,
                cgroup,
                folder.path(),
                &name,
                SERVER_CPU,
                &http,
            )?);
            let mut command = on_cpu(netns, cgroup, SERVER_CPU, load_program()?);
            command.args(["serve", &(POD_PORT + 1).to_string()]);
            servers.push(Process::start(command, "ready")?);
        }
        Ok(Self {
            _servers: servers,
            cluster,
            _folder: folder,
        })
    }

    /// Starts agents on the first nodes.
    fn start_agents(&mut self, services: &[Service], nodes: usize, options: &[&str]) -> Result<()> {
        self.cluster.write("services.yaml", &manifests(services))?;
        (0..nodes).try_for_each(|node| self.cluster.start_agent_with(node, options))
    }
}

fn load_program() -> Result<&'static Path> {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    if PROGRAM.get().is_none() {
        let _already_set = PROGRAM.set(binary("headgate-load")?);
    }
    PROGRAM.get().map(|path| &**path).context("headgate-load")
}

/// Runs `headgate-load`, which prints a number.
fn run_load(netns: &Netns, cgroup: Option<&Path>, words: &[&str]) -> Result<(f64, u32)> {
    let mut command = on_cpu(netns, cgroup, CLIENT_CPU, load_program()?);
    let text = output(command.args(words))?;
    let number = text.trim().parse();
    Ok((number.with_context(|| text.clone())?, 0))
}
