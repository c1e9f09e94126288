//! What the flags mean on this node, resolved once.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use headgate_abi::{Addr, DatapathConfig, PodSockets, Port, Timeouts};
use headgate_control::Served;
use headgate_dataplane::{MapSizes, TcAttach, cgroup_root};
use headgate_model::{Node, gateway::GatewayOptions};

use super::{
    args::{AgentArgs, Forwarding, NodePortAddresses, ServiceCidr, SocketScope},
    node::{Facts, Selection},
};

/// Source ranges of all Services together.
const SOURCE_RANGES: u32 = 1 << 16;

/// Configuration of an agent, a part for each of its jobs.
pub(super) struct AgentConfig {
    pub(super) node: NodeConfig,
    pub(super) datapath: DatapathSettings,
    pub(super) hooks: HookConfig,
    pub(super) api: ApiConfig,
}

/// The node, as far as flags decide.
pub(super) struct NodeConfig {
    pub(super) name: String,
    /// Folder of manifests, read instead of the Kubernetes API.
    pub(super) source: Option<PathBuf>,
    pub(super) selection: Selection,
    node_port_addresses: Vec<NodePortAddresses>,
    serves_external_ips: bool,
    /// Whether pods decide by a label about their sockets.
    pub(super) pods_opt_out: bool,
    /// Where the addresses of API servers are kept.
    pub(super) api_servers_file: Option<PathBuf>,
    /// Services that this agent serves.
    pub(super) served: Served,
    /// Options of Gateways; `None` if their TCP and UDP listeners are not served.
    pub(super) gateways: Option<GatewayOptions>,
    /// Empty: those of the API.
    pub(super) service_cidrs: Vec<ServiceCidr>,
}

/// Behaviour of the programs, and sizes of their maps.
pub(super) struct DatapathSettings {
    pub(super) seed: u32,
    /// Slots of a Maglev table, at least.
    pub(super) maglev_size: u32,
    /// First and last source port of packets to other nodes.
    snat_ports: (u16, u16),
    /// UDP port of DSR packets; 0 if they are not accepted.
    dsr_port: u16,
    forwards_by_dsr: bool,
    leaves_pods: PodSockets,
    timeouts: Timeouts,
    pub(super) sizes: MapSizes,
    /// Memory that the maps may take which the agent writes, in bytes.
    pub(super) most_map_bytes: u64,
}

/// Where programs are attached.
pub(super) struct HookConfig {
    pub(super) pins: PathBuf,
    pub(super) cgroup: PathBuf,
    /// User id of the L7 proxy.
    pub(super) proxy_user: Option<u32>,
    pub(super) tc_attach: TcAttach,
}

/// What the agent serves over HTTP.
pub(super) struct ApiConfig {
    pub(super) healthz: SocketAddr,
    pub(super) metrics: SocketAddr,
    /// Services, and backends, with metrics of their own.
    pub(super) max_series: usize,
    #[cfg(feature = "page")]
    pub(super) page: Option<SocketAddr>,
}

impl AgentConfig {
    /// Resolves the flags.
    ///
    /// # Errors
    /// If flags contradict each other, or the kernel lacks cgroup2.
    pub(super) fn new(pins: &Path, args: AgentArgs) -> Result<Self> {
        Ok(Self {
            node: NodeConfig::new(&args),
            datapath: DatapathSettings::new(&args)?,
            hooks: HookConfig {
                pins: pins.into(),
                cgroup: match args.cgroup {
                    Some(path) => path,
                    None => cgroup_root()?.context("cgroup2 is not mounted")?,
                },
                proxy_user: args.proxy_user,
                tc_attach: match args.tc_attach {
                    Some(chosen) => chosen,
                    None => TcAttach::best()?,
                },
            },
            api: ApiConfig {
                healthz: args.healthz_bind_address,
                metrics: args.metrics_bind_address,
                max_series: args.metrics_max_series,
                #[cfg(feature = "page")]
                page: args.common.page_bind_address,
            },
        })
    }
}

impl NodeConfig {
    fn new(args: &AgentArgs) -> Self {
        Self {
            name: args.common.node_name.clone(),
            source: args.common.source.clone(),
            selection: args.selection.clone(),
            node_port_addresses: args.nodeport_addresses.clone(),
            serves_external_ips: !args.no_external_ips,
            pods_opt_out: args.socket_scope == SocketScope::OptOut,
            api_servers_file: args.api_servers_file.clone(),
            served: Served {
                proxy_name: args.service_proxy_name.clone(),
                namespaces: args.namespaces.iter().cloned().collect(),
            },
            gateways: (args.gateways || args.common.source.is_some()).then(|| GatewayOptions {
                controller: args.gateway_controller.clone(),
                judges_certificates: false,
                ..GatewayOptions::default()
            }),
            service_cidrs: args.service_cidrs.clone(),
        }
    }

