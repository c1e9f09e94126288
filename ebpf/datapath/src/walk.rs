//! The packet walk: the page to read first.

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, CtEntry, CtFlags, CtState, Fate, FragmentEntry, FragmentKey,
    FrontendEntry, FrontendFlags, FrontendKey, Protocol, Reason,
};

use crate::{
    conntrack::{Direction, is_expired, is_reopening, mirror, next_state, next_state_one_way},
    context::{Hook, Notes, Outcome, Verdict},
    encap::{
        capsule_len, clamp_segments, encapsulate, find_capsule, is_for_nodes, plan_delivery,
        source_port,
    },
    hash::flow_hash,
    icmp::rewrite_error,
    nat::{end_reply, is_alike, open_connection, plan_dnat, plan_snat},
    packet::Packet,
    parse::{Fragment, Parsed, Transport, parse_inside},
    reject::{Message, Rejection, reject},
    rewrite::{rewrite, rewrite_link, rewrite_network},
    select::choose,
    tables::{Link, Route, RouteQuery, Tables, Way},
    wire::L3,
};

/// Decides about one packet, changes it accordingly, and records the connection.
#[inline(always)]
pub fn walk<P: Packet, T: Tables>(
    hook: Hook,
    packet: &mut P,
    tables: &mut T,
    notes: &mut Notes,
) -> Outcome {
    let outcome = match steps(hook, packet, tables, notes) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome {
            verdict: match reason.fate() {
                Fate::Pass | Fate::Forward => Verdict::Pass,
                Fate::Drop | Fate::Reject => Verdict::Drop,
            },
            ifindex: 0,
            reason,
            opens: false,
        },
    };
    let is_told = outcome.opens || matches!(outcome.reason.fate(), Fate::Reject | Fate::Drop);
    if is_told && notes.flow.protocol != Protocol::default() {
        tables.tell(outcome.reason, &notes.flow, &notes.entry);
    }
    outcome
}

/// What the packet shall become.
///
/// VERIFIER: no enum with fields, see [`Route`].
struct Plan {
    outcome: Outcome,

    /// If the verdict is to answer: what to say.
    rejection: Rejection,
    /// If it is not: by how much the hop limit goes down.
    hops: u8,
    /// Whether it is sent on in a capsule.
    is_encapsulated: bool,
    /// If it is to redirect: the addresses of the next link.
    link: Link,
}

#[inline(always)]
fn steps<P: Packet, T: Tables>(
    hook: Hook,
    packet: &mut P,
    tables: &mut T,
    notes: &mut Notes,
) -> Result<Outcome, Reason> {
    notes.flow.protocol = Protocol::default();
    let mut parsed = understand(hook, packet, tables, notes)?;
    find_ports(tables, &mut parsed, notes)?;
    let plan = decide(hook, packet, tables, &parsed, notes)?;
    carry_out(packet, tables, &mut parsed, &notes.entry, &plan)?;
    Ok(plan.outcome)
}

/// Reads the headers; of a packet that another node encapsulated, those inside.
#[inline(always)]
fn understand<P: Packet, T: Tables>(
    hook: Hook,
    packet: &P,
    tables: &T,
    notes: &mut Notes,
) -> Result<Parsed, Reason> {
    if hook != Hook::External || !tables.has_dsr() {
        return parse_inside(packet, 0);
    }
    // What is too short for a capsule is none.
    let capsule = find_capsule(packet, tables.config().dsr_port, notes).unwrap_or(0);
    match parse_inside(packet, capsule) {
        Err(_unreadable) if capsule != 0 => Err(Reason::EncapsulatedUnknown),
        parsed => parsed,
    }
}

