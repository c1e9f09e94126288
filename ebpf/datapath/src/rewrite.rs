//! Writes a translation into the bytes of a packet.

use headgate_abi::{Addr, CtEntry, Protocol, Reason};

use crate::{
    checksum::Sum,
    packet::Packet,
    parse::{Parsed, Transport},
    wire::{Family, L3, V4_HEADER},
};

/// Difference of an address pair in a checksum.
#[inline(always)]
pub(crate) fn address_difference(family: Family, old: (Addr, Addr), new: (Addr, Addr)) -> Sum {
    match family {
        Family::V4 => Sum::default()
            .without_word(old.0.v4_word())
            .without_word(old.1.v4_word())
            .word(new.0.v4_word())
            .word(new.1.v4_word()),
        Family::V6 => Sum::default()
            .without_words(old.0.words())
            .without_words(old.1.words())
            .words(new.0.words())
            .words(new.1.words()),
    }
}

/// Difference of the ports of a packet in a checksum.
#[inline(always)]
fn port_difference(parsed: &Parsed, entry: &CtEntry) -> Sum {
    Sum::default()
        .without_half(parsed.flow.source_port.word())
        .without_half(parsed.flow.destination_port.word())
        .half(entry.source_port.word())
        .half(entry.destination_port.word())
}

/// Replaces the addresses of the network header at `l3`, and subtracts `hops` from its hop limit.
#[inline(always)]
pub(crate) fn rewrite_network<P: Packet>(
    packet: &mut P,
    family: Family,
    l3: u32,
    source: Addr,
    destination: Addr,
    hops: u8,
) -> Result<(), Reason> {
    match family {
        Family::V4 => {
            let bytes = translated_v4(packet, l3, source, destination, hops)?;
            packet.store(l3 + 8, &bytes)
        }
        Family::V6 => {
            let bytes = translated_v6(packet, l3, source, destination, hops)?;
            packet.store(l3 + 7, &bytes)
        }
    }
}

/// An IPv4 header from its hop limit on, translated.
#[inline(always)]
fn translated_v4<P: Packet>(
    packet: &P,
    l3: u32,
    source: Addr,
    destination: Addr,
    hops: u8,
) -> Result<[u8; 12], Reason> {
    let [ttl, protocol, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3] = packet.load(l3 + 8)?;
    let new_ttl = ttl.wrapping_sub(hops);
    let checksum = Sum::default()
        .without_half(u16::from_ne_bytes([ttl, protocol]))
        .without_word(u32::from_ne_bytes([s0, s1, s2, s3]))
        .without_word(u32::from_ne_bytes([d0, d1, d2, d3]))
        .half(u16::from_ne_bytes([new_ttl, protocol]))
        .word(source.v4_word())
        .word(destination.v4_word())
        .adjust(u16::from_ne_bytes([c0, c1]));
    let [c0, c1] = checksum.to_ne_bytes();
    let [s0, s1, s2, s3] = source.v4_word().to_ne_bytes();
    let [d0, d1, d2, d3] = destination.v4_word().to_ne_bytes();
    Ok([new_ttl, protocol, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3])
}

/// An IPv6 header from its hop limit on, translated.
#[inline(always)]
fn translated_v6<P: Packet>(
    packet: &P,
    l3: u32,
    source: Addr,
    destination: Addr,
    hops: u8,
) -> Result<[u8; 33], Reason> {
    let [hop_limit] = packet.load(l3 + 7)?;
    let mut bytes = [hop_limit.wrapping_sub(hops); 33];
    bytes[1..17].copy_from_slice(&address_bytes(source));
    bytes[17..].copy_from_slice(&address_bytes(destination));
    Ok(bytes)
}

