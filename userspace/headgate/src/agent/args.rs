//! Flags of `headgate agent`.

use std::{net::SocketAddr, path::PathBuf};

use headgate_datapath::maglev;
use headgate_dataplane::TcAttach;
use ipnet::IpNet;
use jiff::SignedDuration;

use super::node::Selection;
use crate::process::CommonArgs;

#[derive(clap::Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) selection: Selection,
    /// Cgroup whose sockets are load-balanced; default: the root of cgroup2
    #[arg(long)]
    pub(super) cgroup: Option<PathBuf>,
    /// File that keeps the addresses of all API servers: those that the environment or the kubeconfig names are tried
    /// first
    #[arg(long, value_name = "FILE")]
    pub(super) api_servers_file: Option<PathBuf>,
    /// Serve only Services whose label service.kubernetes.io/service-proxy-name has this value, beside another
    /// service proxy; default: those without the label
    #[arg(long)]
    pub(super) service_proxy_name: Option<String>,
    /// Serve only Services of these namespaces, beside another service proxy; default: all
    #[arg(long, value_delimiter = ',')]
    pub(super) namespaces: Vec<String>,
    /// Serve TCPRoutes and UDPRoutes of the cluster's Gateways as well, which needs a role that may read them; those of
    /// a folder are always served
    #[arg(long)]
    pub(super) gateways: bool,
    /// Serve Gateways of GatewayClasses with this `spec.controllerName`
    #[arg(long, default_value = "headgate.io/gateway")]
    pub(super) gateway_controller: String,
    /// Whose sockets are load-balanced
    #[arg(long, value_enum, default_value_t)]
    pub(super) socket_scope: SocketScope,
    /// Node addresses that serve NodePorts: CIDRs, or `primary` for the first address of each
    /// family; default: all addresses of the external devices, and loopback for the node itself
    #[arg(long, value_delimiter = ',', value_parser = parse_node_port_addresses)]
    pub(super) nodeport_addresses: Vec<NodePortAddresses>,
    /// User id of the L7 proxy, which may then receive connections to any port of this node; the
    /// agent needs CAP_CHOWN for it
    #[arg(long, value_name = "UID")]
    pub(super) proxy_user: Option<u32>,
    /// How TC programs are attached, tcx or clsact; default: TCX if the kernel has it
    #[arg(long, hide = true, value_parser = parse_tc_attach)]
    pub(super) tc_attach: Option<TcAttach>,
    /// Do not serve `spec.externalIPs`: a user who may create Services can claim any address with it
    #[arg(long)]
    pub(super) no_external_ips: bool,
    /// Ranges of addresses that the cluster assigns to Services, as CIDRs: traffic to an address that
    /// no Service has is refused. `none` beside another service proxy; default: the ServiceCIDRs of
    /// the Kubernetes API
    #[arg(long, value_delimiter = ',', value_parser = parse_service_cidr)]
    pub(super) service_cidrs: Vec<ServiceCidr>,
    /// Address of `/healthz`, `/livez` and `/readyz`
    #[arg(long, default_value = "0.0.0.0:10256")]
    pub(super) healthz_bind_address: SocketAddr,
    /// Address of `/metrics`
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub(super) metrics_bind_address: SocketAddr,
    /// Maximum number of Services, and of backends, with metrics of their own; the others are
    /// summed up as `other`
    #[arg(long, default_value_t = 1000)]
    pub(super) metrics_max_series: usize,
    /// Source ports of packets to other nodes. They must not overlap with `ip_local_port_range` or
    /// the NodePort range
    #[arg(long, default_value = "10000-29999", value_parser = parse_ports)]
    pub(super) snat_ports: (u16, u16),
    /// How packets from outside reach backends on other nodes. `dsr`: the backend's node answers the
    /// client directly, and the backend sees the client's address; packets between nodes grow by 32
    /// bytes (52 over IPv6). To switch, first set `snat-accept-dsr` on all nodes, then `dsr`; the
    /// same on the way back
    #[arg(long, value_enum, default_value_t = Forwarding::Snat)]
    pub(super) forwarding: Forwarding,
    /// UDP port for DSR packets between nodes, the same on every node. Allow it between nodes only:
    /// a sender can forge any client address
    #[arg(long, default_value_t = 6090)]
    pub(super) dsr_port: u16,
    /// Seed of the hashes, the same on every node
    #[arg(long, default_value_t = 0x4865_6164)]
    pub(super) seed: u32,
    /// Minimum size of a Service's Maglev table, in slots: 251, 509, 1021, 2039, 4093, 8191, 16381,
    /// 32749, 65521 or 131071
    #[arg(long, default_value_t = 4093, value_parser = parse_table_size)]
    pub(super) maglev_size: u32,
    /// How long an established TCP connection is kept without a packet, for example 24h0m0s; 0s: 5 days,
    /// as the kernel's connection tracking does
    #[arg(long, default_value = "24h", value_parser = parse_seconds)]
    pub(super) conntrack_tcp_timeout_established: u32,
    /// How long a TCP connection is kept without a packet after one end has closed it; 0s: 60 seconds
    #[arg(long, default_value = "1h", value_parser = parse_seconds)]
    pub(super) conntrack_tcp_timeout_close_wait: u32,
    /// How long a UDP flow without a reply is kept; 0s: 30 seconds
    #[arg(long, default_value = "0s", value_parser = parse_seconds)]
    pub(super) conntrack_udp_timeout: u32,
    /// How long a UDP flow with replies is kept without a packet; 0s: 120 seconds
    #[arg(long, default_value = "0s", value_parser = parse_seconds)]
    pub(super) conntrack_udp_timeout_stream: u32,
    /// Maximum number of connection entries; a connection has two
    #[arg(long, default_value_t = 1 << 19)]
    pub(super) max_connections: u32,
    /// Maximum number of open sockets that the socket hooks have translated; further ones are counted as
    /// sockets-full. Packets of further sockets of pods are translated instead; further sockets of the node show
    /// the backend's address
    #[arg(long, default_value_t = 1 << 16)]
    pub(super) max_sockets: u32,
    /// Maximum number of clients of Services with session affinity
    #[arg(long, default_value_t = 1 << 16)]
    pub(super) max_affinities: u32,
    /// Memory, in MiB, that the maps of frontends, services, backends and slots may take. If the cluster has more of
    /// these than the options below say, the maps become larger. What does not fit is refused, the youngest first
    #[arg(long, value_name = "MIB", default_value_t = 1 << 10)]
    pub(super) max_map_memory: u32,
    /// Frontends that there is room for at first
    #[arg(long, default_value_t = 1 << 16)]
    pub(super) max_frontends: u32,
    /// Services that there is room for at first, one for each port, IP family and traffic policy of a Service
    #[arg(long, default_value_t = 1 << 16)]
    pub(super) max_services: u32,
    /// Backends that there is room for at first
    #[arg(long, default_value_t = 1 << 17)]
    pub(super) max_backends: u32,
    /// Slots of all services together that there is room for at first
    #[arg(long, default_value_t = 1 << 22)]
    pub(super) max_slots: u32,
}