/// Everything up to the first changed byte.
#[inline(always)]
fn decide<P: Packet, T: Tables>(
    hook: Hook,
    packet: &P,
    tables: &mut T,
    parsed: &Parsed,
    notes: &mut Notes,
) -> Result<Plan, Reason> {
    let flow = &parsed.flow;
    if hook == Hook::Pod && is_for_nodes(tables, flow.destination_port, flow.protocol) {
        notes.flow = *flow;
        return Err(Reason::Spoofed);
    }
    let is_known = existing_connection(tables, parsed, notes);
    if !is_known {
        notes.flow = parsed.flow;
    }
    if is_known {
        leave_to_egress(hook, tables, parsed, &notes.entry)?;
        leave_to_tc::<P>(parsed, &notes.entry)?;
        leave_partial_checksum(packet, parsed)?;
        track(tables, parsed, notes)?;
    } else {
        let is_planned = match parsed.capsule {
            0 => plan_connection(hook, tables, parsed, notes),
            _ => plan_delivery(tables, parsed, notes),
        };
        leave_partial_checksum(packet, parsed)?;
        match is_planned {
            Err(reason @ (Reason::NoBackend | Reason::NoPort)) => {
                let source = parsed.flow.destination;
                return Ok(answer(Message::PortUnreachable, source, 0, reason));
            }
            Err(reason) => return Err(reason),
            Ok(()) => open_connection(tables, &parsed.flow, notes)?,
        }
    }
    let mut plan = send(hook, tables, parsed, notes)?;
    if plan.outcome.reason.fate() == Fate::Forward {
        let entry = &notes.entry;
        tables.count(entry.service, entry.backend, packet.len(), !is_known);
        plan.outcome.opens = !is_known;
    }
    Ok(plan)
}

#[inline(always)]
fn carry_out<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &mut Parsed,
    entry: &CtEntry,
    plan: &Plan,
) -> Result<(), Reason> {
    if parsed.capsule != 0 {
        packet.shrink(parsed.capsule)?;
        parsed.l4 -= parsed.capsule;
        parsed.capsule = 0;
    }
    if plan.outcome.verdict == Verdict::Answer {
        return reject(packet, parsed, &plan.rejection, tables.has_dsr());
    }
    if tables.has_dsr() {
        clamp_segments(packet, parsed, entry)?;
    }
    match parsed.transport {
        _ if plan.is_encapsulated => {
            encapsulate(packet, tables.config(), parsed, entry, plan.hops)?
        }
        Transport::Tcp | Transport::Udp => rewrite(packet, parsed, entry, plan.hops)?,
        Transport::IcmpError => rewrite_error(packet, parsed, entry, plan.hops)?,
        Transport::LaterFragment => rewrite_network(
            packet,
            parsed.family,
            L3,
            entry.source,
            entry.destination,
            plan.hops,
        )?,
    }
    if plan.outcome.verdict == Verdict::Redirect {
        rewrite_link(packet, &plan.link)?;
    }
    Ok(())
}

/// Gives a later fragment the ports that the first one had.
#[inline(always)]
fn find_ports<T: Tables>(
    tables: &mut T,
    parsed: &mut Parsed,
    notes: &mut Notes,
) -> Result<(), Reason> {
    if parsed.fragment == Fragment::Whole {
        return Ok(());
    }
    let flow = &mut parsed.flow;
    notes.fragment = FragmentKey {
        source: flow.source,
        destination: flow.destination,
        id: parsed.fragment_id,
        protocol: flow.protocol,
        zero: [0; 3],
    };
    if parsed.fragment == Fragment::First {
        let ports = FragmentEntry {
            source_port: flow.source_port,
            destination_port: flow.destination_port,
        };
        tables.put_fragment(&notes.fragment, &ports);
        return Ok(());
    }
    let Some(ports) = tables.fragment(&notes.fragment) else {
        if parsed.capsule != 0 {
            return Err(Reason::FragmentUnknown);
        }
        // VERIFIER: a comparison with `Some` reads the field of `None` (LLVM 22).
        let address = tables.address(&flow.destination);
        return Err(match address.unwrap_or(AddressEntry::SHARED) {
            AddressEntry::SERVICE => Reason::FragmentUnknown,
            _ => Reason::Fragment,
        });
    };
    flow.source_port = ports.source_port;
    flow.destination_port = ports.destination_port;
    Ok(())
}

