//! Parses headers: from bytes to a flow.

use headgate_abi::{Addr, FlowKey, Port, Protocol, Reason};

use crate::{
    checksum::Sum,
    packet::Packet,
    wire::{
        ETHERTYPE, ETHERTYPE_V4, ETHERTYPE_V6, FRAGMENT_HEADER, Family, ICMP_HEADER, L3, V4_HEADER,
        V6_HEADER,
    },
};

/// The bits of a fragment's offset, in units of eight bytes.
const V4_OFFSET: u16 = 0x1fff;

/// TCP flags as on the wire (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(1);
    /// Start of a connection.
    pub const SYN: Self = Self(2);
    /// End of a connection at once.
    pub const RST: Self = Self(4);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(16);

    /// Whether one of `other` is set.
    #[inline(always)]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether this opens a connection: SYN without ACK, RST or FIN.
    #[inline(always)]
    pub const fn is_opening(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }
}

/// What the network header carries.
///
/// VERIFIER: no enum with fields, see [`Route`](crate::Route).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    #[default]
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP error that quotes a packet of the flow's *other* direction: the flow of the parsed
    /// packet is the one that the error travels with.
    IcmpError,
    /// A later fragment of a TCP segment or UDP datagram, without transport header.
    LaterFragment,
}

/// Position of a packet among the fragments of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Not a fragment.
    #[default]
    Whole,
    /// The first fragment, with the TCP or UDP header.
    First,
    /// A later fragment.
    Later,
}

/// The fields of a packet that the walk needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Family of the network header.
    pub family: Family,
    /// Addresses and ports. Of an ICMP error: those of the quoted packet, reversed. A later fragment
    /// has no ports.
    pub flow: FlowKey,
    /// Offset of the TCP, UDP or ICMP header in the frame.
    pub l4: u32,
    /// What the header at `l4` is.
    pub transport: Transport,
    /// The flags of a TCP segment.
    pub flags: TcpFlags,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// Identification of a fragment.
    pub fragment_id: u32,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Length of the packet with its network header, in bytes.
    pub total_len: u16,
    /// Length of the outer headers in bytes; 0 if the packet is not encapsulated.
    pub outer_len: u32,
}

/// Parses the headers.
///
/// # Errors
///
/// A [`Reason`] of fate `Pass`: the packet is left to the kernel.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P) -> Result<Parsed, Reason> {
    parse_inside(packet, 0)
}

/// Parses the headers after `outer_len` bytes of outer headers.
#[inline(always)]
pub(crate) fn parse_inside<P: Packet>(packet: &P, outer_len: u32) -> Result<Parsed, Reason> {
    match u16::from_be_bytes(packet.load(ETHERTYPE)?) {
        ETHERTYPE_V4 => parse_v4(packet, outer_len),
        ETHERTYPE_V6 => parse_v6(packet, outer_len),
        _ => Err(Reason::NotIp),
    }
}

/// Fields of one network header.
struct Network {
    family: Family,
    source: Addr,
    destination: Addr,
    protocol: Protocol,
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, outer_len: u32) -> Result<Parsed, Reason> {
    let l3 = L3 + outer_len;
    let header: [u8; V4_HEADER as usize] = packet.load(l3)?;
    let [
        version_ihl,
        tos,
        len_hi,
        len_lo,
        id_hi,
        id_lo,
        fragment_hi,
        fragment_lo,
        hop_limit,
        ..,
    ] = header;
    let header_len = u32::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header_len < V4_HEADER {
        return Err(Reason::Malformed);
    }
    const MORE: u16 = 0x2000;
    let field = u16::from_be_bytes([fragment_hi, fragment_lo]);
    let fragment = fragment(field & V4_OFFSET, field & MORE != 0);
    let network = network_v4(&header);
    let (flow, transport, flags) = parse_transport(packet, &network, l3 + header_len, fragment)?;
    Ok(Parsed {
        family: Family::V4,
        flow,
        l4: l3 + header_len,
        transport,
        flags,
        fragment,
        fragment_id: u32::from_ne_bytes([id_hi, id_lo, 0, 0]),
        hop_limit,
        tos,
        total_len: u16::from_be_bytes([len_hi, len_lo]),
        outer_len,
    })
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, outer_len: u32) -> Result<Parsed, Reason> {
    let l3 = L3 + outer_len;
    let header: [u8; V6_HEADER as usize] = packet.load(l3)?;
    let [
        first,
        second,
        _,
        _,
        len_hi,
        len_lo,
        next_header,
        hop_limit,
        ..,
    ] = header;
    if first >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let mut network = network_v6(&header)?;
    let (mut l4, mut part, mut fragment_id) = (l3 + V6_HEADER, Fragment::Whole, 0);
    const FRAGMENT: u8 = 44;
    if next_header == FRAGMENT {
        let [next, _, offset_hi, offset_lo, a, b, c, d] = packet.load(l3 + V6_HEADER)?;
        let field = u16::from_be_bytes([offset_hi, offset_lo]);
        part = fragment(field >> 3, field & 1 != 0);
        fragment_id = u32::from_ne_bytes([a, b, c, d]);
        network.protocol = Protocol(next);
        l4 += FRAGMENT_HEADER;
    }
    let (flow, transport, flags) = parse_transport(packet, &network, l4, part)?;
    Ok(Parsed {
        family: Family::V6,
        flow,
        l4,
        transport,
        flags,
        fragment: part,
        fragment_id,
        hop_limit,
        tos: first << 4 | second >> 4,
        total_len: u16::from_be_bytes([len_hi, len_lo]).saturating_add(V6_HEADER as u16),
        outer_len,
    })
}

