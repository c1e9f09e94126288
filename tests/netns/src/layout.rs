//! What network plugins make of a node: how pods are attached to it, and how nodes reach the pods of others.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;

/// A layout. Each is dual stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Calico without encapsulation, Cilium in routing mode: a host route for each pod, one link-local router, routes
    /// over the other nodes.
    Routed,
    /// By hand: the host's end of the pod's only device has the network of the pods, with a name of its own.
    Plain,
    /// kindnet, GKE, AKS in transparent mode: a host route for each pod, and one address of the host on all ends.
    PointToPoint,
    /// flannel with host-gw, or the bridge plugin: pods on a bridge, routes over the other nodes.
    Bridge,
    /// flannel: pods on a bridge, VXLAN between nodes.
    BridgeVxlan,
    /// Calico with VXLAN: host routes, VXLAN between nodes.
    RoutedVxlan,
    /// A card for the world, and a private one that leads to the other nodes' pods.
    TwoCards,
    /// AWS VPC CNI: host routes, and packets of pods leave by a second card, by rules for each pod.
    Rules,
    /// As `Routed`, with the nodes' addresses in VLAN 100 of the card, which has another network without a tag.
    Vlan,
    /// WireGuard or IPIP, as far as a node sees it: a device without link headers between nodes.
    Tunnel,
}

impl Layout {
    /// Whether a card beside `eth0` leads to the other nodes.
    pub(crate) const fn has_second_card(self) -> bool {
        matches!(self, Self::TwoCards | Self::Rules)
    }

    /// Whether the end of a pod's device on the host, or the bridge, is the router of the pod.
    const fn has_gateway(self) -> bool {
        !matches!(
            self,
            Self::Routed
                | Self::RoutedVxlan
                | Self::TwoCards
                | Self::Rules
                | Self::Vlan
                | Self::Tunnel
        )
    }

