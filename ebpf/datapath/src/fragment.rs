//! Fragments, and the identification by which their receiver joins them (RFC 791, RFC 6864, RFC
//! 8200).
//!
//! Only the first fragment has ports. Once it was forwarded, an entry under source, destination and
//! identification lends its ports to the later ones, until all data has passed, or the time is over
//! in which a receiver joins fragments. A later fragment that comes first is not forwarded.
//!
//! The sender makes identifications unique for its source, destination and protocol. Translation
//! merges these: two clients become one node, two backends one frontend. So each source and
//! destination adds a number of its own to the identification. Two such numbers may be equal by
//! chance, so a fragmented datagram also reserves the result, and takes another one if it is in use.

use headgate_abi::{Addr, FragmentEntry, FragmentKey, FragmentState, Protocol, Reason};

use crate::{
    checksum::Sum,
    context::Context,
    hash::{client_hash, mix},
    packet::Packet,
    parse::{Fragment, Parsed, Transport},
    tables::Tables,
    wire::{Family, V4_ID},
};

/// Identifications tried before a datagram is dropped.
const TRIES: u32 = 8;

/// Seconds in which a receiver joins fragments: RFC 791, 3.2; RFC 8200, 4.5.
const fn timeout_s(family: Family) -> u32 {
    match family {
        Family::V4 => 15,
        Family::V6 => 60,
    }
}

/// Reads the entry of a fragment's datagram to `context.datagram`, and sets the ports of a later
/// fragment.
#[inline(always)]
pub(crate) fn find_ports<T: Tables>(
    tables: &mut T,
    parsed: &mut Parsed,
    context: &mut Context,
) -> Result<(), Reason> {
    if parsed.fragment == Fragment::Whole || parsed.transport == Transport::Other {
        return Ok(());
    }
    let flow = &mut parsed.flow;
    context.fragment = FragmentKey {
        source: flow.source,
        destination: flow.destination,
        id: parsed.id.number,
        // IPv6 has one space of numbers for all protocols.
        protocol: match parsed.family {
            Family::V4 => flow.protocol,
            Family::V6 => Protocol::default(),
        },
        zero: [0; 3],
    };
    let is_known = live_entry(tables, parsed.family, context);
    let known = &mut context.datagram;
    let is_open = is_known && known.state == FragmentState::OPEN;
    if parsed.fragment == Fragment::First {
        let is_same = known.source_port == flow.source_port
            && known.destination_port == flow.destination_port
            && known.protocol == flow.protocol;
        if is_known && known.state == FragmentState::MIXED {
            return Err(Reason::FragmentUnknown);
        }
        // Two datagrams: which of them a later fragment belongs to cannot be known.
        if is_open && !is_same {
            known.state = FragmentState::MIXED;
            tables.put_fragment(&context.fragment, known);
            return Err(Reason::FragmentUnknown);
        }
        if !is_open {
            *known = FragmentEntry {
                source_port: flow.source_port,
                destination_port: flow.destination_port,
                protocol: flow.protocol,
                seen_s: tables.now_s(),
                ..FragmentEntry::default()
            };
        }
        return Ok(());
    }
    if !is_open {
        let is_ended = is_known && known.state != FragmentState::RESERVED;
        if parsed.outer_len != 0 || is_ended {
            return Err(Reason::FragmentUnknown);
        }
        return Err(match tables.is_of_services(&flow.destination) {
            true => Reason::FragmentUnknown,
            false => Reason::Fragment,
        });
    }
    flow.source_port = known.source_port;
    flow.destination_port = known.destination_port;
    flow.protocol = known.protocol;
    Ok(())
}

/// Copies the entry of `context.fragment` to `context.datagram`; false if it does not exist, or is
/// too old.
#[inline(always)]
fn live_entry<T: Tables>(tables: &T, family: Family, context: &mut Context) -> bool {
    let Some(known) = tables.fragment(&context.fragment) else {
        return false;
    };
    context.datagram = known;
    context.datagram.age_s(tables.now_s()) <= timeout_s(family)
}

