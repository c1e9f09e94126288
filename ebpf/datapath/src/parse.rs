//! Parses headers: from bytes to a flow.

use headgate_abi::{Addr, FlowKey, Port, Protocol, Reason};

use crate::{
    checksum::Sum,
    packet::Packet,
    wire::{
        ETHERTYPE_V4, ETHERTYPE_V6, FRAGMENT_HEADER, Family, ICMP_HEADER, L3, TCP_HEADER,
        UDP_HEADER, V4_DONT_FRAGMENT, V4_HEADER, V4_ID, V6_HEADER,
    },
};

/// The bits of a fragment's offset, in units of eight bytes.
const V4_OFFSET: u16 = 0x1fff;
/// An extension header of IPv6, which may also follow that of a fragment.
const DESTINATION_OPTIONS: u8 = 60;

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

    /// The flags of both.
    #[inline(always)]
    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether this is the answer to an opening segment: SYN with ACK.
    #[inline(always)]
    pub(crate) const fn is_answer(self) -> bool {
        self.0 & Self::SYN.0 != 0 && self.0 & Self::ACK.0 != 0
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
    /// An echo request (RFC 792; RFC 4443, 4.1).
    Echo,
    /// Anything else. It has no ports.
    Other,
}

/// Numbers of a TCP segment (RFC 9293, 3.4); all 0 if the packet has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Number of the first byte. Of an ICMP error: that of the quoted segment.
    pub sequence: u32,
    /// Number after the last byte; SYN and FIN count as one byte each.
    pub end: u32,
    /// Number of the next byte that the sender expects; 0 without ACK.
    pub acknowledged: u32,
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

/// The identification of a packet that is a fragment, or that a router may fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identification {
    /// The number: 16 bits for IPv4, 32 for IPv6.
    pub number: u32,
    /// Its offset in the frame; 0 if no receiver reads it (RFC 6864, 4).
    pub at: u32,
}

/// The fields of a packet that the walk needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Family of the network header.
    pub family: Family,
    /// Addresses and ports. Of an ICMP error: those of the quoted packet, reversed. A later fragment
    /// has no ports.
    pub flow: FlowKey,
    /// Offset in the frame of what follows the network header and its extensions.
    pub l4: u32,
    /// Of an ICMP error: offset of the transport header in the quoted packet.
    pub quoted_l4: u32,
    /// What the header at `l4` is.
    pub transport: Transport,
    /// The flags of a TCP segment.
    pub flags: TcpFlags,
    /// The numbers of a TCP segment.
    pub segment: Segment,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// The field by which the receiver joins fragments.
    pub id: Identification,
    /// Length of a fragment's data, in bytes.
    pub data_len: u16,
    /// Of the last fragment: length of the whole data, in bytes; else 0.
    pub data_end: u16,
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
    let mut parsed = match packet.ethertype()? {
        ETHERTYPE_V4 => parse_v4(packet, L3 + outer_len)?,
        ETHERTYPE_V6 => parse_v6(packet, L3 + outer_len)?,
        _ => return Err(Reason::NotIp),
    };
    parsed.outer_len = outer_len;
    Ok(parsed)
}