/// Notes the live entry of the packet's flow; false if there is none.
#[inline(always)]
fn existing_connection<T: Tables>(tables: &mut T, parsed: &Parsed, notes: &mut Notes) -> bool {
    let Some(entry) = tables.connection(&parsed.flow) else {
        return false;
    };
    notes.entry = entry;
    // What came in a capsule is for a backend of this node.
    const NOT_INSIDE: CtFlags = CtFlags(CtFlags::REPLY.0 | CtFlags::ENCAPSULATES.0);
    if parsed.capsule != 0 && entry.flags.0 & NOT_INSIDE.0 != 0 {
        return false;
    }
    if is_expired(&notes.entry, parsed.flow.protocol, tables.now_s()) {
        return false;
    }
    let is_reopening = is_reopening(tables, &notes.entry, parsed.flags);
    if is_reopening {
        end_reply(tables, &parsed.flow, notes);
    }
    !is_reopening
}

/// Replies are translated where they leave, and nothing else is: the kernel routes them as it routed what
/// they answer, and its connection tracking, and firewalls that ask that, see both ways. Where the source
/// was translated, though, what they answer went past the kernel, and they are for this node until they
/// are translated.
#[inline(always)]
fn leave_to_egress<T: Tables>(
    hook: Hook,
    tables: &T,
    parsed: &Parsed,
    entry: &CtEntry,
) -> Result<(), Reason> {
    let is_reply = Direction::of(entry) == Direction::Reply;
    if hook == Hook::Egress {
        return match is_reply {
            true => Ok(()),
            false => Err(Reason::NotOurs),
        };
    }
    let destination = &parsed.flow.destination;
    if is_reply
        && entry.destination == *destination
        && *destination != tables.config().node_address(parsed.family)
    {
        return Err(Reason::AtEgress);
    }
    Ok(())
}

/// What XDP makes of a packet meets TC, which would take these for packets of a connection past the
/// service, see [`straight`]: those of one that has such a connection beside it, and a SYN of a client
/// that has forgotten its connection.
#[inline(always)]
fn leave_to_tc<P: Packet>(parsed: &Parsed, entry: &CtEntry) -> Result<(), Reason> {
    let has_forgotten = parsed.flags.is_opening() && !is_opening(entry);
    match P::IS_BEFORE_TC && (has_forgotten || entry.flags.has(CtFlags::DOUBLED)) {
        true => Err(Reason::ForTc),
        false => Ok(()),
    }
}

#[inline(always)]
fn is_opening(entry: &CtEntry) -> bool {
    matches!(entry.state, CtState::NEW | CtState::ANSWERED)
}

/// XDP cannot keep the mark of a checksum that a device is to complete. TC can, and comes next.
#[inline(always)]
fn leave_partial_checksum<P: Packet>(packet: &P, parsed: &Parsed) -> Result<(), Reason> {
    if P::IS_BEFORE_TC && parsed.has_partial_checksum(packet)? {
        return Err(Reason::PartialChecksum);
    }
    Ok(())
}

/// Brings state and age of both entries up to date: when the state changes, and once a second.
#[inline(always)]
fn track<T: Tables>(tables: &mut T, parsed: &Parsed, notes: &mut Notes) -> Result<(), Reason> {
    let now_s = tables.now_s();
    let entry = &mut notes.entry;
    let is_one_way = tables.is_encapsulating(entry);
    let state = match is_one_way {
        true => next_state_one_way(entry.state, parsed.transport, parsed.flags),
        false => next_state(
            entry.state,
            Direction::of(entry),
            parsed.transport,
            parsed.flags,
        ),
    };
    if state == entry.state && now_s == entry.seen_s {
        return Ok(());
    }
    entry.state = state;
    entry.seen_s = now_s;
    tables.touch_connection(&parsed.flow, state, now_s);
    if is_one_way {
        return Ok(());
    }
    mirror(&parsed.flow, entry, &mut notes.other_flow, &mut notes.other);
    if tables.touch_connection(&notes.other_flow, state, now_s) {
        return Ok(());
    }
    // The table evicted the other half.
    tables.put_connection(&notes.other_flow, &notes.other)
}