#[inline(always)]
fn fragment(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

#[inline(always)]
fn network_v4(header: &[u8; V4_HEADER as usize]) -> Network {
    let [
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        protocol,
        _,
        _,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ] = *header;
    Network {
        family: Family::V4,
        source: Addr::from_v4_word(u32::from_ne_bytes([a, b, c, d])),
        destination: Addr::from_v4_word(u32::from_ne_bytes([e, f, g, h])),
        protocol: Protocol(protocol),
    }
}

#[inline(always)]
fn network_v6(header: &[u8; V6_HEADER as usize]) -> Result<Network, Reason> {
    let (words, _) = header.as_chunks::<4>();
    let [_, _, a, b, c, d, e, f, g, h] = words else {
        unreachable!("forty bytes are ten words")
    };
    let word = |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes);
    let [_, _, _, _, _, _, next_header, ..] = *header;
    let source = Addr::from_words([word(a), word(b), word(c), word(d)]);
    let destination = Addr::from_words([word(e), word(f), word(g), word(h)]);
    // v4-mapped addresses are invalid on the wire, and would collide with our IPv4 keys.
    if source.is_v4() || destination.is_v4() {
        return Err(Reason::Malformed);
    }
    Ok(Network {
        family: Family::V6,
        source,
        destination,
        protocol: Protocol(next_header),
    })
}

#[inline(always)]
fn parse_transport<P: Packet>(
    packet: &P,
    network: &Network,
    l4: u32,
    fragment: Fragment,
) -> Result<(FlowKey, Transport, TcpFlags), Reason> {
    let no_flags = TcpFlags::default();
    if fragment == Fragment::Later && matches!(network.protocol, Protocol::TCP | Protocol::UDP) {
        let none = Port::default();
        let flow = flow(network, none, none);
        return Ok((flow, Transport::LaterFragment, no_flags));
    }
    let (transport, flags) = match (network.protocol, network.family) {
        (Protocol::TCP, _) => {
            // Read to the end of the header: a truncated packet is left to the kernel.
            const FLAGS: u32 = 13;
            let [flags, _, _, _, _, _, _] = packet.load(l4 + FLAGS)?;
            (Transport::Tcp, TcpFlags(flags))
        }
        (Protocol::UDP, _) => {
            const LENGTH: u32 = 4;
            let [_, _, _, _] = packet.load(l4 + LENGTH)?;
            (Transport::Udp, no_flags)
        }
        (Protocol::ICMP, Family::V4) | (Protocol::ICMPV6, Family::V6)
            if fragment == Fragment::Whole =>
        {
            let flow = quoted_flow(packet, network.family, l4)?.reversed();
            return Ok((flow, Transport::IcmpError, no_flags));
        }
        _ => return Err(Reason::OtherProtocol),
    };
    Ok((load_flow(packet, network, l4)?, transport, flags))
}

/// The IPv4 address at `offset`.
#[inline(always)]
pub(crate) fn load_v4<P: Packet>(packet: &P, offset: u32) -> Result<Addr, Reason> {
    Ok(Addr::from_v4_word(u32::from_ne_bytes(packet.load(offset)?)))
}

