//! The agent: a source, a dataplane and the loop between them.

mod memory;
pub(crate) mod node;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use headgate_abi::{Addr, DatapathConfig, Port};
use headgate_control::{
    Inputs, Outputs, Reconciler, Status, kube as kube_source, manifests, report, run as reconcile,
};
use headgate_datapath::maglev;
use headgate_dataplane::{
    Device, Feature, MapSizes, MapWriter, Maps, Programs, StateFile, Steering, TcAttach,
    attach_cgroup, attach_egress, attach_ingress, attach_lookup, attached, cgroup_root, detach,
    host_netns_cookie, is_attached, load,
};
use headgate_model::Node;
use ipnet::IpNet;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tracing::{info, warn};

use self::node::{Facts, Selection};
use crate::{
    http::{health, metrics::Metrics, page},
    kube_proxy, process,
    view::{INTERVAL, Report},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Name of this node in the cluster
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Read manifests from this folder instead of asking the Kubernetes API
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    /// Cgroup whose sockets are balanced; default: the root of cgroup2
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Addresses that node ports are served on: CIDRs, or `primary` for the first of each family;
    /// default: every address of the external devices, and loopback for the node itself
    #[arg(long, value_delimiter = ',', value_parser = parse_node_port_addresses)]
    nodeport_addresses: Vec<NodePortAddresses>,
    /// User id of the L7 proxy, which may then take connections to any port of this node; needs
    /// CAP_CHOWN
    #[arg(long, value_name = "UID")]
    proxy_user: Option<u32>,
    /// How programs of TC are attached, tcx or clsact; default: TCX if the kernel has it
    #[arg(long, hide = true, value_parser = parse_tc_attach)]
    tc_attach: Option<TcAttach>,
    /// Do not serve `spec.externalIPs`, with which whoever may make Services can take any address
    #[arg(long)]
    no_external_ips: bool,
    /// Where `/healthz`, `/livez` and `/readyz` are served
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: SocketAddr,
    /// Where `/metrics` is served
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: SocketAddr,
    /// Where a page for browsers is served, for example 127.0.0.1:10254; default: nowhere. It asks
    /// nobody who they are, so leave it on loopback
    #[arg(long, value_name = "ADDR:PORT")]
    page_bind_address: Option<SocketAddr>,
    /// Most services, and most backends, that `/metrics` lists one by one; the rest is summed up
    #[arg(long, default_value_t = 1000)]
    metrics_max_series: usize,
    /// Source ports of packets to other nodes. Keep them apart from `ip_local_port_range` and
    /// node ports
    #[arg(long, default_value = "10000-29999", value_parser = parse_ports)]
    snat_ports: (u16, u16),
    /// How packets from outside reach backends on other nodes. `dsr`: the node of the backend answers
    /// the client itself, and the backend sees the client's address; packets between nodes become
    /// longer by 32 bytes, 52 over IPv6. Give `snat-accept-dsr` to all nodes before the first one
    /// gets `dsr`, and the same on the way back
    #[arg(long, value_enum, default_value_t = Forwarding::Snat)]
    forwarding: Forwarding,
    /// UDP port that nodes send packets to each other on for DSR, the same on every node. Let nobody
    /// but nodes reach it, for a sender may name any client
    #[arg(long, default_value_t = 6090)]
    dsr_port: u16,
    /// Seed of hashes, the same on every node
    #[arg(long, default_value_t = 0x4865_6164)]
    seed: u32,
    /// Slots in the Maglev table of a service, at least: 251, 509, 1021, 2039, 4093, 8191, 16381,
    /// 32749, 65521 or 131071
    #[arg(long, default_value_t = 4093, value_parser = parse_table_size)]
    maglev_size: u32,
    /// Most connection entries, two a connection
    #[arg(long, default_value_t = 1 << 19)]
    max_connections: u32,
    /// Most clients of services with session affinity
    #[arg(long, default_value_t = 1 << 16)]
    max_affinities: u32,
    /// Most frontends
    #[arg(long, default_value_t = 1 << 16)]
    max_frontends: u32,
    /// Most services, each counted once a port, family and policy
    #[arg(long, default_value_t = 1 << 16)]
    max_services: u32,
    /// Most backends
    #[arg(long, default_value_t = 1 << 17)]
    max_backends: u32,
    /// Slots of all services together
    #[arg(long, default_value_t = 1 << 22)]
    max_slots: u32,
}