    /// The node for the model.
    pub(super) fn node(&self, facts: &Facts) -> Node {
        let loopback = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ];
        let candidates = facts.addresses.iter().copied().chain(loopback);
        Node {
            name: self.name.clone(),
            zone: None,
            addresses: facts.held.iter().copied().collect(),
            own_addresses: facts.own(),
            networks: facts.networks.iter().copied().collect(),
            node_port_addresses: candidates
                .filter(|address| self.serves_node_ports(facts, *address))
                .collect(),
            serves_external_ips: self.serves_external_ips,
        }
    }

    fn serves_node_ports(&self, facts: &Facts, address: IpAddr) -> bool {
        let mut choices = self.node_port_addresses.iter();
        self.node_port_addresses.is_empty()
            || choices.any(|choice| match choice {
                NodePortAddresses::Primary => facts.primary().contains(&Some(address)),
                NodePortAddresses::Range(range) => range.contains(&address),
            })
    }
}

impl DatapathSettings {
    fn new(args: &AgentArgs) -> Result<Self> {
        let dsr_port = match args.forwarding {
            Forwarding::Snat => 0,
            Forwarding::SnatAcceptDsr | Forwarding::Dsr => args.dsr_port,
        };
        ensure!(
            args.socket_scope != SocketScope::OptOut || args.common.source.is_none(),
            "--socket-scope opt-out reads labels of pods from the Kubernetes API, and not with --source"
        );
        let (first_port, last_port) = args.snat_ports;
        ensure!(
            !(first_port..=last_port).contains(&dsr_port),
            "--dsr-port {dsr_port} is one of --snat-ports"
        );
        Ok(Self {
            seed: args.seed,
            maglev_size: args.maglev_size,
            snat_ports: args.snat_ports,
            dsr_port,
            forwards_by_dsr: args.forwarding == Forwarding::Dsr,
            leaves_pods: match args.socket_scope {
                SocketScope::All => PodSockets::NONE,
                SocketScope::OptOut => PodSockets::OPTED_OUT,
                SocketScope::Host => PodSockets::ALL,
            },
            timeouts: timeouts(args),
            most_map_bytes: u64::from(args.max_map_memory) << 20,
            sizes: MapSizes {
                frontends: args.max_frontends,
                services: args.max_services,
                backends: args.max_backends,
                slots: args.max_slots,
                affinities: args.max_affinities,
                connections: args.max_connections,
                source_ranges: SOURCE_RANGES,
                members: args.max_backends,
                sockets: args.max_sockets,
            },
        })
    }

    /// Read-only configuration of the programs for the addresses that the node has now.
    pub(super) fn config(&self, facts: &Facts) -> DatapathConfig {
        let [v4, v6] = facts.primary();
        let address = |ip: Option<IpAddr>| ip.map(Addr::from).unwrap_or_default();
        DatapathConfig {
            snat_v4: address(v4),
            snat_v6: address(v6),
            host_netns_cookie: headgate_dataplane::host_netns_cookie(),
            seed: self.seed,
            snat_port_first: Port::new(self.snat_ports.0),
            snat_port_last: Port::new(self.snat_ports.1),
            dsr_port: Port::new(self.dsr_port),
            forwards_by_dsr: u8::from(self.forwards_by_dsr),
            leaves_pods: self.leaves_pods,
            routes_replies: u8::from(facts.routes_by_source),
            zero: [0; 3],
            timeouts: self.timeouts,
        }
    }
}

