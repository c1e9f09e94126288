//! Building and describing packets.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::{LaxNetSlice, LaxSlicedPacket, PacketBuilder, TransportSlice};

use super::QueryError;
use crate::view::flow::Protocol;

const HOP_LIMIT: u8 = 64;

/// Builds the first packet of a connection: a TCP SYN, or an empty datagram.
pub(super) fn first(from: SocketAddr, protocol: Protocol, to: SocketAddr) -> Result<Vec<u8>> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let network = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), HOP_LIMIT),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), HOP_LIMIT),
        _ => bail!(QueryError {
            about: "destination",
            why: format!("{from} and {to} are not of one family"),
        }),
    };
    let mut frame = Vec::new();
    match protocol {
        Protocol::Tcp => network
            .tcp(from.port(), to.port(), 1, u16::MAX)
            .syn()
            .write(&mut frame, &[])?,
        Protocol::Udp => network.udp(from.port(), to.port()).write(&mut frame, &[])?,
    }
    Ok(frame)
}

/// Describes a frame in one line.
pub(super) fn describe(frame: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        return "unreadable".into();
    };
    let (source, destination, hop_limit): (IpAddr, IpAddr, u8) = match &packet.net {
        Some(LaxNetSlice::Ipv4(v4)) => {
            let header = v4.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.ttl(),
            )
        }
        Some(LaxNetSlice::Ipv6(v6)) => {
            let header = v6.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.hop_limit(),
            )
        }
        _ => return "not IP".into(),
    };
    let between = |from: u16, to: u16| {
        let (from, to) = (
            SocketAddr::new(source, from),
            SocketAddr::new(destination, to),
        );
        format!("{from} → {to}")
    };
    let what = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [
                (tcp.syn(), "SYN"),
                (tcp.fin(), "FIN"),
                (tcp.rst(), "RST"),
                (tcp.ack(), "ACK"),
            ];
            let flags: Vec<&str> = flags
                .into_iter()
                .filter_map(|(is_set, name)| is_set.then_some(name))
                .collect();
            let ends = between(tcp.source_port(), tcp.destination_port());
            format!("{ends} tcp {}", flags.join("+"))
        }
        Some(TransportSlice::Udp(udp)) => {
            let ends = between(udp.source_port(), udp.destination_port());
            format!("{ends} udp")
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("{source} → {destination} icmp {:?}", icmp.icmp_type())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!("{source} → {destination} icmpv6 {:?}", icmp.icmp_type())
        }
        None => format!("{source} → {destination}"),
    };
    format!("{what}, hop limit {hop_limit}, {} bytes", frame.len())
}