/// Fields of one network header.
struct Network {
    family: Family,
    source: Addr,
    destination: Addr,
    protocol: Protocol,
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, l3: u32) -> Result<Parsed, Reason> {
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
    let chain = Chain {
        protocol: Protocol::default(),
        l4: l3 + header_len,
        data: l3 + header_len,
        fragment: fragment(field & V4_OFFSET, field & MORE != 0),
        offset: (field & V4_OFFSET) << 3,
        has_more: field & MORE != 0,
        id: Identification {
            number: u32::from(u16::from_be_bytes([id_hi, id_lo])),
            at: if field & V4_DONT_FRAGMENT == 0 {
                l3 + V4_ID
            } else {
                0
            },
        },
    };
    let total_len = u16::from_be_bytes([len_hi, len_lo]);
    let parsed = parse_transport(packet, &network_v4(&header), &chain, l3, total_len)?;
    Ok(Parsed {
        hop_limit,
        tos,
        ..parsed
    })
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, l3: u32) -> Result<Parsed, Reason> {
    let header: [u8; V6_HEADER as usize] = packet.load(l3)?;
    let [first, second, _, _, len_hi, len_lo, _, hop_limit, ..] = header;
    if first >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let mut network = network_v6(&header)?;
    let chain = follow(packet, network.protocol, l3 + V6_HEADER)?;
    network.protocol = chain.protocol;
    let payload = u16::from_be_bytes([len_hi, len_lo]);
    // A jumbogram (RFC 2675), which the kernel makes of joined segments (BIG TCP).
    let total_len = match payload == 0 && chain.l4 != l3 + V6_HEADER {
        true => u16::MAX,
        false => payload.saturating_add(V6_HEADER as u16),
    };
    let parsed = parse_transport(packet, &network, &chain, l3, total_len)?;
    Ok(Parsed {
        hop_limit,
        tos: first << 4 | second >> 4,
        ..parsed
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

/// What the network header leads to.
struct Chain {
    /// What is at `l4`.
    protocol: Protocol,
    /// Offset of what follows the last extension header.
    l4: u32,
    /// Offset of the data of a fragment.
    data: u32,
    fragment: Fragment,
    /// Offset of a fragment's data in the datagram, in bytes.
    offset: u16,
    /// Whether another fragment follows.
    has_more: bool,
    id: Identification,
}

/// Extension headers that are stepped over at most.
const EXTENSIONS: u32 = 4;
/// Bytes of extension headers that are stepped over at most.
const EXTENSIONS_LEN: u32 = 128;

/// Steps over the extension headers of IPv6 (RFC 8200, 4) from `start` on: options, routing headers
/// that have no way to go, and the header of a fragment. Others end the chain.
#[inline(always)]
fn follow<P: Packet>(packet: &P, first: Protocol, start: u32) -> Result<Chain, Reason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    let mut chain = Chain {
        protocol: first,
        l4: start,
        data: start,
        fragment: Fragment::Whole,
        offset: 0,
        has_more: false,
        id: Identification::default(),
    };
    for _ in 0..EXTENSIONS {
        let kind = chain.protocol.0;
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            break;
        }
        let [next, len, hi, lo] = packet.load(chain.l4)?;
        chain.protocol = Protocol(next);
        if kind == FRAGMENT {
            let field = u16::from_be_bytes([hi, lo]);
            chain.fragment = fragment(field >> 3, field & 1 != 0);
            chain.offset = field & !7;
            chain.has_more = field & 1 != 0;
            chain.id.number = u32::from_be_bytes(packet.load(chain.l4 + 4)?);
            // The identification of an only fragment is not read (RFC 6946).
            if chain.fragment != Fragment::Whole {
                chain.id.at = chain.l4 + 4;
            }
            chain.l4 += FRAGMENT_HEADER;
            chain.data = chain.l4;
            if chain.fragment == Fragment::Later {
                break;
            }
        } else {
            // The destination is another one until the packet has been everywhere.
            if kind == ROUTING && lo != 0 {
                return Err(Reason::OtherProtocol);
            }
            chain.l4 += (u32::from(len) + 1) * 8;
        }
        if chain.l4 > start + EXTENSIONS_LEN {
            return Err(Reason::OtherProtocol);
        }
    }
    Ok(chain)
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

/// Parses what follows the network header at `l3`; the caller sets hop limit and traffic class.
#[inline(always)]
fn parse_transport<P: Packet>(
    packet: &P,
    network: &Network,
    chain: &Chain,
    l3: u32,
    total_len: u16,
) -> Result<Parsed, Reason> {
    let l4 = chain.l4;
    let data_len = total_len.saturating_sub((chain.data - l3) as u16);
    let mut parsed = Parsed {
        family: network.family,
        l4,
        transport: Transport::Other,
        fragment: chain.fragment,
        id: chain.id,
        data_len,
        data_end: match chain.has_more {
            true => 0,
            false => chain.offset.saturating_add(data_len),
        },
        total_len,
        flow: flow(network, Port::default(), Port::default()),
        ..Parsed::default()
    };
    let is_later = chain.fragment == Fragment::Later;
    match (network.protocol, network.family) {
        (Protocol::TCP | Protocol::UDP, _) | (Protocol(DESTINATION_OPTIONS), Family::V6)
            if is_later =>
        {
            parsed.transport = Transport::LaterFragment;
        }
        (Protocol::TCP | Protocol::UDP, _) => {
            let is_tcp = network.protocol == Protocol::TCP;
            // A fragment that ends within the header has no ports to go by (RFC 1858).
            let header = if is_tcp { TCP_HEADER } else { UDP_HEADER };
            let is_tiny = u32::from(total_len) < l4 - l3 + header;
            if chain.fragment == Fragment::First && is_tiny {
                return Ok(parsed);
            }
            // Read to the end of the header: a truncated packet is left to the kernel.
            if is_tcp {
                let len = match total_len {
                    // Of a jumbogram, which no padding follows.
                    u16::MAX => packet.len().wrapping_sub(l4),
                    _ => u32::from(total_len).saturating_sub(l4 - l3),
                };
                parsed.transport = Transport::Tcp;
                (parsed.flags, parsed.segment) = parse_segment(packet, l4, len)?;
            } else {
                const LENGTH: u32 = 4;
                let [_, _, _, _] = packet.load(l4 + LENGTH)?;
                parsed.transport = Transport::Udp;
            }
            parsed.flow = load_flow(packet, network, l4)?;
        }
        (Protocol::ICMP, Family::V4) | (Protocol::ICMPV6, Family::V6)
            if chain.fragment == Fragment::Whole =>
        {
            let [kind, _code] = packet.load(l4)?;
            match (network.family, kind) {
                // Destination unreachable, time exceeded, parameter problem.
                (Family::V4, 3 | 11 | 12) => {
                    (parsed.flow, parsed.quoted_l4) = quoted_v4(packet, l4 + ICMP_HEADER)?;
                    // Too short for any link.
                    parsed.id = Identification::default();
                    parsed.transport = Transport::IcmpError;
                    parsed.segment = quoted_segment(packet, &parsed)?;
                }
                // Destination unreachable, packet too big, time exceeded, parameter problem.
                (Family::V6, 1..=4) => {
                    (parsed.flow, parsed.quoted_l4) = quoted_v6(packet, l4 + ICMP_HEADER)?;
                    parsed.transport = Transport::IcmpError;
                    parsed.segment = quoted_segment(packet, &parsed)?;
                }
                (Family::V4, 8) | (Family::V6, 128) => parsed.transport = Transport::Echo,
                _ => {}
            }
        }
        _ => {}
    }
    Ok(parsed)
}

/// The flags and numbers of a TCP segment of `len` bytes with its header.
#[inline(always)]
fn parse_segment<P: Packet>(packet: &P, l4: u32, len: u32) -> Result<(TcpFlags, Segment), Reason> {
    const AFTER_PORTS: u32 = 4;
    let header: [u8; 16] = packet.load(l4 + AFTER_PORTS)?;
    let [s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, ..] = header;
    let flags = TcpFlags(flags);
    let sequence = u32::from_be_bytes([s0, s1, s2, s3]);
    let header_len = u32::from(offset >> 4) * 4;
    let controls = u32::from(flags.any(TcpFlags::SYN)) + u32::from(flags.any(TcpFlags::FIN));
    let acknowledged = match flags.any(TcpFlags::ACK) {
        true => u32::from_be_bytes([a0, a1, a2, a3]),
        false => 0,
    };
    let segment = Segment {
        sequence,
        end: sequence.wrapping_add(len.saturating_sub(header_len) + controls),
        acknowledged,
    };
    Ok((flags, segment))
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

/// The flow of the packet that an ICMP error quotes (RFC 792), reversed, and the offset of its
/// transport header. A later fragment has no ports.
#[inline(always)]
fn quoted_v4<P: Packet>(packet: &P, quoted: u32) -> Result<(FlowKey, u32), Reason> {
    let header: [u8; V4_HEADER as usize] = packet.load(quoted)?;
    let [version_ihl, _, _, _, _, _, offset_hi, offset_lo, ..] = header;
    let header_len = u32::from(version_ihl & 0x0f) * 4;
    let offset = u16::from_be_bytes([offset_hi, offset_lo]) & V4_OFFSET;
    if version_ihl >> 4 != 4 || header_len < V4_HEADER || offset != 0 {
        return Err(Reason::OtherProtocol);
    }
    quoted_flow(packet, &network_v4(&header), quoted + header_len)
}

/// The same of an ICMPv6 error (RFC 4443, 3).
#[inline(always)]
fn quoted_v6<P: Packet>(packet: &P, quoted: u32) -> Result<(FlowKey, u32), Reason> {
    let mut network = network_v6(&packet.load(quoted)?)?;
    let chain = follow(packet, network.protocol, quoted + V6_HEADER)?;
    if chain.fragment == Fragment::Later {
        return Err(Reason::OtherProtocol);
    }
    network.protocol = chain.protocol;
    quoted_flow(packet, &network, chain.l4)
}

#[inline(always)]
fn quoted_flow<P: Packet>(
    packet: &P,
    network: &Network,
    l4: u32,
) -> Result<(FlowKey, u32), Reason> {
    match network.protocol {
        Protocol::TCP | Protocol::UDP => Ok((load_flow(packet, network, l4)?.reversed(), l4)),
        _ => Err(Reason::OtherProtocol),
    }
}

/// The sequence number that an ICMP error quotes.
#[inline(always)]
fn quoted_segment<P: Packet>(packet: &P, parsed: &Parsed) -> Result<Segment, Reason> {
    let sequence = match parsed.flow.protocol {
        Protocol::TCP => u32::from_be_bytes(packet.load(parsed.quoted_l4 + 4)?),
        _ => 0,
    };
    Ok(Segment {
        sequence,
        ..Segment::default()
    })
}

impl Parsed {
    /// Offset of the checksum field of the transport header.
    #[inline(always)]
    pub(crate) fn checksum_offset(&self) -> u32 {
        self.l4
            + match self.transport {
                Transport::Tcp => 16,
                Transport::Udp => 6,
                Transport::IcmpError
                | Transport::LaterFragment
                | Transport::Echo
                | Transport::Other => 2,
            }
    }

    /// Whether the checksum field holds only the sum of the pseudo header, as the kernel leaves it
    /// for a device to complete. A complete checksum has this value once in 65,536 packets.
    #[inline(always)]
    pub(crate) fn has_partial_checksum<P: Packet>(&self, packet: &P) -> Result<bool, Reason> {
        if !matches!(self.transport, Transport::Tcp | Transport::Udp)
            || self.fragment != Fragment::Whole
        {
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
