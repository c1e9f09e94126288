//! Direct server return (DSR): a packet for a backend on another node is sent to that node
//! unchanged but for its hop limit. That node translates it and replies to the client directly, and
//! the backend sees the client's address.
//!
//! The packet travels as the payload of a UDP datagram:
//!
//! ```text
//! IP, node → backend │ UDP, hash → `dsr_port` │ version, 0, port of the backend │ packet of the client
//! ```
//!
//! The outer destination is the backend itself, so the routes and overlays that carry packets to
//! pods carry the datagram to the right node, and no node needs a list of the others. The source
//! port is a hash of the flow, by which devices and routers spread load. UDP's checksum is zero
//! (RFC 6935): the inner packet has its own. The ECN bits of the traffic class stay inside (RFC
//! 6040, 4.1, compatibility mode). Outer IPv4 headers forbid fragmentation, because the receiver
//! does not reassemble them: the client gets an ICMP error if its packet does not fit. TCP clients
//! rarely need that, because the backend's node lowers the maximum segment size that they are
//! offered by the length of the outer headers.
//!
//! Outer and inner headers are of one family, so the link header is the same for both.

use headgate_abi::{
    Addr, BackendEntry, BackendKey, CtEntry, CtFlags, DatapathConfig, FrontendEntry, FrontendFlags,
    FrontendKey, FrontendKind, Location, Port, Protocol, Reason,
};

use crate::{
    checksum::Sum,
    context::Context,
    hash::flow_hash,
    nat::{plan_dnat, translate_source},
    packet::Packet,
    parse::{Fragment, Parsed, TcpFlags, Transport, load_v4, load_v6},
    rewrite::{rewrite_hops, write_network},
    tables::Tables,
    wire::{ETHERTYPE_V4, ETHERTYPE_V6, Family, L3, V4_HEADER, V6_HEADER},
};

/// Length of the UDP header and the four bytes after it.
const HEADERS: u32 = 12;
const VERSION: u8 = 1;

/// Length of the outer headers in bytes.
#[inline(always)]
pub(crate) const fn outer_len(family: Family) -> u32 {
    match family {
        Family::V4 => V4_HEADER + HEADERS,
        Family::V6 => V6_HEADER + HEADERS,
    }
}

/// Whether packets to this port are read as encapsulated. Only nodes may send them, so this is
/// refused to pods, and to clients of a Service whose backends listen on the port.
#[inline(always)]
pub(crate) fn is_dsr_port<T: Tables>(tables: &T, port: Port, protocol: Protocol) -> bool {
    tables.has_dsr() && port == tables.config().dsr_port && protocol == Protocol::UDP
}

/// Returns the length of the outer headers, and writes the backend that they name to
/// `context.backend`; 0 if the packet is not encapsulated.
#[inline(always)]
pub(crate) fn find_encapsulation<P: Packet>(
    packet: &P,
    port: Port,
    context: &mut Context,
) -> Result<u32, Reason> {
    const FRAGMENT: u16 = 0x3fff;
    const UDP: u8 = Protocol::UDP.0;
    let family = match packet.ethertype()? {
        ETHERTYPE_V4 => match packet.load(L3)? {
            [0x45, _, _, _, _, _, hi, lo, _, UDP]
                if u16::from_be_bytes([hi, lo]) & FRAGMENT == 0 =>
            {
                Family::V4
            }
            _ => return Ok(0),
        },
        ETHERTYPE_V6 => match packet.load(L3 + 6)? {
            [UDP, _] => Family::V6,
            _ => return Ok(0),
        },
        _ => return Ok(0),
    };
    let len = outer_len(family);
    let headers: [u8; HEADERS as usize] = packet.load(L3 + len - HEADERS)?;
    let [_, _, d0, d1, _, _, _, _, version, _, p0, p1] = headers;
    if Port::from_word(u16::from_ne_bytes([d0, d1])) != port || version != VERSION {
        return Ok(0);
    }
    context.backend = BackendKey {
        address: match family {
            Family::V4 => load_v4(packet, L3 + 16)?,
            Family::V6 => load_v6(packet, L3 + 24)?,
        },
        port: Port::from_word(u16::from_ne_bytes([p0, p1])),
        ..BackendKey::default()
    };
    Ok(len)
}

