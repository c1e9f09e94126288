//! The kernel's connection tracking, behind kube-proxy's rules.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
};

use headgate_abi::CtState;
use headgate_dataplane::netfilter::translated;
use headgate_netns::{
    Netns,
    rules::{Family, Service, load_nftables, nftables},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    socket,
};

use crate::conversation::{End, PORTS, addresses};

const ETHERNET_HEADER: usize = 14;

/// How long the kernel keeps an entry, in seconds, by the name of the sysctl: its own values, and where kube-proxy sets
/// one, that.
const TIMEOUTS: [(&str, u32); 12] = [
    ("tcp_timeout_close", 10),
    ("tcp_timeout_last_ack", 30),
    ("udp_timeout", 30),
    ("tcp_timeout_syn_recv", 60),
    ("tcp_timeout_syn_sent", 120),
    ("tcp_timeout_fin_wait", 120),
    ("tcp_timeout_time_wait", 120),
    ("udp_timeout_stream", 120),
    ("tcp_timeout_max_retrans", 300),
    ("tcp_timeout_unacknowledged", 300),
    ("tcp_timeout_close_wait", 3600),
    ("tcp_timeout_established", 86_400),
];

/// Seconds in the place of a timeout, so that the time of the test does not matter: the kernel counts ticks in 32 bits.
fn lengthened(timeout_s: u32) -> u32 {
    (timeout_s * 100).min(1_000_000)
}

/// An entry of the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Tracked {
    pub(crate) state: CtState,
    /// How long it lives without a packet, in seconds.
    pub(crate) lifetime_s: u32,
}

/// The namespace whose kernel tracks, and sockets that send whole packets from both sides of it.
pub(crate) struct Kernel {
    router: Netns,
    _ends: [Netns; 2],
    /// By end, and family.
    sockets: [[OwnedFd; 2]; 2],
}

impl Kernel {
    pub(crate) fn new(prefix: &str) -> Self {
        let router = Netns::new(&format!("{prefix}r")).unwrap();
        let forwards = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|key| (key, "1"));
        router.sysctl(&forwards).unwrap();
        let ends = [("clients", 9), ("pods", 1)].map(|(device, network)| {
            let end = Netns::new(&format!("{prefix}{network}")).unwrap();
            // Without neighbour discovery no packet waits, and overtakes another.
            let (near, far) = (format!("02::{network}:1"), format!("02::{network}:2"));
            let [near, far] = [near, far].map(|link| link.replace("::", ":00:00:00:"));
            let name = end.name();
            let commands = format!(
                "link add dev {device} address {near} type veth peer name eth0 address {far} netns {name}\n\
                 addr add 10.244.{network}.1/24 dev {device}\n\
                 addr add fd44:{network}::1/64 dev {device} nodad\n\
                 link set {device} up\n\
                 neigh add 10.244.{network}.2 lladdr {far} dev {device}\n\
                 neigh add fd44:{network}::2 lladdr {far} dev {device}"
            );
            router.batch(&commands).unwrap();
            let commands = format!(
                "addr add 10.244.{network}.2/24 dev eth0\n\
                 addr add fd44:{network}::2/64 dev eth0 nodad\n\
                 link set eth0 up\n\
                 neigh add 10.244.{network}.1 lladdr {near} dev eth0\n\
                 neigh add fd44:{network}::1 lladdr {near} dev eth0\n\
                 route add default via 10.244.{network}.1\n\
                 route add default via fd44:{network}::1"
            );
            end.batch(&commands).unwrap();
            // The kernels of the ends know nothing of these connections, and would reset them.
            load_nftables(
                &end,
                "add table inet hg\n\
                 add chain inet hg input { type filter hook input priority 0 ; policy drop ; }\n",
            )
            .unwrap();
            end
        });
        for node in [[10, 244, 1, 1].into(), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            load_nftables(&router, &nftables(&services(Family::of(node)), node)).unwrap();
        }
        for (name, timeout_s) in TIMEOUTS {
            let key = format!("netfilter/nf_conntrack_{name}");
            let value = lengthened(timeout_s).to_string();
            router.sysctl(&[(&key, &value)]).unwrap();
        }
        let sockets = [&ends[0], &ends[1]].map(|end| {
            [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
                end.run(move || {
                    socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap()
                })
            })
        });
        Self {
            router,
            _ends: ends,
            sockets,
        }
    }

    pub(crate) fn send(&self, (end, frame): &(End, Vec<u8>)) {
        let packet = &frame[ETHERNET_HEADER..];
        let [v4, v6] = &self.sockets[*end as usize];
        let flags = MsgFlags::empty();
        let sent = match packet[0] >> 4 {
            4 => {
                let to = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap());
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendto(v4.as_raw_fd(), packet, &to, flags)
            }
            _ => {
                let to = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap());
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(v6.as_raw_fd(), packet, &to, flags)
            }
        };
        sent.unwrap();
    }

    /// The entries by the client's port.
    pub(crate) fn tracked(&self) -> HashMap<u16, Tracked> {
        let list = self.router.run(|| translated().unwrap());
        let entries = list.iter().map(|one| {
            let lifetimes = TIMEOUTS.iter().map(|(_, timeout_s)| *timeout_s);
            let mut left = lifetimes.filter(|timeout_s| lengthened(*timeout_s) >= one.timeout_s);
            let tracked = Tracked {
                state: one.state,
                lifetime_s: left.next().unwrap(),
            };
            (one.original.source_port.number(), tracked)
        });
        entries.collect()
    }
}

/// The services of a family: one for each protocol.
fn services(family: Family) -> Vec<Service> {
    let [_, frontend, backend] = addresses(family);
    let services = ["tcp", "udp"].map(|protocol| Service {
        name: format!("web-{protocol}"),
        address: frontend,
        port: PORTS[0],
        protocol,
        node_port: None,
        endpoints: vec![SocketAddr::new(backend, PORTS[1])],
    });
    services.to_vec()
}
