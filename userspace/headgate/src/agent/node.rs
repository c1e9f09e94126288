//! Devices and addresses of this node, followed as they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use headgate_abi::DatapathConfig;
use headgate_dataplane::{
    Device, Interface, InterfaceKind, LinkChanges, Role, interfaces, sources_with_rules,
};
use ipnet::IpNet;
use tokio::{sync::watch, time::sleep};
use tracing::error;
use wildmatch::WildMatch;

/// Delay before devices are read again after an error.
const RETRY: Duration = Duration::from_secs(1);
/// The pause after devices were read, as a multiple of the time that it took.
const REST: u32 = 9;
/// The longest such pause.
const MAX_REST: Duration = Duration::from_secs(10);

/// Which devices get programs.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Selection {
    /// External devices, which lead out of the node, as globs; default: all that have an address or a route and
    /// lead to no pod
    #[arg(long = "devices", value_delimiter = ',')]
    external: Vec<String>,
    /// Host ends of the pods' devices, as globs; default: found by their routes and bridges
    #[arg(long = "pod-devices", value_delimiter = ',')]
    pods: Vec<String>,
    /// Which external devices get XDP, if their driver has it
    #[arg(long, value_enum, default_value_t)]
    xdp: Xdp,
}

/// Which external devices get XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Xdp {
    /// All but veth devices, where it costs more than TC: the kernel copies each packet for it
    #[default]
    Auto,
    /// All
    Always,
    /// None
    Never,
}

/// Devices, addresses and networks of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) devices: BTreeSet<Device>,
    /// Names of external devices that may lead to pods: neither a route nor an option decides.
    pub(crate) doubtful: Vec<String>,
    /// Addresses of the external devices. The first of each family is the source address for remote
    /// hosts.
    pub(crate) addresses: Vec<IpAddr>,
    /// What the node sends from by each external device, by its number: IPv4, IPv6.
    pub(crate) sources: BTreeMap<u32, [Option<IpAddr>; 2]>,
    /// Addresses of all devices, but loopback and link-local ones.
    pub(crate) held: BTreeSet<IpAddr>,
    /// Single addresses of external devices (/32, /128) beside those that the node sends from.
    pub(crate) virtual_addresses: BTreeSet<IpAddr>,
    /// Networks of these addresses.
    pub(crate) networks: BTreeSet<IpNet>,
    /// Whether rules route packets of pods by their source: replies may then leave by another device than their
    /// requests came by.
    pub(crate) routes_by_source: bool,
}

impl Facts {
    /// The first address of each family: IPv4, IPv6.
    pub(super) fn primary(&self) -> [Option<IpAddr>; 2] {
        firsts(self.addresses.iter().copied())
    }

    /// The addresses that are the node's own: all that it holds but single addresses of external devices that it does
    /// not send from. These may be virtual ones that move between nodes.
    pub(super) fn own(&self) -> Vec<IpAddr> {
        let is_virtual = |address: &&IpAddr| !self.virtual_addresses.contains(address);
        self.held.iter().filter(is_virtual).copied().collect()
    }

    /// The devices with the roles that programs of this configuration give them: with direct server return, one that
    /// may lead to pods is treated as if it did, because pods must not send encapsulated packets.
    pub(crate) fn devices_by(&self, config: &DatapathConfig) -> BTreeSet<Device> {
        let devices = self.devices.iter().cloned();
        devices
            .map(
                |device| match config.has_dsr() && self.doubtful.contains(&device.name) {
                    true => Device {
                        role: Role::Pod,
                        ..device
                    },
                    false => device,
                },
            )
            .collect()
    }