/// Subtracts `hops` from the hop limit of the network header at `l3`.
#[inline(always)]
pub(crate) fn rewrite_hops<P: Packet>(
    packet: &mut P,
    family: Family,
    l3: u32,
    hops: u8,
) -> Result<(), Reason> {
    match family {
        Family::V4 => {
            let [ttl, protocol, c0, c1] = packet.load(l3 + 8)?;
            let new_ttl = ttl.wrapping_sub(hops);
            let [c0, c1] = Sum::default()
                .without_half(u16::from_ne_bytes([ttl, protocol]))
                .half(u16::from_ne_bytes([new_ttl, protocol]))
                .adjust(u16::from_ne_bytes([c0, c1]))
                .to_ne_bytes();
            packet.store(l3 + 8, &[new_ttl, protocol, c0, c1])
        }
        Family::V6 => {
            let [hop_limit] = packet.load(l3 + 7)?;
            packet.store(l3 + 7, &[hop_limit.wrapping_sub(hops)])
        }
    }
}

/// The sixteen bytes of an IPv6 address.
#[inline(always)]
pub(crate) fn address_bytes(address: Addr) -> [u8; 16] {
    let [a, b, c, d] = address.words().map(u32::to_ne_bytes);
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]
}

/// Translates a TCP or UDP packet; subtracts `hops` from the hop limit.
#[inline(always)]
pub(crate) fn rewrite<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    entry: &CtEntry,
    hops: u8,
) -> Result<(), Reason> {
    let [a, b] = entry.source_port.word().to_ne_bytes();
    let [c, d] = entry.destination_port.word().to_ne_bytes();
    packet.adjust_checksum(
        parsed.checksum_offset(),
        address_difference(
            parsed.family,
            (parsed.flow.source, parsed.flow.destination),
            (entry.source, entry.destination),
        ),
        port_difference(parsed, entry),
        parsed.transport == Transport::Udp,
    )?;
    let (source, destination) = (entry.source, entry.destination);
    // Without options the ports follow the addresses: one write is enough.
    if parsed.family == Family::V4 && parsed.l4 == L3 + V4_HEADER {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&translated_v4(packet, L3, source, destination, hops)?);
        bytes[12..].copy_from_slice(&[a, b, c, d]);
        return packet.store(L3 + 8, &bytes);
    }
    packet.store(parsed.l4, &[a, b, c, d])?;
    rewrite_network(packet, parsed.family, L3, source, destination, hops)
}

pub(crate) const HOP_LIMIT: u8 = 64;

/// Writes a network header: hop limit 64, not to be fragmented.
#[inline(always)]
pub(crate) fn write_network<P: Packet>(
    packet: &mut P,
    family: Family,
    tos: u8,
    protocol: Protocol,
    source: Addr,
    destination: Addr,
    payload: u16,
) -> Result<(), Reason> {
    match family {
        Family::V4 => {
            const DONT_FRAGMENT: u8 = 0x40;
            let [l0, l1] = (payload.wrapping_add(V4_HEADER as u16)).to_be_bytes();
            let head = [
                0x45,
                tos,
                l0,
                l1,
                0,
                0,
                DONT_FRAGMENT,
                0,
                HOP_LIMIT,
                protocol.0,
            ];
            let checksum = Sum::default()
                .bytes(&head)
                .word(source.v4_word())
                .word(destination.v4_word())
                .checksum();
            packet.store(L3, &head)?;
            packet.store(L3 + 10, &checksum.to_ne_bytes())?;
            packet.store(L3 + 12, &source.v4_word().to_ne_bytes())?;
            packet.store(L3 + 16, &destination.v4_word().to_ne_bytes())
        }
        Family::V6 => {
            let [l0, l1] = payload.to_be_bytes();
            packet.store(
                L3,
                &[
                    0x60 | tos >> 4,
                    tos << 4,
                    0,
                    0,
                    l0,
                    l1,
                    protocol.0,
                    HOP_LIMIT,
                ],
            )?;
            packet.store(L3 + 8, &address_bytes(source))?;
            packet.store(L3 + 24, &address_bytes(destination))
        }
    }
}