/// Notes what becomes of the packets of a new connection, as long as its source port is free.
#[inline(always)]
fn plan_connection<T: Tables>(
    hook: Hook,
    tables: &mut T,
    parsed: &Parsed,
    notes: &mut Notes,
) -> Result<(), Reason> {
    if hook == Hook::Egress || parsed.transport == Transport::IcmpError {
        return Err(Reason::NotOurs);
    }
    let flow = &parsed.flow;
    // Whoever sent this would reach what listens on the node's loopback (CVE-2020-8558).
    if flow.source.is_loopback() || flow.destination.is_loopback() {
        return Err(Reason::Spoofed);
    }
    let Some(address) = tables.address(&flow.destination) else {
        return straight(tables, parsed, notes);
    };
    // Nobody to answer. The kernel drops these as martians, once it sees them.
    if !flow.source.is_host() {
        return Err(Reason::Spoofed);
    }
    let key = FrontendKey::new(flow.destination, flow.destination_port, flow.protocol);
    let Some(frontend) = tables.frontend(&key) else {
        return match address {
            AddressEntry::SERVICE => Err(Reason::NoPort),
            _ => straight(tables, parsed, notes),
        };
    };
    if parsed.transport == Transport::LaterFragment {
        return Err(Reason::FragmentUnknown);
    }
    if tables.address(&flow.source) == Some(AddressEntry::SERVICE) {
        return Err(Reason::Spoofed);
    }
    balance(hook, tables, parsed, &frontend, notes)
}

/// A connection past all services is not ours, unless its answers would be taken for those of a
/// connection that came to the same backend through a service: same client, same source port. As
/// `nf_conntrack` does it, it is then tracked as well, and gets a source port of its own.
///
/// While that connection opens, what looks like another is the same: XDP has translated it, and TC
/// meets it now. Another that begins in these very milliseconds gets nowhere until its client asks
/// again, a second later.
#[inline(always)]
fn straight<T: Tables>(tables: &mut T, parsed: &Parsed, notes: &mut Notes) -> Result<(), Reason> {
    let flow = &parsed.flow;
    if !parsed.flags.is_opening() {
        return Err(Reason::NotOurs);
    }
    let answers = flow.reversed();
    notes.entry = tables.connection(&answers).ok_or(Reason::NotOurs)?;
    if is_opening(&notes.entry) || Direction::of(&notes.entry) == Direction::Original {
        return Err(Reason::NotOurs);
    }
    mirror(
        &answers,
        &notes.entry,
        &mut notes.other_flow,
        &mut notes.other,
    );
    notes.other.flags = notes.other.flags.with(CtFlags::DOUBLED);
    // Its client may have gone on to another backend since.
    let forth = tables.connection(&notes.other_flow);
    if forth.is_some_and(|forth| is_alike(&forth, &notes.other)) {
        tables.put_connection(&notes.other_flow, &notes.other)?;
    }
    let itself = BackendEntry {
        address: flow.destination,
        port: flow.destination_port,
        ..BackendEntry::default()
    };
    notes.entry = plan_dnat(flow, 0, 0, &itself, tables.now_s());
    Ok(())
}

#[inline(always)]
fn balance<T: Tables>(
    hook: Hook,
    tables: &mut T,
    parsed: &Parsed,
    frontend: &FrontendEntry,
    notes: &mut Notes,
) -> Result<(), Reason> {
    let (service_id, drop_flag) = match hook {
        Hook::External | Hook::Egress => (frontend.outside, FrontendFlags::DROP_OUTSIDE),
        Hook::Pod => (frontend.inside, FrontendFlags::DROP_INSIDE),
    };
    let empty = if frontend.flags.has(drop_flag) {
        Reason::NoLocalBackend
    } else {
        Reason::NoBackend
    };
    let flow = &parsed.flow;
    if frontend.flags.has(FrontendFlags::SOURCE_RANGES)
        && !tables.admits(frontend.outside, &flow.source)
    {
        return Err(Reason::SourceRange);
    }
    let service = tables.service(service_id).ok_or(empty)?;
    let hash = flow_hash(flow, tables.config().seed);
    let (backend_id, backend) =
        choose(tables, service_id, &service, &flow.source, hash).ok_or(empty)?;
    if is_for_nodes(tables, backend.port, flow.protocol) {
        return Err(Reason::NoBackend);
    }
    notes.entry = plan_dnat(flow, service_id, backend_id, &backend, tables.now_s());
    plan_snat(hook, tables, parsed.family, &backend, notes)
}