    /// The external devices.
    pub(crate) fn external(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.is_external())
    }

    /// Derives the facts from what the kernel shows.
    fn new(selection: &Selection, interfaces: &[Interface]) -> Self {
        let mut facts = Self::default();
        for interface in interfaces {
            let is_of_machine =
                |network: &&IpNet| !network.addr().is_loopback() && !is_link_local(network.addr());
            let addresses = interface.addresses.iter().filter(is_of_machine);
            let addresses: Vec<&IpNet> = addresses.collect();
            if IPVS.contains(&interface.name.as_str()) {
                continue;
            }
            facts
                .held
                .extend(addresses.iter().map(|network| network.addr()));
            let place = place(selection, interface, interfaces);
            let is_external = matches!(place, Place::External { .. });
            if is_external || place == Place::None && selection.external.is_empty() {
                facts
                    .addresses
                    .extend(addresses.iter().map(|network| network.addr()));
                facts
                    .networks
                    .extend(addresses.iter().map(|network| network.trunc()));
            }
            let role = match place {
                Place::None => continue,
                Place::Pod => Role::Pod,
                Place::External { .. } if interface.has_link_header => Role::External,
                Place::External { .. } => Role::ExternalL3,
            };
            if place == (Place::External { is_doubtful: true }) {
                facts.doubtful.push(interface.name.clone());
            }
            if is_external && !addresses.is_empty() {
                let sources = firsts(addresses.iter().map(|network| network.addr()));
                let is_virtual = |network: &&&IpNet| {
                    let is_single = network.prefix_len() == network.max_prefix_len();
                    is_single && !sources.contains(&Some(network.addr()))
                };
                let virtuals = addresses.iter().filter(is_virtual);
                facts
                    .virtual_addresses
                    .extend(virtuals.map(|network| network.addr()));
                facts.sources.insert(interface.index, sources);
            }
            facts.devices.insert(Device {
                name: interface.name.clone(),
                index: interface.index,
                role,
                wants_xdp: match selection.xdp {
                    Xdp::Auto => interface.kind != InterfaceKind::Pair,
                    Xdp::Always => true,
                    Xdp::Never => false,
                },
            });
        }
        facts
    }
}

/// The first address of each family: IPv4, IPv6.
fn firsts(addresses: impl Iterator<Item = IpAddr> + Clone) -> [Option<IpAddr>; 2] {
    [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|is_wanted| addresses.clone().find(is_wanted))
}

fn matches(globs: &[String], name: &str) -> bool {
    globs.iter().any(|glob| WildMatch::new(glob).matches(name))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Dummy devices of service proxies in IPVS mode: they hold every cluster IP, and no packet arrives on them.
const IPVS: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];

/// Where a device leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere that matters, or its packets pass another device that gets programs.
    None,
    /// To a pod of this node.
    Pod,
    /// Out of the node.
    External {
        /// Whether it may also lead to a pod.
        is_doubtful: bool,
    },
}

/// Decides by what a device is, unless an option names it. What is external by mistake is served nevertheless: its
/// packets get the node's address where they need one.
fn place(selection: &Selection, interface: &Interface, all: &[Interface]) -> Place {
    const EXTERNAL: Place = Place::External { is_doubtful: false };
    let name = &interface.name;
    if matches(&selection.pods, name) {
        return Place::Pod;
    }
    if matches(&selection.external, name) {
        return EXTERNAL;
    }
    let is_of_pod = selection.pods.is_empty() && leads_to_pod(interface, all);
    let is_used = interface.has_router || interface.has_network || interface.has_host;
    let mut addresses = interface.addresses.iter();
    let is_used = is_used || addresses.any(|network| !is_link_local(network.addr()));
    // Packets of a port pass the bridge or bond.
    let is_port = all.iter().any(|other| {
        interface.controller == Some(other.index)
            && matches!(other.kind, InterfaceKind::Bridge | InterfaceKind::Bond)
    });
    match interface.kind {
        _ if is_of_pod => Place::Pod,
        _ if !selection.external.is_empty() || !is_used || is_port => Place::None,
        InterfaceKind::Loopback | InterfaceKind::Dummy | InterfaceKind::Foreign => Place::None,
        InterfaceKind::Bridge if is_bridge_of_pods(interface, all) => Place::None,
        InterfaceKind::Pair => Place::External {
            is_doubtful: interface.leads_elsewhere
                && !interface.has_router
                && selection.pods.is_empty(),
        },
        _ => EXTERNAL,
    }
}