/// Plans a new connection to a backend of this node that another node chose.
///
/// A sender of encapsulated packets can claim any source, as with other tunnels of a cluster, so
/// the network must keep other machines away from the port. Checked here: the packet is for a
/// backend of this node and for a Service, either by the frontend's own address or by a node port,
/// whose address differs between nodes.
#[inline(always)]
pub(crate) fn plan_delivery<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    context: &mut Context,
) -> Result<(), Reason> {
    let flow = &parsed.flow;
    match parsed.transport {
        Transport::Tcp | Transport::Udp => {}
        Transport::LaterFragment => return Err(Reason::FragmentUnknown),
        Transport::IcmpError | Transport::Echo | Transport::Other => {
            return Err(Reason::EncapsulatedUnknown);
        }
    }
    let source = tables.address(&flow.source);
    if !flow.source.is_host()
        || flow.destination.is_loopback()
        || source.unwrap_or_default().is_service()
    {
        return Err(Reason::Spoofed);
    }
    if is_dsr_port(tables, context.backend.port, flow.protocol) {
        return Err(Reason::EncapsulatedUnknown);
    }
    context.backend.protocol = flow.protocol;
    let id = tables.local_backend(&context.backend);
    let id = id.ok_or(Reason::EncapsulatedUnknown)?;
    let frontend = frontend(tables, parsed).ok_or(Reason::EncapsulatedUnknown)?;
    if frontend.flags.contains(FrontendFlags::SOURCE_RANGES)
        && !tables.admits(frontend.outside, &flow.source)
    {
        return Err(Reason::SourceRange);
    }
    let backend = BackendEntry {
        address: context.backend.address,
        port: context.backend.port,
        protocol: flow.protocol,
        location: Location::THIS_NODE,
    };
    context.entry = plan_dnat(flow, frontend.outside, id, &backend, tables.now_s());
    context.entry.flags = CtFlags::ENCAPSULATED;
    // A pod that reaches itself through another node, or a process of this node.
    if flow.source == backend.address || source.is_some() {
        let config = tables.config();
        return translate_source(config, config.node_address(parsed.family), context);
    }
    Ok(())
}

#[inline(always)]
fn frontend<T: Tables>(tables: &T, parsed: &Parsed) -> Option<FrontendEntry> {
    let flow = &parsed.flow;
    let mut key = FrontendKey::new(flow.destination, flow.destination_port, flow.protocol);
    if let Some(frontend) = tables.frontend(&key) {
        return Some(frontend);
    }
    key.address = tables.config().node_address(parsed.family);
    let frontend = tables.frontend(&key)?;
    (frontend.flags.kind() == FrontendKind::NodePort).then_some(frontend)
}

/// Adds the outer headers with this source; subtracts `hops` from the hop limit of the packet.
#[inline(always)]
pub(crate) fn encapsulate<P: Packet>(
    packet: &mut P,
    config: &DatapathConfig,
    parsed: &Parsed,
    entry: &CtEntry,
    source: Addr,
    hops: u8,
) -> Result<(), Reason> {
    let family = parsed.family;
    let len = outer_len(family);
    packet.grow(family, len, parsed.flow.protocol == Protocol::TCP)?;
    rewrite_hops(packet, family, L3 + len, hops)?;
    // In a GSO frame the kernel writes the length of each segment.
    let payload = parsed.total_len.wrapping_add(HEADERS as u16);
    const DSCP: u8 = 0xfc;
    write_network(
        packet,
        family,
        parsed.tos & DSCP,
        Protocol::UDP,
        source,
        entry.destination,
        payload,
    )?;
    let [s0, s1] = source_port(parsed, config).word().to_ne_bytes();
    let [d0, d1] = config.dsr_port.word().to_ne_bytes();
    let [l0, l1] = payload.to_be_bytes();
    let [p0, p1] = entry.destination_port.word().to_ne_bytes();
    let headers: [u8; HEADERS as usize] = [s0, s1, d0, d1, l0, l1, 0, 0, VERSION, 0, p0, p1];
    packet.store(L3 + len - HEADERS, &headers)
}

/// Lowers the maximum segment size that a backend offers in its SYN-ACK by the length of the outer
/// headers, if the connection's packets come encapsulated. Common systems write that option first;
/// in another place it is not changed.
#[inline(always)]
pub(crate) fn clamp_mss<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    entry: &CtEntry,
) -> Result<(), Reason> {
    const ANSWER: CtFlags = CtFlags::REPLY.union(CtFlags::ENCAPSULATED);
    if parsed.transport != Transport::Tcp
        || !entry.flags.contains(ANSWER)
        || !parsed.flags.any(TcpFlags::SYN)
        || parsed.fragment != Fragment::Whole
    {
        return Ok(());
    }
    const OPTIONS: u32 = 20;
    const WORDS: u8 = 6;
    let [data_offset, _] = packet.load(parsed.l4 + 12)?;
    if data_offset >> 4 < WORDS {
        return Ok(());
    }
    let [kind, len, hi, lo] = packet.load(parsed.l4 + OPTIONS)?;
    let size = u16::from_be_bytes([hi, lo]);
    let outer = outer_len(parsed.family) as u16;
    if (kind, len) != (2, 4) || size <= 2 * outer {
        return Ok(());
    }
    let clamped = (size - outer).to_be_bytes();
    packet.store(parsed.l4 + OPTIONS + 2, &clamped)?;
    let change = Sum::default()
        .without_half(u16::from_ne_bytes([hi, lo]))
        .half(u16::from_ne_bytes(clamped));
    packet.adjust_checksum(parsed.checksum_offset(), Sum::default(), change, false)
}

/// Returns a port of the private range (RFC 6335), the same for every packet of a flow.
#[inline(always)]
pub(crate) fn source_port(parsed: &Parsed, config: &DatapathConfig) -> Port {
    const FIRST: u16 = 0xc000;
    Port::new(FIRST | flow_hash(&parsed.flow, config.seed) as u16)
}