    const fn has_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::BridgeVxlan)
    }

    /// Name of the host's end of a pod's device, as the plugin gives it.
    fn device(self, number: u8) -> String {
        match self {
            Self::Routed => format!("lxc{number}"),
            Self::Plain => format!("vp{number}"),
            Self::Rules => format!("eni{number}"),
            Self::RoutedVxlan => format!("cali{number}"),
            _ => format!("pod{number}"),
        }
    }

    /// Attaches a pod to its node.
    pub(crate) fn attach(
        self,
        node: &Netns,
        pod: &Netns,
        (of, number): (u8, u8),
        (v4, v6): (Ipv4Addr, Ipv6Addr),
    ) -> Result<()> {
        let (device, inside) = (self.device(number), pod.name());
        let (gateway, gateway_v6) = (format!("10.244.{of}.1"), format!("fd44:{of}::1"));
        let mut host = format!(
            "link add {device} type veth peer name eth0 netns {inside}\nlink set {device} up\n"
        );
        if self.has_bridge() {
            if number == 1 {
                host += &format!(
                    "link add cni0 type bridge mcast_snooping 0\nlink set cni0 up\n\
                     address add {gateway}/24 dev cni0\naddress add {gateway_v6}/64 dev cni0 nodad\n"
                );
            }
            host += &format!("link set {device} master cni0\n");
        } else if self == Self::Plain {
            ensure!(number == 1, "the network of the pods is on one device");
            host += &format!(
                "address add {gateway}/24 dev {device}\naddress add {gateway_v6}/64 dev {device} nodad\n"
            );
        } else {
            let (v4_of_host, v6_of_host) = match self.has_gateway() {
                true => (format!("{gateway}/32"), format!("{gateway_v6}/128")),
                false => ("169.254.1.1/32".into(), "fe80::1/64".into()),
            };
            host += &format!(
                "address add {v4_of_host} dev {device}\naddress add {v6_of_host} dev {device} nodad\n\
                 route add {v4}/32 dev {device}\nroute add {v6}/128 dev {device}\n"
            );
        }
        node.batch(&host)?;
        let (len, len_v6) = match self.has_bridge() || self == Self::Plain {
            true => (24, 64),
            false => (32, 128),
        };
        let (router, router_v6) = match self.has_gateway() {
            true => (gateway.as_str(), gateway_v6.as_str()),
            false => ("169.254.1.1", "fe80::1"),
        };
        pod.batch(&format!(
            "link set eth0 up\n\
             address add {v4}/{len} dev eth0\n\
             address add {v6}/{len_v6} dev eth0 nodad\n\
             route replace {router} dev eth0\n\
             route replace {router_v6} dev eth0\n\
             route add default via {router} dev eth0\n\
             route add default via {router_v6} dev eth0"
        ))?;
        if self == Self::Rules {
            let rules = |pod: &dyn std::fmt::Display| {
                format!(
                    "rule add from {pod} lookup 2 priority 1536\nrule add to {pod} lookup main priority 512"
                )
            };
            node.batch(&rules(&v4))?;
            node.batch_v6(&rules(&v6))?;
        }
        Ok(())
    }

    /// Leads a node to the pods of another one.
    pub(crate) fn connect(self, node: &Netns, own: u8, other: u8) -> Result<()> {
        let (via, via_v6) = match self {
            Self::TwoCards | Self::Rules => (format!("10.50.0.{other}"), format!("fd51::{other}")),
            _ => (format!("192.168.50.{other}"), format!("fd50::{other}")),
        };
        let routes = |by: &str, by_v6: &str| {
            format!("route add 10.244.{other}.0/24 {by}\nroute add fd44:{other}::/32 {by_v6}\n")
        };
        let vxlan = |name: &str| {
            format!(
                "link add {name} type vxlan id 1 remote {via} dev eth0 dstport 8472\nlink set {name} up\n\
                 address add 10.243.0.{own}/24 dev {name}\naddress add fd43::{own}/64 dev {name} nodad\n"
            ) + &routes(
                &format!("via 10.243.0.{other}"),
                &format!("via fd43::{other}"),
            )
        };
        node.batch(&match self {
            Self::BridgeVxlan => vxlan("flannel.1"),
            Self::RoutedVxlan => vxlan("vxlan.calico"),
            Self::Tunnel => {
                format!(
                    "link set wg0 up\naddress add 10.244.{own}.254/32 dev wg0\n\
                     address add fd44:{own}::fe/128 dev wg0 nodad\n"
                ) + &routes("dev wg0", "dev wg0")
            }
            Self::Rules => {
                routes(&format!("via {via}"), &format!("via {via_v6}"))
                    + &format!(
                        "route add default via {via} table 2\nroute add default via {via_v6} table 2\n"
                    )
            }
            _ => routes(&format!("via {via}"), &format!("via {via_v6}")),
        })
    }
}

/// Makes a device `wg0` without link headers in two namespaces, each the other's end.
pub(crate) fn tunnel(one: &Netns, other: &Netns) -> Result<()> {
    let (one, other) = (tun(one)?, tun(other)?);
    for (mut from, mut to) in [(one.try_clone()?, other.try_clone()?), (other, one)] {
        thread::spawn(move || {
            let mut packet = vec![0; 1 << 16];
            // It ends when its namespace is removed, and with it the device.
            while let Ok(len) = from.read(&mut packet) {
                match to.write(packet.get(..len).unwrap_or_default()) {
                    // The other end is not up yet, or its queue is full.
                    Err(error) if error.kind() == ErrorKind::Other => {}
                    Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
                    Err(_) => break,
                    Ok(_) => {}
                }
            }
        });
    }
    Ok(())
}

/// Makes a tun device `wg0`.
fn tun(netns: &Netns) -> Result<File> {
    /// `struct ifreq` of `TUNSETIFF`: name and flags.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    netns.run(|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("/dev/net/tun")?;
        let mut request = Request {
            name: *b"wg0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            flags: IFF_TUN | IFF_NO_PI,
            rest: [0; 22],
        };
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        // SAFETY: the kernel reads and writes `struct ifreq`, which has this size.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        ensure!(
            result == 0,
            "TUNSETIFF: {}",
            std::io::Error::last_os_error()
        );
        Ok(file)
    })
}