/// The IPv6 address at `offset`.
#[inline(always)]
pub(crate) fn load_v6<P: Packet>(packet: &P, offset: u32) -> Result<Addr, Reason> {
    Ok(Addr::from_words([
        u32::from_ne_bytes(packet.load(offset)?),
        u32::from_ne_bytes(packet.load(offset + 4)?),
        u32::from_ne_bytes(packet.load(offset + 8)?),
        u32::from_ne_bytes(packet.load(offset + 12)?),
    ]))
}

#[inline(always)]
fn load_flow<P: Packet>(packet: &P, network: &Network, l4: u32) -> Result<FlowKey, Reason> {
    let [a, b, c, d] = packet.load(l4)?;
    let source_port = Port::from_word(u16::from_ne_bytes([a, b]));
    let destination_port = Port::from_word(u16::from_ne_bytes([c, d]));
    Ok(flow(network, source_port, destination_port))
}

#[inline(always)]
fn flow(network: &Network, source_port: Port, destination_port: Port) -> FlowKey {
    FlowKey {
        source: network.source,
        destination: network.destination,
        source_port,
        destination_port,
        protocol: network.protocol,
        zero: [0; 3],
    }
}

/// The flow of the packet that an ICMP error quotes (RFC 792; RFC 4443, 3).
#[inline(always)]
fn quoted_flow<P: Packet>(packet: &P, family: Family, l4: u32) -> Result<FlowKey, Reason> {
    let [kind, _code] = packet.load(l4)?;
    let inner = l4 + ICMP_HEADER;
    let (network, inner_l4) = match family {
        // Destination unreachable, time exceeded, parameter problem.
        Family::V4 if matches!(kind, 3 | 11 | 12) => {
            let header: [u8; V4_HEADER as usize] = packet.load(inner)?;
            let [version_ihl, _, _, _, _, _, offset_hi, offset_lo, ..] = header;
            let offset = u16::from_be_bytes([offset_hi, offset_lo]) & V4_OFFSET;
            // Options in the quoted header would move the ports, and a later fragment has no ports:
            // both are left to the kernel.
            if version_ihl != 0x45 || offset != 0 {
                return Err(Reason::OtherProtocol);
            }
            (network_v4(&header), inner + V4_HEADER)
        }
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        Family::V6 if matches!(kind, 1..=4) => {
            (network_v6(&packet.load(inner)?)?, inner + V6_HEADER)
        }
        Family::V4 | Family::V6 => return Err(Reason::OtherProtocol),
    };
    match network.protocol {
        Protocol::TCP | Protocol::UDP => load_flow(packet, &network, inner_l4),
        _ => Err(Reason::OtherProtocol),
    }
}

impl Parsed {
    /// Offset of the checksum field of the transport header.
    #[inline(always)]
    pub(crate) fn checksum_offset(&self) -> u32 {
        self.l4
            + match self.transport {
                Transport::Tcp => 16,
                Transport::Udp => 6,
                Transport::IcmpError | Transport::LaterFragment => 2,
            }
    }

    /// Whether the checksum field holds only the sum of the pseudo header, as the kernel leaves it
    /// for a device to complete. A complete checksum has this value once in 65,536 packets.
    #[inline(always)]
    pub(crate) fn has_partial_checksum<P: Packet>(&self, packet: &P) -> Result<bool, Reason> {
        if self.transport == Transport::IcmpError || self.fragment != Fragment::Whole {
            return Ok(false);
        }
        let field = u16::from_ne_bytes(packet.load(self.checksum_offset())?);
        let len = u32::from(self.total_len).wrapping_sub(self.l4 - L3 - self.outer_len);
        let sum = pseudo_header(
            self.family,
            self.flow.source,
            self.flow.destination,
            self.flow.protocol,
            len as u16,
        );
        Ok(field == sum.fold())
    }
}

/// Sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) for `len` bytes of `protocol`.
#[inline(always)]
pub(crate) fn pseudo_header(
    family: Family,
    source: Addr,
    destination: Addr,
    protocol: Protocol,
    len: u16,
) -> Sum {
    let sum = Sum::default()
        .half(u16::from(protocol.0).to_be())
        .half(len.to_be());
    match family {
        Family::V4 => sum.word(source.v4_word()).word(destination.v4_word()),
        Family::V6 => sum.words(source.words()).words(destination.words()),
    }
}
