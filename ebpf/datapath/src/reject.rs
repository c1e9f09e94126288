//! Answering a packet instead of forwarding it: TCP reset or ICMP error, built in its place.
//!
//! The answer goes back through the device it came from, and must be right whether or not that
//! device is going to complete a checksum (`CHECKSUM_PARTIAL`), which a program cannot see. The
//! device adds the sum of the segment to a field that is expected to hold the sum of the pseudo
//! header. Both cases are served by one packet: the checksum field holds the sum of the pseudo
//! header, and a field that no receiver reads makes up the difference to a finished checksum.
//!
//! * TCP reset: the urgent pointer, which means nothing without URG.
//! * ICMPv6 port unreachable for UDP: the device would write to UDP's checksum field, two bytes of
//!   the unused word of the ICMP header. These hold the sum of the pseudo header.
//! * ICMP for IPv4 has no pseudo header, so these two bytes are zero, as they should be.

use headgate_abi::{Addr, Protocol, Reason};

use crate::{
    checksum::Sum,
    packet::Packet,
    parse::{Fragment, Parsed, TcpFlags, Transport, pseudo_header},
    rewrite::{HOP_LIMIT, rewrite_network, write_network},
    wire::{FRAGMENT_HEADER, Family, ICMP_HEADER, L3, TCP_HEADER, V4_HEADER, V6_HEADER},
};

const RESET_LEN: u16 = TCP_HEADER as u16;
/// Bytes of a packet's transport header that an ICMP error quotes at least (RFC 792).
const QUOTED: u32 = 8;

/// The error to send, and its source address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) kind: RejectionKind,
    pub(crate) source: Addr,
    /// For [`RejectionKind::TooBig`], in bytes.
    pub(crate) mtu: u16,
}

/// The kind of error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RejectionKind {
    /// No backend serves this port.
    #[default]
    PortUnreachable,
    /// The hop limit ran out.
    HopLimit,
    /// The packet is larger than the MTU of the next hop.
    TooBig,
    /// No error: an echo reply.
    Echo,
}

/// Turns the packet into its answer: the error about it, or an echo reply. Among fragments only a
/// first one that is too big gets an error, and only with DSR, which makes every packet longer.
#[inline(always)]
pub(crate) fn reject<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    rejection: &Rejection,
    has_dsr: bool,
) -> Result<(), Reason> {
    // An error about a whole packet, or about a first fragment, reaches the sender's socket.
    match (parsed.fragment, rejection.kind) {
        (Fragment::Whole, _) => {}
        (Fragment::First, RejectionKind::TooBig) if has_dsr => {}
        _ => return Err(Reason::FragmentUnknown),
    }
    match (parsed.transport, rejection.kind) {
        (_, RejectionKind::Echo) => echo_reply(packet, parsed)?,
        (Transport::Tcp, RejectionKind::PortUnreachable) => reset(packet, parsed)?,
        // No error about an error (RFC 1122, 3.2.2).
        (Transport::IcmpError, _) => return Err(Reason::NotOurs),
        _ => icmp_error(packet, parsed, rejection, has_dsr)?,
    }
    if !P::HAS_LINK {
        return Ok(());
    }
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = packet.load(0)?;
    packet.store(0, &[s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5])
}

/// Turns an echo request into its reply, with a hop limit of its own. The checksum covers the same
/// addresses, exchanged.
#[inline(always)]
fn echo_reply<P: Packet>(packet: &mut P, parsed: &Parsed) -> Result<(), Reason> {
    let (request, reply) = match parsed.family {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    };
    let [_, code] = packet.load(parsed.l4)?;
    let change = Sum::default()
        .without_half(u16::from_ne_bytes([request, code]))
        .half(u16::from_ne_bytes([reply, code]));
    packet.adjust_checksum(parsed.checksum_offset(), Sum::default(), change, false)?;
    packet.store(parsed.l4, &[reply, code])?;
    rewrite_network(
        packet,
        parsed.family,
        L3,
        parsed.flow.destination,
        parsed.flow.source,
        parsed.hop_limit.wrapping_sub(HOP_LIMIT),
    )
}

/// RFC 9293, 3.10.7.1.
#[inline(always)]
fn reset<P: Packet>(packet: &mut P, parsed: &Parsed) -> Result<(), Reason> {
    let flags = parsed.flags;
    if flags.any(TcpFlags::RST) {
        return Err(Reason::NoBackend);
    }
    let [q0, q1, q2, q3, a0, a1, a2, a3, data_offset] = packet.load(parsed.l4 + 4)?;
    let (sequence, acknowledgment, flags) = if flags.any(TcpFlags::ACK) {
        ([a0, a1, a2, a3], [0; 4], TcpFlags::RST)
    } else {
        let headers = parsed.l4 - L3 + u32::from(data_offset >> 4) * 4;
        let controls = u32::from(flags.any(TcpFlags::SYN)) + u32::from(flags.any(TcpFlags::FIN));
        let len = u32::from(parsed.total_len)
            .wrapping_sub(headers)
            .wrapping_add(controls);
        let next = u32::from_be_bytes([q0, q1, q2, q3]).wrapping_add(len);
        (
            [0; 4],
            next.to_be_bytes(),
            TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0),
        )
    };
    let l4 = start_answer(packet, parsed.family, RESET_LEN)?;
    let (source, destination) = (parsed.flow.destination, parsed.flow.source);
    write_network(
        packet,
        parsed.family,
        0,
        Protocol::TCP,
        source,
        destination,
        RESET_LEN,
    )?;

    let [p0, p1] = parsed.flow.destination_port.word().to_ne_bytes();
    let [p2, p3] = parsed.flow.source_port.word().to_ne_bytes();
    let [q0, q1, q2, q3] = sequence;
    let [a0, a1, a2, a3] = acknowledgment;
    const DATA_OFFSET: u8 = 5 << 4;
    let head = [
        p0,
        p1,
        p2,
        p3,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        DATA_OFFSET,
        flags.0,
        0,
        0,
    ];
    let pseudo = pseudo_header(parsed.family, source, destination, Protocol::TCP, RESET_LEN);
    let checksum = pseudo.fold();
    let urgent = pseudo.bytes(&head).half(checksum).checksum();
    let [c0, c1] = checksum.to_ne_bytes();
    let [u0, u1] = urgent.to_ne_bytes();
    packet.store(l4, &head)?;
    packet.store(l4 + head.len() as u32, &[c0, c1, u0, u1])
}

