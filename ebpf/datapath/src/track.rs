//! Following known connections, and flows that the kernel owns.

use headgate_abi::{CtEntry, CtFlags, CtState, FrontendKey, Reason, Takeover};

use crate::{
    conntrack::{
        Direction, is_expired, is_reopening, mirror, next_state, next_state_one_way, state_after,
        timeout_s,
    },
    context::Context,
    nat::{end_reply, plan_dnat},
    parse::{Parsed, TcpFlags, Transport},
    sequence::{
        Standing, continues_data, is_all_acknowledged, is_plain, is_quote_in_flight, judge,
    },
    tables::Tables,
};

/// Copies the live entry of the packet's flow to `context.entry`; false if there is no such entry.
#[inline(always)]
pub(crate) fn existing_connection<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
) -> bool {
    if !tables.observe(parsed, &mut context.entry) {
        return false;
    }
    // An encapsulated packet is for a backend of this node.
    const NOT_INSIDE: CtFlags = CtFlags::REPLY
        .union(CtFlags::ENCAPSULATES)
        .union(CtFlags::OWN)
        .union(CtFlags::KERNEL);
    if parsed.outer_len != 0 && context.entry.flags.intersects(NOT_INSIDE) {
        return false;
    }
    let (protocol, now_s) = (parsed.flow.protocol, tables.now_s());
    if is_expired(tables.config(), &context.entry, protocol, now_s) {
        return false;
    }
    let is_reopening = is_reopening(&context.entry, parsed.flags);
    if is_reopening {
        end_reply(tables, &parsed.flow, context);
    }
    !is_reopening
}

/// Updates state, time and numbers of both entries: state and time when the state changes, and once a
/// second; numbers whenever they change.
///
/// # Errors
///
/// [`Reason::StaleError`] for an ICMP error that quotes no segment in flight.
#[inline(always)]
pub(crate) fn track<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
    direction: Direction,
    is_encapsulating: bool,
) -> Result<(), Reason> {
    let now_s = tables.now_s();
    let before = context.entry.state;
    if is_encapsulating {
        return track_one_way(tables, parsed, context);
    }
    if parsed.transport == Transport::IcmpError {
        return check_quote(tables, parsed, context);
    }
    let mut seen_s = now_s;
    if is_plain(&context.entry, parsed) {
        context.entry.state = next_state(before, direction, parsed.transport, parsed.flags);
    } else {
        match judge_segment(tables, parsed, context, direction) {
            Standing::Doubtful => return Ok(()),
            // Unless a later segment shows that both ends are there, the entry lives no longer than a
            // closed one.
            Standing::MayReset => {
                let lifetime_s = |state| timeout_s(tables.config(), parsed.flow.protocol, state);
                let rest_s = lifetime_s(CtState::CLOSED);
                let spent_s = lifetime_s(before).saturating_sub(rest_s);
                seen_s = now_s.wrapping_sub(spent_s);
            }
            Standing::Belongs | Standing::Reopens | Standing::Resets => {}
        }
    }
    let entry = &mut context.entry;
    if entry.state == before && seen_s == entry.seen_s {
        return Ok(());
    }
    entry.seen_s = seen_s;
    tables.touch_connection(&parsed.flow, entry.state, seen_s);
    mirror(
        &parsed.flow,
        entry,
        &mut context.other_flow,
        &mut context.other,
    );
    if tables.touch_connection(&context.other_flow, entry.state, seen_s) {
        return Ok(());
    }
    // The table evicted the other half.
    tables.put_connection(&context.other_flow, &context.other)
}

/// Judges a segment by both entries, and writes its numbers.
#[inline(always)]
fn judge_segment<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
    direction: Direction,
) -> Standing {
    read_other(tables, parsed, context);
    let Context {
        entry,
        other,
        other_flow,
        ..
    } = context;
    let is_reply = direction == Direction::Reply;
    let standing = judge(entry, other, parsed, is_reply);
    entry.state = state_after(entry.state, direction, standing, parsed.flags);
    if entry.state == CtState::CLOSING
        && standing == Standing::Belongs
        && is_all_acknowledged(entry, other)
    {
        entry.state = CtState::CLOSED;
    }
    tables.put_numbers(&parsed.flow, entry);
    tables.put_numbers(other_flow, other);
    standing
}