/// Whose sockets are load-balanced. Other sockets are served by their packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum SocketScope {
    /// Those of all processes of the cgroup.
    #[default]
    All,
    /// The same, but for pods with the label `headgate.io/socket-balancing=disabled`: the agent watches the pods of its
    /// node that have it
    OptOut,
    /// Those of the node's network namespace: sidecars and virtual machines in pods see the Service's address
    Host,
}

/// How packets from outside reach backends on other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Forwarding {
    /// The source address becomes this node's; replies return through this node.
    Snat,
    /// As `snat`; DSR packets from other nodes are accepted.
    SnatAcceptDsr,
    /// The whole packet goes to the backend's node, which answers the client directly.
    Dsr,
}

/// Which addresses serve NodePorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodePortAddresses {
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

/// A range of Service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceCidr {
    /// No addresses.
    None,
    /// Those in a range.
    Range(IpNet),
}

fn parse_service_cidr(text: &str) -> Result<ServiceCidr, String> {
    if text == "none" {
        return Ok(ServiceCidr::None);
    }
    match text.parse::<IpNet>() {
        Ok(range) if range.prefix_len() > 0 => Ok(ServiceCidr::Range(range)),
        _ => Err("write a CIDR, or `none`".into()),
    }
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

/// Whole seconds of a duration, as kube-proxy's options write it.
fn parse_seconds(text: &str) -> Result<u32, String> {
    // A year is more than any connection needs, and far below where the clock wraps.
    const MOST_S: u32 = 366 * 24 * 3600;
    let duration: Option<SignedDuration> = text.parse().ok();
    duration
        .filter(|duration| duration.subsec_nanos() == 0)
        .and_then(|duration| u32::try_from(duration.as_secs()).ok())
        .filter(|seconds| *seconds <= MOST_S)
        .ok_or_else(|| "write whole seconds, at most a year, for example 24h0m0s".into())
}

fn parse_table_size(text: &str) -> Result<u32, String> {
    let size = text
        .parse()
        .ok()
        .filter(|size| maglev::SIZES.contains(size));
    size.ok_or_else(|| format!("choose one of {:?}", maglev::SIZES))
}