/// The lifetimes of connections. 0 stands for what `nf_conntrack` has without kube-proxy.
fn timeouts(args: &AgentArgs) -> Timeouts {
    let or = |seconds: u32, default: u32| if seconds == 0 { default } else { seconds };
    Timeouts {
        tcp_established_s: or(args.conntrack_tcp_timeout_established, 5 * 24 * 3600),
        tcp_close_wait_s: or(args.conntrack_tcp_timeout_close_wait, 60),
        udp_s: or(args.conntrack_udp_timeout, 30),
        udp_stream_s: or(args.conntrack_udp_timeout_stream, 120),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use clap::Parser;

    use super::{AgentArgs, DatapathSettings, Facts, NodeConfig, PodSockets, Timeouts};

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn args(flags: &[&str]) -> AgentArgs {
        let all = ["agent", "--node-name", "n1"].iter().chain(flags);
        Flags::try_parse_from(all).unwrap().args
    }

    fn facts(addresses: &[&str]) -> Facts {
        Facts {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..Facts::default()
        }
    }

    #[test]
    fn dsr_port_is_not_a_snat_port() {
        for (flags, is_ok) in [
            (&["--forwarding", "dsr", "--dsr-port", "20000"][..], false),
            (
                &["--forwarding", "snat-accept-dsr", "--dsr-port", "20000"],
                false,
            ),
            (&["--dsr-port", "20000"], true),
            (&["--forwarding", "dsr"], true),
        ] {
            let settings = DatapathSettings::new(&args(flags));
            assert_eq!(settings.is_ok(), is_ok, "{flags:?}");
        }
    }

    #[test]
    fn s178_labels_of_pods_are_read_from_the_api_alone() {
        let config = |flags: &[&str]| {
            let settings = DatapathSettings::new(&args(flags)).ok()?;
            Some(settings.config(&facts(&[])).leaves_pods)
        };
        assert_eq!(config(&[]), Some(PodSockets::NONE));
        let host = &["--socket-scope", "host", "--source", "."];
        assert_eq!(config(host), Some(PodSockets::ALL));
        let opt_out = &["--socket-scope", "opt-out", "--source", "."];
        assert_eq!(config(&opt_out[..2]), Some(PodSockets::OPTED_OUT));
        assert_eq!(config(opt_out), None);
    }

    #[test]
    fn programs_get_the_first_address_of_each_family_and_the_ports() {
        let flags = ["--snat-ports", "1000-2000", "--forwarding", "dsr"];
        let settings = DatapathSettings::new(&args(&flags)).unwrap();
        let config = settings.config(&facts(&["10.0.0.7", "10.0.0.1", "fd00::1"]));
        let addresses = [config.snat_v4, config.snat_v6].map(IpAddr::from);
        assert_eq!(
            addresses.map(|address| address.to_string()),
            ["10.0.0.7", "fd00::1"]
        );
        let ports = [
            config.snat_port_first,
            config.snat_port_last,
            config.dsr_port,
        ];
        assert_eq!(ports.map(|port| port.number()), [1000, 2000, 6090]);
        assert_eq!(config.forwards_by_dsr, 1);
    }

    #[test]
    fn s101_timeouts_have_the_names_and_defaults_of_kube_proxy() {
        let timeouts = |flags: &[&str]| {
            let all = ["agent", "--node-name", "n1"].iter().chain(flags);
            let args = Flags::try_parse_from(all).ok()?.args;
            Some(DatapathSettings::new(&args).unwrap().timeouts)
        };
        let default = timeouts(&[]).unwrap();
        assert_eq!(default, Timeouts::DEFAULT);
        assert_eq!(
            (default.tcp_established_s, default.tcp_close_wait_s),
            (86_400, 3600)
        );
        let zero = timeouts(&[
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]);
        let zero = zero.unwrap();
        assert_eq!(
            (zero.tcp_established_s, zero.tcp_close_wait_s),
            (432_000, 60)
        );
        for (flag, wanted) in [
            ("--conntrack-udp-timeout=10s", Some((10, 120))),
            ("--conntrack-udp-timeout-stream=1h2m3s", Some((30, 3723))),
            ("--conntrack-udp-timeout-stream=3", None),
            ("--conntrack-udp-timeout-stream=", None),
            ("--conntrack-udp-timeout-stream=-1s", None),
            ("--conntrack-udp-timeout-stream=99999h", None),
            ("--conntrack-udp-timeout-stream=1500ms", None),
            ("--conntrack-udp-timeout-stream=h", None),
        ] {
            let parsed = timeouts(&[flag]);
            let udp = parsed.map(|parsed| (parsed.udp_s, parsed.udp_stream_s));
            assert_eq!(udp, wanted, "{flag}");
        }
    }

    #[test]
    fn node_ports_are_served_on_the_chosen_addresses() {
        let facts = facts(&["10.0.0.7", "10.0.0.1", "fd00::1"]);
        for (choice, served) in [
            (None, "10.0.0.7 10.0.0.1 fd00::1 127.0.0.1 ::1"),
            (Some("primary"), "10.0.0.7 fd00::1"),
            (Some("10.0.0.0/30,::1/128"), "10.0.0.1 ::1"),
            (Some("192.0.2.0/24"), ""),
        ] {
            let flags: Vec<&str> = choice
                .iter()
                .flat_map(|choice| ["--nodeport-addresses", choice])
                .collect();
            let config = NodeConfig::new(&args(&flags));
            let addresses = config.node(&facts).node_port_addresses;
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(addresses.join(" "), served, "{choice:?}");
        }
    }
}