/// RFC 792 and RFC 4443, quoting the network header and the first bytes of what follows it: the
/// transport header, and before that the header of a fragment.
#[inline(always)]
fn icmp_error<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    rejection: &Rejection,
    has_dsr: bool,
) -> Result<(), Reason> {
    let (family, client) = (parsed.family, parsed.flow.source);
    let source = rejection.source;
    let (protocol, network_len) = match family {
        Family::V4 => (Protocol::ICMP, V4_HEADER),
        Family::V6 => (Protocol::ICMPV6, V6_HEADER),
    };
    let has_fragment_header = has_dsr && family == Family::V6 && parsed.fragment == Fragment::First;
    let transport: [u8; QUOTED as usize] = packet.load(parsed.l4)?;
    let fragment = match has_dsr {
        true if has_fragment_header => packet.load(parsed.id.at - FRAGMENT_HEADER / 2)?,
        _ => [0; FRAGMENT_HEADER as usize],
    };
    let before = if has_fragment_header {
        FRAGMENT_HEADER
    } else {
        0
    };
    let len = (ICMP_HEADER + network_len + before + QUOTED) as u16;
    let l4 = start_answer(packet, family, len)?;
    let quoted = l4 + ICMP_HEADER;

    // Extension headers are not quoted.
    let (mut fragment, mut first) = (fragment, [0; 8]);
    if family == Family::V6 {
        const FRAGMENT: u8 = 44;
        fragment[0] = parsed.flow.protocol.0;
        first = packet.load(L3)?;
        first[6] = match has_fragment_header {
            true => FRAGMENT,
            false => parsed.flow.protocol.0,
        };
    }
    // The quoted header moves towards the end by more than half its length: last part first.
    packet.store(quoted + network_len + before, &transport)?;
    let mut sum = Sum::default().bytes(&transport);
    if has_fragment_header {
        packet.store(quoted + network_len, &fragment)?;
        sum = sum.bytes(&fragment);
    }
    match family {
        Family::V4 => {
            sum = move_bytes::<P, 10>(packet, L3 + 10, quoted + 10, sum)?;
            sum = move_bytes::<P, 10>(packet, L3, quoted, sum)?;
        }
        Family::V6 => {
            sum = move_bytes::<P, 16>(packet, L3 + 24, quoted + 24, sum)?;
            sum = move_bytes::<P, 16>(packet, L3 + 8, quoted + 8, sum)?;
            packet.store(quoted, &first)?;
            sum = sum.bytes(&first);
        }
    }
    write_network(packet, family, 0, protocol, source, client, len)?;

    let pseudo = match family {
        Family::V4 => Sum::default(),
        Family::V6 => pseudo_header(family, source, client, protocol, len),
    };
    let (kind, code, rest) = match (family, rejection.kind) {
        (Family::V4, RejectionKind::PortUnreachable | RejectionKind::Echo) => (3, 3, 0),
        (Family::V6, RejectionKind::PortUnreachable | RejectionKind::Echo) => {
            (1, 4, pseudo.fold().to_be())
        }
        (Family::V4, RejectionKind::HopLimit) => (11, 0, 0),
        (Family::V6, RejectionKind::HopLimit) => (3, 0, 0),
        (Family::V4, RejectionKind::TooBig) => (3, 4, rejection.mtu),
        (Family::V6, RejectionKind::TooBig) => (2, 0, rejection.mtu),
    };
    let [r0, r1] = rest.to_be_bytes();
    let [c0, c1] = sum
        .plus(pseudo)
        .bytes(&[kind, code, r0, r1])
        .checksum()
        .to_ne_bytes();
    packet.store(l4, &[kind, code, c0, c1, 0, 0, r0, r1])
}

/// Copies `N` bytes within the packet and adds them to the sum.
#[inline(always)]
fn move_bytes<P: Packet, const N: usize>(
    packet: &mut P,
    from: u32,
    to: u32,
    sum: Sum,
) -> Result<Sum, Reason> {
    let bytes: [u8; N] = packet.load(from)?;
    packet.store(to, &bytes)?;
    Ok(sum.bytes(&bytes))
}

/// Makes the frame as long as the answer, and returns the offset of its transport header.
#[inline(always)]
fn start_answer<P: Packet>(packet: &mut P, family: Family, payload: u16) -> Result<u32, Reason> {
    let l4 = L3
        + match family {
            Family::V4 => V4_HEADER,
            Family::V6 => V6_HEADER,
        };
    packet.resize(l4 + u32::from(payload))?;
    Ok(l4)
}