/// Whether a device is the host's end of a pod's: its other end is in another network namespace, and it leads to
/// single hosts alone, or to a bridge of pods.
fn leads_to_pod(interface: &Interface, all: &[Interface]) -> bool {
    if let Some(bridge) = interface.controller {
        let bridge = all.iter().find(|other| other.index == bridge);
        return is_port_of_pod(interface)
            && bridge.is_some_and(|bridge| {
                bridge.kind == InterfaceKind::Bridge && is_bridge_of_pods(bridge, all)
            });
    }
    let is_network = |network: &IpNet| {
        network.prefix_len() != network.max_prefix_len() && !is_link_local(network.addr())
    };
    interface.kind == InterfaceKind::Pair
        && interface.leads_elsewhere
        && !interface.has_router
        && !interface.has_network
        && !interface.addresses.iter().any(is_network)
}

/// Whether a port of a bridge may be that of a pod or a virtual machine.
fn is_port_of_pod(interface: &Interface) -> bool {
    match interface.kind {
        InterfaceKind::Pair => interface.leads_elsewhere,
        kind => kind == InterfaceKind::Tap,
    }
}

/// Whether all ports of a bridge are those of pods: none leads out of the node, and no route over it to a router.
fn is_bridge_of_pods(bridge: &Interface, all: &[Interface]) -> bool {
    let is_port = |other: &&Interface| other.controller == Some(bridge.index);
    !bridge.has_router
        && all.iter().any(|other| is_port(&other))
        && all.iter().filter(is_port).all(is_port_of_pod)
}

/// Source addresses that the kernel would use for remote hosts. Nothing is sent.
fn outgoing() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): only the default route leads to them.
    let far: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), [192, 0, 2, 1].into()),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        ),
    ];
    let source = |(any, far)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    far.into_iter().filter_map(source).collect()
}

/// Reads the devices and addresses of this thread's network namespace.
pub(crate) fn read(selection: &Selection) -> Result<Facts> {
    let interfaces = interfaces().context("cannot list network devices")?;
    let mut facts = Facts::new(selection, &interfaces);
    let ruled = sources_with_rules().context("cannot list routing rules")?;
    let is_own = |source: &IpNet| facts.held.contains(&source.addr());
    facts.routes_by_source = !ruled.iter().all(is_own);
    let outgoing = outgoing();
    facts
        .addresses
        .sort_by_key(|address| !outgoing.contains(address));
    Ok(facts)
}

/// Publishes the facts again whenever the kernel reports a changed device, address or route. An error,
/// for example without free descriptors, is logged, and everything is read again.
pub(super) async fn follow(selection: &Selection, facts: watch::Sender<Facts>) {
    let mut is_failing = false;
    loop {
        let Err(error) = follow_changes(selection, &facts, &mut is_failing).await;
        if !std::mem::replace(&mut is_failing, true) {
            error!(
                error = format!("{error:#}"),
                "cannot follow devices; trying again"
            );
        }
        sleep(RETRY).await;
    }
}

