//! The network interfaces of this node, with their addresses and routes (rtnetlink(7)).

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
        RouteProtocol, RouteType,
    },
    rule::{RuleAttribute, RuleMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::Netlink;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Number of the interface. Another interface with the same name has another number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: InterfaceKind,
    /// Whether its frames begin with an Ethernet header.
    pub has_link_header: bool,
    /// Number of the bridge, bond or VRF that it belongs to.
    pub controller: Option<u32>,
    /// Whether its other end, or the interface below it, is in another network namespace.
    pub leads_elsewhere: bool,
    /// Addresses with their networks, those that the kernel prefers as sources first.
    pub addresses: Vec<IpNet>,
    /// Whether a route leads over it to a router.
    pub has_router: bool,
    /// Whether a route leads over it to a network without a router.
    pub has_network: bool,
    /// Whether a route leads over it to a single host.
    pub has_host: bool,
}

/// What an interface is, as far as it decides about programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterfaceKind {
    /// The loopback interface.
    Loopback,
    /// One that only holds addresses.
    Dummy,
    /// A bridge, or a switch of Open vSwitch.
    Bridge,
    /// A bond or a team.
    Bond,
    /// One end of a pair: veth or netkit.
    Pair,
    /// One with a link layer that no program reads, as InfiniBand's.
    Foreign,
    /// A tap or tun interface: a virtual machine, or a tunnel of a process.
    Tap,
    /// Any other: network cards, VLANs, tunnels.
    #[default]
    Other,
}

/// Reads all interfaces of this thread's network namespace.
///
/// # Errors
///
/// If the kernel does not answer.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let links = netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let mut interfaces: BTreeMap<u32, Interface> = links
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some((link.header.index, interface(link))),
            _ => None,
        })
        .collect();
    let mut addresses: BTreeMap<u32, Vec<(u8, IpNet)>> = BTreeMap::new();
    for message in netlink.list(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(address) = address(&message)
        {
            let all = addresses.entry(message.header.index).or_default();
            all.push(address);
        }
    }
    for (index, mut all) in addresses {
        all.sort_by_key(|(rank, _)| *rank);
        if let Some(interface) = interfaces.get_mut(&index) {
            interface.addresses = all.into_iter().map(|(_, address)| address).collect();
        }
    }
    for message in netlink.list(RouteNetlinkMessage::GetRoute(RouteMessage::default()))? {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            note_route(&mut interfaces, &route);
        }
    }
    Ok(interfaces.into_values().collect())
}

fn interface(link: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        kind: match link.header.link_layer_type {
            LinkLayerType::Loopback => InterfaceKind::Loopback,
            LinkLayerType::Ether
            | LinkLayerType::None
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre
            | LinkLayerType::Ppp
            | LinkLayerType::Rawip => InterfaceKind::Other,
            _ => InterfaceKind::Foreign,
        },
        has_link_header: link.header.link_layer_type == LinkLayerType::Ether,
        ..Interface::default()
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Controller(index) => interface.controller = Some(index),
            LinkAttribute::LinkNetNsId(_) => interface.leads_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
                if let Some(kind) = kind.and_then(known_kind) {
                    interface.kind = kind;
                }
            }
            _ => {}
        }
    }
    interface
}

fn known_kind(kind: &InfoKind) -> Option<InterfaceKind> {
    Some(match kind {
        InfoKind::Dummy | InfoKind::Ifb | InfoKind::Nlmon => InterfaceKind::Dummy,
        InfoKind::Bridge => InterfaceKind::Bridge,
        InfoKind::Bond => InterfaceKind::Bond,
        InfoKind::Veth | InfoKind::Netkit => InterfaceKind::Pair,
        InfoKind::Tun => InterfaceKind::Tap,
        InfoKind::Other(name) if name == "openvswitch" => InterfaceKind::Bridge,
        InfoKind::Other(name) if name == "team" => InterfaceKind::Bond,
        _ => return None,
    })
}

/// Returns an address with its rank as a source: lower ones are preferred.
fn address(message: &AddressMessage) -> Option<(u8, IpNet)> {
    let prefix = message.header.prefix_len;
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // Of a point-to-point interface, `Address` is the other end. IPv6 has no `Local` otherwise.
    let ip = local.or(peer)?;
    let rank = [
        AddressFlags::Deprecated,
        AddressFlags::Tentative,
        AddressFlags::Secondary,
    ];
    let is_last = rank.iter().any(|flag| flags.contains(*flag));
    Some((u8::from(is_last), IpNet::new(ip, prefix).ok()?))
}

/// Notes where a route leads over the interfaces that it names.
fn note_route(interfaces: &mut BTreeMap<u32, Interface>, route: &RouteMessage) {
    // What a neighbour announces decides nothing: a pod may be that neighbour.
    let is_learned = matches!(
        route.header.protocol,
        RouteProtocol::Ra | RouteProtocol::IcmpRedirect
    );
    let is_cached = route.header.flags.contains(RouteFlags::Cloned);
    if route.header.kind != RouteType::Unicast || is_learned || is_cached {
        return;
    }
    let prefix = route.header.destination_prefix_length;
    let (mut oif, mut is_by_router, mut destination) = (None, false, None);
    let mut hops: &[RouteNextHop] = &[];
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => is_by_router = true,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
                destination = Some(IpAddr::V4(*ip))
            }
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => {
                destination = Some(IpAddr::V6(*ip));
            }
            RouteAttribute::MultiPath(all) => hops = all,
            // Of an announced network.
            RouteAttribute::CacheInfo(info) if info.expires != 0 => return,
            _ => {}
        }
    }
    let is_of_link = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || Ipv6Addr::is_multicast(&ip),
    };
    if destination.is_some_and(is_of_link) {
        return;
    }
    let is_host = match destination {
        Some(IpAddr::V4(_)) => prefix == 32,
        Some(IpAddr::V6(_)) => prefix == 128,
        None => false,
    };
    let hops = hops.iter().map(|hop| {
        let is_router = |attribute: &RouteAttribute| {
            matches!(
                attribute,
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_)
            )
        };
        (hop.interface_index, hop.attributes.iter().any(is_router))
    });
    for (index, is_by_router) in oif
        .map(|index| (index, is_by_router))
        .into_iter()
        .chain(hops)
    {
        let Some(interface) = interfaces.get_mut(&index) else {
            continue;
        };
        match (is_by_router, is_host) {
            (true, _) => interface.has_router = true,
            (false, true) => interface.has_host = true,
            (false, false) => interface.has_network = true,
        }
    }
}

/// Reads the routing rules of this thread's network namespace (`ip rule`). Returns the sources whose packets have
/// routes of their own.
///
/// # Errors
///
/// If the kernel does not answer.
pub fn sources_with_rules() -> io::Result<Vec<IpNet>> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let rules = netlink.list(RouteNetlinkMessage::GetRule(RuleMessage::default()))?;
    let mut found = Vec::new();
    for message in rules {
        let RouteNetlinkMessage::NewRule(rule) = message else {
            continue;
        };
        let (mut source, mut table) = (None, rule.header.table.into());
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::Source(ip) => source = Some(*ip),
                RuleAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN)
            && let Some(source) = source
            && let Ok(source) = IpNet::new(source, rule.header.src_len)
        {
            found.push(source);
        }
    }
    Ok(found)
}