/// How the packet goes on its way.
///
/// The kernel's own routing serves packets to backends. Where the source is translated, though, it
/// may become an address of this node, which the kernel drops on arrival as a martian: these are
/// routed here.
#[inline(always)]
fn send<T: Tables>(
    hook: Hook,
    tables: &T,
    parsed: &Parsed,
    notes: &mut Notes,
) -> Result<Plan, Reason> {
    let entry = &notes.entry;
    let node = tables.config().node_address(parsed.family);
    let is_encapsulated = tables.is_encapsulating(entry);
    let reason = match (parsed.transport, Direction::of(entry)) {
        (Transport::IcmpError, _) => Reason::IcmpError,
        _ if is_encapsulated => Reason::Encapsulated,
        (_, Direction::Original) => Reason::ToBackend,
        (_, Direction::Reply) => Reason::ToClient,
    };
    let is_from_node = entry.source != parsed.flow.source
        || parsed.capsule != 0 && entry.source == node
        || is_encapsulated;
    let is_routed_here = hook != Hook::Egress && is_from_node;
    let route = if is_routed_here {
        tables.route(&route_query(tables, parsed, entry))
    } else {
        Route::STACK
    };
    let is_sent_here = matches!(route.way, Way::Link | Way::Neighbour);
    let is_worn_out = is_sent_here && parsed.hop_limit <= 1;
    if is_worn_out || matches!(route.way, Way::Unreachable | Way::TooBig) {
        notes.flow = parsed.flow;
    }
    if is_worn_out {
        return Ok(answer(Message::HopLimit, node, 0, Reason::HopLimit));
    }
    let verdict = match route.way {
        Way::NotHere => return Err(Reason::NoNeighbour),
        Way::Unreachable => return Err(Reason::NoRoute),
        Way::TooBig => {
            let mtu = match is_encapsulated {
                true => route.mtu.wrapping_sub(capsule_len(parsed.family) as u16),
                false => route.mtu,
            };
            return Ok(answer(Message::TooBig, node, mtu, Reason::TooBig));
        }
        Way::Stack => Verdict::Pass,
        Way::Link => Verdict::Redirect,
        Way::Neighbour => Verdict::RedirectNeighbour,
    };
    Ok(Plan {
        outcome: Outcome {
            verdict,
            ifindex: route.link.ifindex,
            reason,
            opens: false,
        },
        rejection: Rejection::default(),
        hops: u8::from(is_sent_here),
        is_encapsulated,
        link: route.link,
    })
}

#[inline(always)]
fn route_query<T: Tables>(tables: &T, parsed: &Parsed, entry: &CtEntry) -> RouteQuery {
    if tables.is_encapsulating(entry) {
        let config = tables.config();
        let capsule = capsule_len(parsed.family) as u16;
        return RouteQuery {
            family: parsed.family,
            source: config.node_address(parsed.family),
            destination: entry.destination,
            source_port: source_port(parsed, config),
            destination_port: config.dsr_port,
            protocol: Protocol::UDP,
            tos: parsed.tos,
            total_len: parsed.total_len.saturating_add(capsule),
            capsule,
            inner_protocol: parsed.flow.protocol,
        };
    }
    RouteQuery {
        family: parsed.family,
        source: entry.source,
        destination: entry.destination,
        source_port: entry.source_port,
        destination_port: entry.destination_port,
        protocol: parsed.flow.protocol,
        tos: parsed.tos,
        total_len: parsed.total_len,
        capsule: 0,
        inner_protocol: parsed.flow.protocol,
    }
}

#[inline(always)]
fn answer(message: Message, source: Addr, mtu: u16, reason: Reason) -> Plan {
    Plan {
        outcome: Outcome {
            verdict: Verdict::Answer,
            ifindex: 0,
            reason,
            opens: false,
        },
        rejection: Rejection {
            message,
            source,
            mtu,
        },
        hops: 0,
        is_encapsulated: false,
        link: Link::default(),
    }
}