/// Returns the identification after translation, and reserves that of a first fragment.
#[inline(always)]
pub(crate) fn identify<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
) -> Result<u32, Reason> {
    let flow = &parsed.flow;
    let (family, now_s) = (parsed.family, tables.now_s());
    let mut summand = summand(
        &flow.source,
        &flow.destination,
        flow.protocol,
        tables.config().seed,
    );
    match parsed.fragment {
        Fragment::Whole => return Ok(number(family, parsed.id.number, summand)),
        Fragment::Later => return Ok(context.datagram.id),
        // The first fragment was sent twice.
        Fragment::First if context.datagram.state == FragmentState::OPEN => {
            return Ok(context.datagram.id);
        }
        Fragment::First => {}
    }
    context.sent = FragmentKey {
        source: context.entry.source,
        destination: context.entry.destination,
        ..context.fragment
    };
    context.reservation = FragmentEntry {
        state: FragmentState::RESERVED,
        ..context.datagram
    };
    for _ in 0..TRIES {
        context.sent.id = number(family, parsed.id.number, summand);
        context.datagram.id = context.sent.id;
        if tables.add_fragment(&context.sent, &context.reservation) {
            return Ok(context.sent.id);
        }
        let present = tables.fragment(&context.sent);
        // VERIFIER: no comparison with `Some`, which reads the field of `None` (LLVM 22).
        if present.unwrap_or_default().age_s(now_s) > timeout_s(family) {
            tables.put_fragment(&context.sent, &context.reservation);
            return Ok(context.sent.id);
        }
        summand = mix(summand);
    }
    Err(Reason::FragmentUnknown)
}

/// Notes that a fragment was forwarded, or refused.
#[inline(always)]
pub(crate) fn remember<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
    is_forwarded: bool,
) {
    let datagram = &mut context.datagram;
    match parsed.fragment {
        Fragment::Whole => return,
        _ if !is_forwarded => datagram.state = FragmentState::ENDED,
        // It was sent twice.
        Fragment::First if datagram.state == FragmentState::OPEN => return,
        Fragment::First => datagram.state = FragmentState::OPEN,
        Fragment::Later => {}
    }
    datagram.forwarded = datagram
        .forwarded
        .saturating_add(u32::from(parsed.data_len));
    if parsed.data_end != 0 {
        datagram.end = parsed.data_end;
    }
    if datagram.end != 0 && datagram.forwarded >= u32::from(datagram.end) {
        datagram.state = FragmentState::ENDED;
    }
    tables.put_fragment(&context.fragment, datagram);
}

/// Returns the identification that an IPv4 packet had before translation, unless the first one that
/// was tried was in use.
#[inline(always)]
pub(crate) fn original(
    id: u32,
    source: &Addr,
    destination: &Addr,
    protocol: Protocol,
    seed: u32,
) -> u32 {
    let summand = summand(source, destination, protocol, seed);
    number(Family::V4, id, summand.wrapping_neg())
}

/// The number of a source and destination. It is odd, so translation always changes an
/// identification: a hook that sees the packet after another one finds no entry of that one.
#[inline(always)]
fn summand(source: &Addr, destination: &Addr, protocol: Protocol, seed: u32) -> u32 {
    client_hash(
        source,
        client_hash(destination, u32::from(protocol.0), seed),
        seed,
    ) | 1
}

#[inline(always)]
fn number(family: Family, id: u32, summand: u32) -> u32 {
    let sum = id.wrapping_add(summand);
    match family {
        Family::V4 => sum & 0xffff,
        Family::V6 => sum,
    }
}

/// Replaces the identification in the IPv4 header at `l3`.
#[inline(always)]
pub(crate) fn rewrite_id_v4<P: Packet>(packet: &mut P, l3: u32, id: u32) -> Result<(), Reason> {
    let [i0, i1, f0, f1, ttl, protocol, c0, c1] = packet.load(l3 + V4_ID)?;
    let [n0, n1] = (id as u16).to_be_bytes();
    let [c0, c1] = Sum::default()
        .without_half(u16::from_ne_bytes([i0, i1]))
        .half(u16::from_ne_bytes([n0, n1]))
        .adjust(u16::from_ne_bytes([c0, c1]))
        .to_ne_bytes();
    packet.store(l3 + V4_ID, &[n0, n1, f0, f1, ttl, protocol, c0, c1])
}

/// Replaces the identification of a packet.
#[inline(always)]
pub(crate) fn rewrite_id<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    id: u32,
) -> Result<(), Reason> {
    match parsed.family {
        Family::V4 => rewrite_id_v4(packet, parsed.id.at - V4_ID, id),
        Family::V6 => packet.store(parsed.id.at, &id.to_be_bytes()),
    }
}