/// How often the agent looks whether its programs are still attached.
const REVIEW: Duration = Duration::from_secs(60);

/// How packets from outside reach backends on other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Forwarding {
    /// Their source becomes this node, and answers come back this way.
    Snat,
    /// The same, and what other nodes send by DSR is accepted.
    SnatAcceptDsr,
    /// They go to the backend's node whole, and it answers the client itself.
    Dsr,
}

/// Which addresses serve node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NodePortAddresses {
    /// The first of each family.
    Primary,
    /// Those in a range.
    Range(IpNet),
}

fn parse_node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if text == "primary" {
        return Ok(NodePortAddresses::Primary);
    }
    let range = text.parse().map(NodePortAddresses::Range);
    range.map_err(|_not_one| "write a CIDR, or `primary`".into())
}

fn parse_tc_attach(text: &str) -> Result<TcAttach, String> {
    match text {
        "tcx" => Ok(TcAttach::Tcx),
        "clsact" => Ok(TcAttach::Clsact),
        _ => Err("write tcx or clsact".into()),
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let ports = text.split_once('-').and_then(|(first, last)| {
        let ports: (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (ports.0 > 0 && ports.0 <= ports.1).then_some(ports)
    });
    ports.ok_or_else(|| "write FIRST-LAST, for example 10000-29999".into())
}

fn parse_table_size(text: &str) -> Result<u32, String> {
    let size = text
        .parse()
        .ok()
        .filter(|size| maglev::SIZES.contains(size));
    size.ok_or_else(|| format!("choose one of {:?}", maglev::SIZES))
}

pub(crate) fn run(pins: &Path, options: &Options) -> Result<()> {
    process::start_log();
    memory::keep_none();
    // One thread is plenty, and network namespaces are a property of threads.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(pins, options))
}

async fn serve(pins: &Path, options: &Options) -> Result<()> {
    let selection = options.selection.clone();
    let first = node::read(&selection)?;
    let (publish, mut facts) = watch::channel(first.clone());

    for leftover in kube_proxy::find().0 {
        warn!("kube-proxy left {leftover}: `headgate replace-kube-proxy` removes it");
    }
    let mut hooks = Hooks::load(pins, options, &first)?;
    let maps = Maps::open_writable(pins)?;
    let writer = MapWriter::new(maps, options.seed, options.maglev_size);
    let (nodes, node) = watch::channel(node_of(options, &first));
    let reconciler = Reconciler::new(writer, node.borrow().clone())?;
    let (status, statuses) = watch::channel(Status::default());
    let (sender, events) = mpsc::channel(1024);
    let (audit, audits) = mpsc::channel(1);
    let (passes, passed) = mpsc::unbounded_channel();
    let metrics = Metrics::new(pins, options.metrics_max_series, statuses.clone());
    let inputs = Inputs {
        events,
        nodes: node.clone(),
        audits,
    };
    let outputs = Outputs {
        status: status.clone(),
        passes,
    };

    let source = async {
        match &options.source {
            Some(folder) => manifests::follow(folder.clone(), &options.node_name, sender).await,
            None => {
                let client = process::client().await?;
                tokio::join!(
                    kube_source::follow(client.clone(), &options.node_name, sender),
                    report(client, &options.node_name, status.subscribe()),
                );
                Ok(())
            }
        }
    };
    let hangups = Notify::new();
    let follow_devices = async {
        loop {
            let changed = tokio::select! {
                changed = facts.changed() => changed.map(|()| true),
                () = hangups.notified() => Ok(false),
                () = sleep(REVIEW) => Ok(false),
            };
            let Ok(is_changed) = changed else {
                return Ok(());
            };
            let now = facts.borrow_and_update().clone();
            if is_changed {
                nodes.send_replace(node_of(options, &now));
                hooks.follow(options, &now)?;
            } else {
                hooks.review(&now)?;
            }
        }
    };
    let mut first_status = statuses.clone();
    let announce = async {
        let ready = first_status.wait_for(|status| status.is_synced).await;
        if let Ok(status) = ready {
            println!(
                "ready: {} services, {} frontends",
                status.services, status.frontends
            );
        }
        std::future::pending::<()>().await;
    };
    let page = async {
        match options.page_bind_address {
            Some(address) => page::serve(address, pins, &options.node_name).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = reconcile(reconciler, inputs, outputs, process::stop_signal()?) => {
            info!("stopped; the kernel goes on with what it has");
            Ok(())
        }
        result = node::follow(selection, publish) => result,
        result = follow_devices => result,
        result = source => result.and_then(|()| bail!("the source ended")),
        result = forward_hangups(audit, &hangups) => result,
        () = announce => Ok(()),
        () = metrics.clone().follow(passed) => Ok(()),
        result = keep_report(pins, &options.node_name, statuses.clone()) => result,
        () = health::probes(options.healthz_bind_address, statuses.clone(), metrics.clone()) => Ok(()),
        () = health::serve(options.metrics_bind_address, health::metrics(move || metrics.text())) => Ok(()),
        () = health::node_ports(statuses, node) => Ok(()),
        () = page => Ok(()),
    }
}

/// Writes down how things are, for those who look when the agent may be gone.
async fn keep_report(pins: &Path, node: &str, mut statuses: watch::Receiver<Status>) -> Result<()> {
    let mut map = StateFile::open(pins)?;
    loop {
        let report = Report::of(&statuses.borrow_and_update(), node);
        map.write(&report.text()?)?;
        tokio::select! {
            changed = statuses.changed() => changed?,
            () = sleep(INTERVAL) => {}
        }
    }
}

/// SIGHUP asks for an audit of the maps, and for a look at what is attached.
async fn forward_hangups(audit: mpsc::Sender<()>, hooks: &Notify) -> Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    while hangups.recv().await.is_some() && audit.send(()).await.is_ok() {
        hooks.notify_one();
    }
    Ok(())
}

fn node_of(options: &Options, facts: &Facts) -> Node {
    let loopback = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    let primary: Vec<IpAddr> = [IpAddr::is_ipv4, IpAddr::is_ipv6]
        .iter()
        .filter_map(|is_wanted| facts.addresses.iter().copied().find(*is_wanted))
        .collect();
    let is_wanted = |address: &IpAddr| {
        let mut choices = options.nodeport_addresses.iter();
        options.nodeport_addresses.is_empty()
            || choices.any(|choice| match choice {
                NodePortAddresses::Primary => primary.contains(address),
                NodePortAddresses::Range(range) => range.contains(address),
            })
    };
    let candidates = facts.addresses.iter().copied().chain(loopback);
    Node {
        name: options.node_name.clone(),
        zone: None,
        addresses: facts.addresses.clone(),
        networks: facts.networks.iter().copied().collect(),
        node_port_addresses: candidates.filter(is_wanted).collect(),
        serves_external_ips: !options.no_external_ips,
    }
}

/// Loaded and attached programs.
struct Hooks {
    pins: PathBuf,
    cgroup: PathBuf,
    proxy_user: Option<u32>,
    tc_attach: TcAttach,
    programs: Programs,
    config: DatapathConfig,
    log: Option<JoinHandle<()>>,
}

impl Hooks {
    fn load(pins: &Path, options: &Options, facts: &Facts) -> Result<Self> {
        let config = config(options, facts)?;
        let mut hooks = Self {
            pins: pins.into(),
            cgroup: match &options.cgroup {
                Some(path) => path.clone(),
                None => cgroup_root()?.context("cgroup2 is not mounted")?,
            },
            proxy_user: options.proxy_user,
            tc_attach: match options.tc_attach {
                Some(chosen) => chosen,
                None => TcAttach::best()?,
            },
            programs: load(pins, &config, &map_sizes(options))?,
            config,
            log: None,
        };
        hooks.follow_log()?;
        hooks.attach(&facts.devices)?;
        Ok(hooks)
    }

    /// New addresses mean new read-only globals, and so new programs in the place of the old.
    fn follow(&mut self, options: &Options, facts: &Facts) -> Result<()> {
        let config = config(options, facts)?;
        if config != self.config {
            self.programs = load(&self.pins, &config, &map_sizes(options))?;
            self.config = config;
            self.follow_log()?;
        }
        self.attach(&facts.devices)
    }

    /// Filters can be removed by others, and with the qdisc they are. Links cannot.
    fn review(&mut self, facts: &Facts) -> Result<()> {
        let attached = attached(&self.pins)?;
        let is_lost = |device: &&Device| !is_attached(&attached, device);
        let lost: Vec<&str> = facts
            .devices
            .iter()
            .filter(is_lost)
            .map(Device::name)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        warn!("programs of ours are missing on {}", lost.join(", "));
        self.attach(&facts.devices)
    }

    /// Prints what the programs log, if they were built to.
    fn follow_log(&mut self) -> Result<()> {
        if let Some(log) = self.log.take() {
            log.abort();
        }
        if let Some(mut logger) = self.programs.logger()? {
            self.log = Some(tokio::spawn(async move {
                loop {
                    logger.flush();
                    sleep(Duration::from_millis(50)).await;
                }
            }));
        }
        Ok(())
    }

    fn attach(&mut self, devices: &std::collections::BTreeSet<Device>) -> Result<()> {
        attach_cgroup(&mut self.programs, &self.pins, &self.cgroup)?;
        if let Some(user) = self.proxy_user
            && let Err(error) = self.steer(user)
        {
            warn!("the L7 proxy gets no connections: {error:#}");
        }
        // A device may go away while we look at it.
        for device in devices {
            if let Err(error) =
                attach_egress(&mut self.programs, &self.pins, device, self.tc_attach)
            {
                warn!(?device, "{error}");
            }
        }
        for device in devices {
            match attach_ingress(&mut self.programs, &self.pins, device, self.tc_attach) {
                Ok(attached) => info!(?device, ?attached, "attached"),
                Err(error) => warn!(?device, "{error}"),
            }
        }
        let known = |name: &str| match name {
            "cgroup" => true,
            "netns" => self.proxy_user.is_some(),
            _ => devices.iter().any(|device| device.name() == name),
        };
        for link in attached(&self.pins)? {
            if let Some((_, device)) = link.split_once('@')
                && !known(device)
            {
                detach(&self.pins, device)?;
            }
        }
        Ok(())
    }

    /// Lets the proxy of this user have connections.
    fn steer(&mut self, user: u32) -> Result<()> {
        ensure!(
            Feature::SocketLookup.is_there()?,
            "this kernel has no {}",
            Feature::SocketLookup.name()
        );
        attach_lookup(&mut self.programs, &self.pins)?;
        Steering::allow(&self.pins, user)?;
        Ok(())
    }
}

fn config(options: &Options, facts: &Facts) -> Result<DatapathConfig> {
    let first = |is_wanted: fn(&IpAddr) -> bool| {
        facts
            .addresses
            .iter()
            .copied()
            .find(is_wanted)
            .map(Addr::from)
            .unwrap_or_default()
    };
    let (first_port, last_port) = options.snat_ports;
    let dsr_port = match options.forwarding {
        Forwarding::Snat => 0,
        Forwarding::SnatAcceptDsr | Forwarding::Dsr => options.dsr_port,
    };
    ensure!(
        !(first_port..=last_port).contains(&dsr_port),
        "--dsr-port {dsr_port} is one of --snat-ports"
    );
    Ok(DatapathConfig {
        snat_v4: first(IpAddr::is_ipv4),
        snat_v6: first(IpAddr::is_ipv6),
        host_netns_cookie: host_netns_cookie(),
        seed: options.seed,
        snat_port_first: Port::new(first_port),
        snat_port_last: Port::new(last_port),
        dsr_port: Port::new(dsr_port),
        forwards_by_dsr: u8::from(options.forwarding == Forwarding::Dsr),
        zero: [0; 5],
    })
}

fn map_sizes(options: &Options) -> MapSizes {
    MapSizes {
        frontends: options.max_frontends,
        services: options.max_services,
        backends: options.max_backends,
        slots: options.max_slots,
        affinities: options.max_affinities,
        connections: options.max_connections,
        ..MapSizes::default()
    }
}
