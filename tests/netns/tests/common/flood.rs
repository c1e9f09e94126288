//! Floods: raw packets with random sources.

use std::{net::Ipv4Addr, os::fd::AsRawFd, thread, time::Duration};

use etherparse::PacketBuilder;
use headgate_netns::{Netns, Node};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

/// The kind of packet.
#[derive(Clone, Copy)]
pub(crate) enum Packet {
    /// Opens a TCP connection.
    Syn,
    /// A datagram.
    Datagram,
}

/// Sends packets to a port of a node from random ports and random addresses of 198.18.0.0/15 (RFC 2544,
/// for tests of devices), at a rate that devices can handle.
pub(crate) fn flood(from: &Netns, node: &Node, packet: Packet, port: u16, count: usize) {
    let (to, link) = (node.v4, link_address(&node.netns));
    from.run(move || {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::empty(),
            None,
        )
        .unwrap();
        let device = device();
        let mut random = fastrand::Rng::with_seed(7);
        for number in 0..count {
            let [_, b, c, d] = random.u32(..).to_be_bytes();
            let source = Ipv4Addr::new(198, 18 + b % 2, c, d);
            let frame = frame(link, source, random.u16(1024..), to, port, packet);
            // A full queue drops the packet, which a flood may do.
            let _sent = sendto(socket.as_raw_fd(), &frame, &device, MsgFlags::empty());
            if number % 32 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

fn frame(
    link: [u8; 6],
    source: Ipv4Addr,
    source_port: u16,
    to: Ipv4Addr,
    port: u16,
    packet: Packet,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], link).ipv4(source.octets(), to.octets(), 64);
    let mut frame = Vec::new();
    match packet {
        Packet::Syn => builder
            .tcp(source_port, port, 1, 64_000)
            .syn()
            .write(&mut frame, b""),
        Packet::Datagram => builder.udp(source_port, port).write(&mut frame, b"flood"),
    }
    .unwrap();
    frame
}

/// The link address of a namespace's `eth0`.
fn link_address(netns: &Netns) -> [u8; 6] {
    netns.run(|| device().addr().unwrap())
}

/// The `eth0` of the calling thread's namespace.
fn device() -> LinkAddr {
    let mut all = getifaddrs()
        .unwrap()
        .filter(|one| one.interface_name == "eth0");
    all.find_map(|one| one.address?.as_link_addr().copied())
        .unwrap()
}
