//! Devices and addresses of this node, followed as they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result};
use headgate_dataplane::{Device, LinkChanges};
use ipnet::IpNet;
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};
use tokio::{sync::watch, time::sleep};
use tracing::error;
use wildmatch::WildMatch;

/// Delay before devices are read again after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Which devices get programs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Selection {
    /// External devices, which lead out of the node, as globs; default: all with an address, except
    /// loopback and that of kube-proxy's IPVS mode
    #[arg(long = "devices", value_delimiter = ',')]
    external: Vec<String>,
    /// Host ends of the pods' devices, as globs
    #[arg(
        long = "pod-devices",
        value_delimiter = ',',
        default_value = "lxc*,veth*,cali*,cilium_*"
    )]
    pods: Vec<String>,
}

/// Devices, addresses and networks of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) devices: BTreeSet<Device>,
    /// Addresses of the external devices. The first of each family is the source address for remote
    /// hosts.
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses of all devices, but loopback and link-local ones.
    pub(crate) held: BTreeSet<IpAddr>,
    /// Networks of these addresses.
    pub(crate) networks: BTreeSet<IpNet>,
}

impl Facts {
    /// The first address of each family: IPv4, IPv6.
    pub(super) fn primary(&self) -> [Option<IpAddr>; 2] {
        [IpAddr::is_ipv4, IpAddr::is_ipv6]
            .map(|is_wanted| self.addresses.iter().copied().find(is_wanted))
    }

    /// Names of the external devices.
    pub(crate) fn external(&self) -> Vec<&str> {
        let names = self.devices.iter().filter_map(|device| match device {
            Device::External(name) => Some(name.as_str()),
            Device::Pod(_) => None,
        });
        names.collect()
    }
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

/// The dummy device of IPVS mode: it holds every cluster IP, and no packet arrives on it.
const IPVS: &str = "kube-ipvs0";

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
    let mut links: BTreeMap<String, Vec<(IpAddr, IpNet)>> = BTreeMap::new();
    let mut loopback = BTreeSet::new();
    let mut facts = Facts::default();
    for interface in getifaddrs().context("cannot list network devices")? {
        if interface.interface_name == IPVS {
            continue;
        }
        if interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            loopback.insert(interface.interface_name.clone());
        }
        let addresses = links.entry(interface.interface_name).or_default();
        let ip = |socket: Option<SockaddrStorage>| {
            let socket = socket?;
            let v4 = socket.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| Some(IpAddr::from(socket.as_sockaddr_in6()?.ip())))
        };
        let Some(address) = ip(interface.address) else {
            continue;
        };
        let network = ip(interface.netmask).map(|mask| IpNet::with_netmask(address, mask));
        let network = network.and_then(Result::ok).unwrap_or(address.into());
        if !address.is_loopback() && !is_link_local(address) {
            facts.held.insert(address);
            addresses.push((address, network.trunc()));
        }
    }
    for (name, addresses) in links {
        if matches(&selection.pods, &name) {
            facts.devices.insert(Device::Pod(name));
            continue;
        }
        let by_default = selection.external.is_empty();
        let is_external = match by_default {
            true => !addresses.is_empty() && !loopback.contains(&name),
            false => matches(&selection.external, &name),
        };
        if is_external || by_default {
            for (address, network) in addresses {
                facts.addresses.push(address);
                facts.networks.insert(network);
            }
        }
        if is_external {
            facts.devices.insert(Device::External(name));
        }
    }
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
        let now = read(selection)?;
        *is_failing = false;
        facts.send_if_modified(|before| {
            let is_new = *before != now;
            *before = now;
            is_new
        });
        changes.changed().await?;
    }
}