/// Copies the entry of the other direction to `context.other`; if the table evicted it, what is known
/// of it.
#[inline(always)]
fn read_other<T: Tables>(tables: &T, parsed: &Parsed, context: &mut Context) {
    mirror(
        &parsed.flow,
        &context.entry,
        &mut context.other_flow,
        &mut context.other,
    );
    if let Some(other) = tables.connection(&context.other_flow) {
        context.other = other;
    }
}

/// Lets an ICMP error through if the segment that it quotes may be in flight. It changes neither the
/// state of the connection nor its lifetime.
#[inline(always)]
fn check_quote<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    context: &mut Context,
) -> Result<(), Reason> {
    if parsed.flow.protocol != headgate_abi::Protocol::TCP {
        return Ok(());
    }
    read_other(tables, parsed, context);
    match is_quote_in_flight(&context.other, &context.entry, parsed) {
        true => Ok(()),
        false => Err(Reason::StaleError),
    }
}

/// Tracks a connection of which this node sees only the client's packets (DSR). The backend's node
/// sees both directions and checks ICMP errors.
#[inline(always)]
fn track_one_way<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
) -> Result<(), Reason> {
    const ENDS: TcpFlags = TcpFlags::FIN.with(TcpFlags::RST);
    let entry = &mut context.entry;
    // Other numbers may jump: packets of this flow also reach other nodes.
    let must_fit = parsed.transport == Transport::Tcp
        && (parsed.flags.any(ENDS) || entry.state == CtState::NEW);
    if parsed.transport == Transport::IcmpError
        || must_fit && !continues_data(entry, &parsed.segment)
    {
        return Ok(());
    }
    let (before, now_s) = (entry.state, tables.now_s());
    entry.state = next_state_one_way(before, parsed.transport, parsed.flags);
    if entry.state != before || now_s != entry.seen_s {
        tables.touch_connection(&parsed.flow, entry.state, now_s);
    }
    Ok(())
}

/// Notes a flow that leaves this node from the address and port of a frontend, and is no reply of a
/// connection through a Service: the node, or a pod that the kernel masquerades, opened it. What
/// comes back is then left to the kernel, and not taken for a new connection.
///
/// Only what the kernel sends changes such an entry. A reset opens nothing, and may be our own.
#[inline(always)]
pub(crate) fn note_own_flow<T: Tables>(tables: &mut T, parsed: &Parsed, context: &mut Context) {
    let flow = &parsed.flow;
    if !matches!(parsed.transport, Transport::Tcp | Transport::Udp) {
        return;
    }
    // Packets from another address are forged, unless they are replies that other rules translated.
    let Some(address) = tables.address(&flow.source) else {
        return;
    };
    if !address.is_of_node() && tables.takeover() == Takeover::DONE {
        return;
    }
    let key = FrontendKey::new(flow.source, flow.source_port, flow.protocol);
    match tables.frontend(&key) {
        Some(frontend) if !frontend.is_left_to_node(address) => {}
        _ => return,
    }
    let now_s = tables.now_s();
    context.other_flow = flow.reversed();
    let present = tables.connection(&context.other_flow);
    let present = present.filter(|entry| !is_expired(tables.config(), entry, flow.protocol, now_s));
    let state = match present {
        Some(entry) if !entry.flags.contains(CtFlags::OWN) => return,
        Some(entry) if entry.state != CtState::CLOSED => {
            let state = next_state_one_way(entry.state, parsed.transport, parsed.flags);
            if state != entry.state || now_s != entry.seen_s {
                tables.touch_connection(&context.other_flow, state, now_s);
            }
            return;
        }
        _ if parsed.flags.any(TcpFlags::RST) => return,
        _ => match parsed.flags.any(TcpFlags::SYN) || parsed.transport == Transport::Udp {
            true => CtState::NEW,
            false => CtState::ESTABLISHED,
        },
    };
    let other = &context.other_flow;
    let itself = headgate_abi::BackendEntry {
        address: other.destination,
        port: other.destination_port,
        ..headgate_abi::BackendEntry::default()
    };
    context.other = CtEntry {
        state,
        flags: CtFlags::OWN,
        ..plan_dnat(other, 0, 0, &itself, now_s)
    };
    // If the table is full, the answer is balanced, as without a note.
    let _forgotten = tables.put_connection(&context.other_flow, &context.other);
}