async fn follow_changes(
    selection: &Selection,
    facts: &watch::Sender<Facts>,
    is_failing: &mut bool,
) -> Result<Infallible> {
    let mut changes = LinkChanges::subscribe()?;
    loop {
        // Read after subscribing, so that no change is missed.
        let start = Instant::now();
        let now = read(selection)?;
        let took = start.elapsed();
        *is_failing = false;
        facts.send_if_modified(|before| {
            let is_new = *before != now;
            *before = now;
            is_new
        });
        changes.changed().await?;
        // A router's table may be long, and change all the time.
        sleep((took * REST).min(MAX_REST)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Interface, InterfaceKind, Role, Selection, Xdp};

    /// An interface by its number: name, kind, addresses, and what routes lead over it, as words.
    fn interface(index: u32, name: &str, kind: InterfaceKind, words: &str) -> Interface {
        let mut interface = Interface {
            index,
            name: name.into(),
            kind,
            has_link_header: true,
            ..Interface::default()
        };
        for word in words.split_whitespace() {
            match word.split_once('=') {
                Some(("on", number)) => interface.controller = Some(number.parse().unwrap()),
                Some(_) => panic!("{word}"),
                None if word == "elsewhere" => interface.leads_elsewhere = true,
                None if word == "router" => interface.has_router = true,
                None if word == "network" => interface.has_network = true,
                None if word == "host" => interface.has_host = true,
                None if word == "l3" => interface.has_link_header = false,
                None => interface.addresses.push(word.parse().unwrap()),
            }
        }
        interface
    }

    use InterfaceKind::{Bond, Bridge, Dummy, Loopback, Other, Pair, Tap};

    /// Name, kind, addresses and routes as words, and where the device leads.
    type Row = (&'static str, InterfaceKind, &'static str, &'static str);

    /// What network plugins make of a node.
    const NODES: &[(&str, &[Row])] = &[
        (
            "plain",
            &[
                ("lo", Loopback, "127.0.0.1/8 ::1/128", ""),
                (
                    "eth0",
                    Other,
                    "192.168.50.1/24 fd50::1/64 router network",
                    "external",
                ),
                ("eth1", Other, "fe80::4/64", ""),
                ("nodelocaldns", Dummy, "169.254.20.10/32 10.96.0.10/32", ""),
                ("kube-ipvs0", Dummy, "10.96.0.1/32", ""),
            ],
        ),
        (
            "flannel with a bridge, VXLAN and Docker",
            &[
                ("eth0", Other, "192.168.50.1/24 router network", "external"),
                ("flannel.1", Other, "10.244.1.0/32 router", "external"),
                ("cni0", Bridge, "10.244.1.1/24 network", ""),
                ("veth1a2b", Pair, "elsewhere on=3", "pod"),
                ("docker0", Bridge, "172.17.0.1/16 network", "external"),
                ("tap7", Tap, "on=3", "pod"),
            ],
        ),
        (
            "Calico, IPIP and WireGuard",
            &[
                ("eth0", Other, "192.168.50.1/24 router network", "external"),
                (
                    "cali12ab34cd",
                    Pair,
                    "elsewhere fe80::ecee:eeff:feee:eeee/64 host",
                    "pod",
                ),
                ("tunl0", Other, "l3 10.244.1.0/32 router", "l3"),
                ("wireguard.cali", Other, "l3 10.244.1.1/32 network", "l3"),
            ],
        ),
        (
            "AWS, two cards",
            &[
                ("eth0", Other, "10.0.1.5/24 router network", "external"),
                ("eth1", Other, "10.0.1.77/24 router network", "external"),
                ("enid1c2", Pair, "elsewhere host", "pod"),
            ],
        ),
        (
            "Azure, GKE and Cilium",
            &[
                ("eth0", Other, "10.0.1.5/24 router network", "external"),
                ("azv3f", Pair, "elsewhere host", "pod"),
                ("gke52a", Pair, "elsewhere 10.8.0.1/32 host", "pod"),
                ("lxc77", Pair, "elsewhere", "pod"),
                ("cilium_host", Pair, "10.0.0.9/32 host", "external"),
                ("cilium_net", Pair, "", ""),
            ],
        ),
        (
            "a node in a container, with kindnet",
            &[
                (
                    "eth0",
                    Pair,
                    "elsewhere 172.18.0.3/16 router network",
                    "external",
                ),
                ("veth0c", Pair, "elsewhere 10.244.0.1/32 host", "pod"),
            ],
        ),
        (
            "host ends with a network of their own",
            &[
                ("eth0", Other, "192.168.50.1/24 router network", "external"),
                ("vp1", Pair, "elsewhere 10.77.1.1/24 network", "doubtful"),
                ("vp2", Pair, "elsewhere network", "doubtful"),
            ],
        ),
        (
            "a bridge over the network card, a bond, a VRF",
            &[
                ("br0", Bridge, "192.168.50.1/24 router network", "external"),
                ("eth0", Other, "on=1 fe80::1/64", ""),
                ("veth5", Pair, "elsewhere on=1 fe80::2/64", ""),
                ("bond0", Bond, "10.1.0.1/24 network", "external"),
                ("eth1", Other, "on=4 fe80::3/64", ""),
                ("eth2", Other, "10.2.0.1/24 network on=9", "external"),
            ],
        ),
    ];

    #[test]
    fn s163_devices_are_found_by_what_they_are() {
        for (node, rows) in NODES {
            let interfaces: Vec<Interface> = (1..)
                .zip(*rows)
                .map(|(index, (name, kind, words, _))| interface(index, name, *kind, words))
                .collect();
            let facts = Facts::new(&Selection::default(), &interfaces);
            for (name, _, _, wanted) in *rows {
                let device = facts.devices.iter().find(|device| device.name == *name);
                let found = match device.map(|device| device.role) {
                    None => "",
                    Some(Role::Pod) => "pod",
                    Some(Role::ExternalL3) => "l3",
                    Some(Role::External) if facts.doubtful.contains(&(*name).into()) => "doubtful",
                    Some(Role::External) => "external",
                };
                assert_eq!(found, *wanted, "{node}: {name}");
            }
        }
    }

    #[test]
    fn s163_options_overrule_what_devices_are() {
        let interfaces = [
            interface(1, "eth0", Other, "192.168.50.1/24 router network"),
            interface(2, "eth1", Other, "10.0.0.1/24 network"),
            interface(3, "vp1", Pair, "elsewhere 10.77.1.1/24 network"),
            interface(4, "cali1", Pair, "elsewhere host"),
        ];
        let names = |selection: &Selection| {
            let facts = Facts::new(selection, &interfaces);
            let name = |device: &super::Device| match device.is_external() {
                true => device.name.clone(),
                false => format!("({})", device.name),
            };
            let names: Vec<String> = facts.devices.iter().map(name).collect();
            (names.join(" "), facts.doubtful.join(" "))
        };
        let globs = |text: &str| text.split_whitespace().map(Into::into).collect();
        let both = |external: &str, pods: &str| {
            let selection = Selection {
                external: globs(external),
                pods: globs(pods),
                xdp: Xdp::Auto,
            };
            names(&selection)
        };
        assert_eq!(both("", ""), ("(cali1) eth0 eth1 vp1".into(), "vp1".into()));
        assert_eq!(both("eth0", ""), ("(cali1) eth0".into(), String::new()));
        assert_eq!(both("eth*,vp1".replace(',', " ").as_str(), "").1, "");
        assert_eq!(
            both("", "vp*"),
            ("cali1 eth0 eth1 (vp1)".into(), String::new())
        );
    }

    #[test]
    fn veth_devices_get_xdp_only_on_demand() {
        let interfaces = [
            interface(1, "eth0", Other, "192.168.50.1/24 router"),
            interface(2, "eth1", Pair, "elsewhere 10.0.0.1/24 router"),
        ];
        for (xdp, wanted) in [
            (Xdp::Auto, [true, false]),
            (Xdp::Always, [true; 2]),
            (Xdp::Never, [false; 2]),
        ] {
            let selection = Selection {
                xdp,
                ..Selection::default()
            };
            let facts = Facts::new(&selection, &interfaces);
            let found: Vec<bool> = facts
                .devices
                .iter()
                .map(|device| device.wants_xdp)
                .collect();
            assert_eq!(found, wanted, "{xdp:?}");
        }
    }
}
