//! ICMP errors about translated packets (RFC 5508; RFC 6146, 3.5).
//!
//! The error quotes the packet as it was where it failed. It travels with the opposite flow, so
//! that flow's entry translates it: outside as any packet of the flow, inside with source and
//! destination exchanged. The quoted transport checksum is not updated: the quoted packet is
//! truncated, so its receiver cannot verify it.

use headgate_abi::{Addr, CtEntry, Protocol, Reason};

use crate::{
    checksum::Sum,
    fragment::{original, rewrite_id_v4},
    packet::Packet,
    parse::{Parsed, load_v4, load_v6},
    rewrite::{address_difference, rewrite_network},
    wire::{Family, ICMP_HEADER, L3, V4_DONT_FRAGMENT, V4_ID},
};

/// Translates an ICMP error; subtracts `hops` from the outer hop limit.
#[inline(always)]
pub(crate) fn rewrite_error<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    entry: &CtEntry,
    hops: u8,
    seed: u32,
) -> Result<(), Reason> {
    let flow = &parsed.flow;
    let (source, destination) = outer_addresses(packet, parsed.family)?;
    // An error from a router keeps its source; one from the far end gets the address that the
    // receiver knows.
    let new_source = if source == flow.source {
        entry.source
    } else {
        source
    };

    let inner = parsed.l4 + ICMP_HEADER;
    if parsed.family == Family::V4 {
        restore_id(packet, inner, entry, flow.protocol, seed)?;
    }
    rewrite_network(
        packet,
        parsed.family,
        inner,
        entry.destination,
        entry.source,
        0,
    )?;
    let [a, b] = entry.destination_port.word().to_ne_bytes();
    let [c, d] = entry.source_port.word().to_ne_bytes();
    packet.store(parsed.quoted_l4, &[a, b, c, d])?;

    let ports = Sum::default()
        .without_half(flow.source_port.word())
        .without_half(flow.destination_port.word())
        .half(entry.source_port.word())
        .half(entry.destination_port.word());
    let (pseudo_header, quoted) = match parsed.family {
        // ICMPv4 has no pseudo header, and the quoted header's checksum cancels its change of
        // addresses.
        Family::V4 => (Sum::default(), ports),
        Family::V6 => (
            address_difference(
                Family::V6,
                (source, destination),
                (new_source, entry.destination),
            ),
            ports.plus(address_difference(
                Family::V6,
                (flow.destination, flow.source),
                (entry.destination, entry.source),
            )),
        ),
    };
    packet.adjust_checksum(parsed.checksum_offset(), pseudo_header, quoted, false)?;
    rewrite_network(
        packet,
        parsed.family,
        L3,
        new_source,
        entry.destination,
        hops,
    )
}

/// Restores the identification in a quoted IPv4 header. Its checksum cancels the change in that of
/// the error. The identification of IPv6 is not restored: no sender reads it.
#[inline(always)]
fn restore_id<P: Packet>(
    packet: &mut P,
    quoted: u32,
    entry: &CtEntry,
    protocol: Protocol,
    seed: u32,
) -> Result<(), Reason> {
    let [hi, lo, field_hi, field_lo] = packet.load(quoted + V4_ID)?;
    if u16::from_be_bytes([field_hi, field_lo]) & V4_DONT_FRAGMENT != 0 {
        return Ok(());
    }
    let id = original(
        u32::from(u16::from_be_bytes([hi, lo])),
        &entry.destination,
        &entry.source,
        protocol,
        seed,
    );
    rewrite_id_v4(packet, quoted, id)
}

#[inline(always)]
fn outer_addresses<P: Packet>(packet: &P, family: Family) -> Result<(Addr, Addr), Reason> {
    match family {
        Family::V4 => Ok((load_v4(packet, L3 + 12)?, load_v4(packet, L3 + 16)?)),
        Family::V6 => Ok((load_v6(packet, L3 + 8)?, load_v6(packet, L3 + 24)?)),
    }
}
