//! The packet walk: the page to read first.

use core::hint::black_box;

use headgate_abi::{
    Addr, BackendEntry, BackendKey, CtEntry, CtFlags, CtState, Fate, FrontendEntry, FrontendFlags,
    FrontendKey, Protocol, Reason, Takeover,
};

use crate::{
    conntrack::{Direction, mirror},
    context::{Context, Hook, Outcome, Verdict},
    encap::{
        clamp_mss, encapsulate, find_encapsulation, is_dsr_port, outer_len, plan_delivery,
        source_port,
    },
    fragment::{find_ports, identify, remember, rewrite_id},
    hash::flow_hash,
    icmp::rewrite_error,
    link::check_receiver,
    nat::{is_same_translation, open_connection, plan_dnat, plan_snat, query, source_address},
    packet::Packet,
    parse::{Fragment, Parsed, TcpFlags, Transport, parse_inside},
    reject::{Rejection, RejectionKind, reject},
    rewrite::{rewrite, rewrite_network},
    select::choose,
    tables::{NextHop, Route, RouteQuery, RouteResult, Tables},
    track::{existing_connection, note_own_flow, track},
    wire::L3,
};

/// Decides about one packet, changes its bytes accordingly, and records the connection.
///
/// The outcome is in `memory`. Its fields were written one by one, so a copy of the whole would wait until they are in
/// the CPU's cache (store forwarding): 5 ns.
#[inline(always)]
pub fn walk<'m, P: Packet, T: Tables>(
    hook: Hook,
    packet: &mut P,
    tables: &mut T,
    memory: &'m mut Memory,
) -> &'m Outcome {
    memory.outcome = match steps(hook, packet, tables, memory) {
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
    let Memory {
        outcome, context, ..
    } = black_box(memory);
    let is_emitted = outcome.opens || matches!(outcome.reason.fate(), Fate::Reject | Fate::Drop);
    if is_emitted && context.flow.protocol != Protocol::default() {
        tables.emit(outcome.reason, &context.flow, &context.entry);
    }
    outcome
}

/// Working memory of a walk; its contents before do not matter. The caller provides it, because it
/// does not fit on the kernel's stack of 512 bytes.
///
/// VERIFIER: each step leaves its result here, and the next one reads it through a black box. So
/// the verifier, which follows every path, forgets how the result came about, and walks the next
/// step once, not once for each path through the steps before.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Memory {
    context: Context,
    parsed: Parsed,
    plan: Plan,
    outcome: Outcome,
}

/// What to do with a packet.
///
/// VERIFIER: not an enum with fields, see [`Route`].
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    outcome: Outcome,

    /// The error to send, if the verdict is to answer.
    rejection: Rejection,
    /// Otherwise: how much to subtract from the hop limit.
    hops: u8,
    /// Whether to send it encapsulated.
    is_encapsulated: bool,
    /// Source of the outer headers.
    outer_source: Addr,
    /// Its identification after translation, if it has one.
    id: u32,
    /// Link addresses, if the verdict is to redirect.
    next_hop: NextHop,
}

/// Facts about the entry of a packet's flow.
///
/// VERIFIER: read once. The entry is in a map's memory, so each further read of its flags would be an
/// unknown value to the verifier, which walks both outcomes of every branch on it.
#[derive(Clone, Copy)]
struct EntryPath {
    direction: Direction,
    is_encapsulating: bool,
    /// Whether the kernel has the connection, or gets it now.
    is_left: bool,
}

impl EntryPath {
    #[inline(always)]
    fn of<T: Tables>(tables: &T, parsed: &Parsed, entry: &CtEntry) -> Self {
        // An encapsulated packet is from a client, for a backend of this node.
        if parsed.outer_len != 0 {
            return Self {
                direction: Direction::Original,
                is_encapsulating: false,
                is_left: false,
            };
        }
        const LEFT: CtFlags = CtFlags::KERNEL.union(CtFlags::PAUSED);
        Self {
            direction: Direction::of(entry),
            is_encapsulating: tables.is_encapsulating(entry),
            is_left: entry.flags.intersects(LEFT),
        }
    }
}

#[inline(always)]
fn steps<P: Packet, T: Tables>(
    hook: Hook,
    packet: &mut P,
    tables: &mut T,
    memory: &mut Memory,
) -> Result<Outcome, Reason> {
    memory.context.flow.protocol = Protocol::default();
    check_receiver(hook, packet, tables)?;
    memory.parsed = read_headers(hook, packet, tables, &mut memory.context)?;
    find_ports(tables, &mut memory.parsed, &mut memory.context)?;
    let memory = black_box(memory);
    memory.plan = decide(hook, packet, tables, &memory.parsed, &mut memory.context)?;
    let Memory {
        context,
        parsed,
        plan,
        ..
    } = black_box(memory);
    apply(packet, tables, parsed, &context.entry, plan)?;
    if parsed.fragment != Fragment::Whole {
        let is_forwarded = plan.outcome.reason.fate() == Fate::Forward;
        remember(tables, parsed, context, is_forwarded);
    }
    Ok(plan.outcome)
}

/// Parses the headers; of an encapsulated packet, the inner headers.
#[inline(always)]
fn read_headers<P: Packet, T: Tables>(
    hook: Hook,
    packet: &P,
    tables: &T,
    context: &mut Context,
) -> Result<Parsed, Reason> {
    if hook != Hook::External || !tables.has_dsr() {
        return parse_inside(packet, 0);
    }
    // A packet too short to be encapsulated is handled as plain.
    let outer_len = find_encapsulation(packet, tables.config().dsr_port, context).unwrap_or(0);
    match parse_inside(packet, outer_len) {
        // The inner headers may be in the second buffer of a frame.
        Err(_unreadable) if outer_len != 0 && P::IS_BEFORE_TC => Err(Reason::ForTc),
        Err(_unreadable) if outer_len != 0 => Err(Reason::EncapsulatedUnknown),
        parsed => parsed,
    }
}

/// Plans everything and updates the tables, but changes no byte of the packet.
#[inline(always)]
fn decide<P: Packet, T: Tables>(
    hook: Hook,
    packet: &P,
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
) -> Result<Plan, Reason> {
    let flow = &parsed.flow;
    if hook == Hook::Pod && is_dsr_port(tables, flow.destination_port, flow.protocol) {
        context.flow = *flow;
        return Err(Reason::Spoofed);
    }
    if matches!(parsed.transport, Transport::Echo | Transport::Other) {
        return refuse_others(hook, tables, parsed, context);
    }
    let is_known = existing_connection(tables, parsed, context);
    if !is_known {
        context.flow = parsed.flow;
    }
    let path;
    if is_known {
        if context.entry.flags.contains(CtFlags::OWN) {
            return Err(Reason::KernelConnection);
        }
        path = EntryPath::of(tables, parsed, &context.entry);
        if path.is_left {
            if context.entry.flags.contains(CtFlags::PAUSED) {
                return Err(Reason::Paused);
            }
        } else {
            leave_to_egress(hook, tables, parsed, &context.entry, path)?;
            leave_to_tc::<P>(parsed, &context.entry, path)?;
            leave_partial_checksum(packet, parsed)?;
        }
        track(
            tables,
            parsed,
            context,
            path.direction,
            path.is_encapsulating,
        )?;
        if path.is_left {
            return Err(Reason::KernelConnection);
        }
    } else {
        let is_planned = match parsed.outer_len {
            0 => plan_connection(hook, tables, parsed, context),
            _ => plan_delivery(tables, parsed, context),
        };
        leave_partial_checksum(packet, parsed)?;
        match is_planned {
            Err(reason @ (Reason::NoBackend | Reason::NoPort | Reason::NoService)) => {
                let source = parsed.flow.destination;
                return Ok(answer(RejectionKind::PortUnreachable, source, 0, reason));
            }
            Err(reason) => return Err(reason),
            Ok(()) => {
                context.entry.end = parsed.segment.end;
                context.entry.acknowledged = parsed.segment.acknowledged;
                path = EntryPath {
                    direction: Direction::Original,
                    is_encapsulating: parsed.outer_len == 0
                        && tables.is_encapsulating(&context.entry),
                    is_left: false,
                };
                open_connection(tables, &parsed.flow, context, path.is_encapsulating)?;
            }
        }
    }
    let mut plan = send(hook, tables, parsed, context, path)?;
    if plan.outcome.reason.fate() == Fate::Forward {
        let entry = &context.entry;
        let len = packet.len_by(L3 + parsed.outer_len + u32::from(parsed.total_len));
        tables.count(entry.service, entry.backend, len, !is_known);
        plan.outcome.opens = !is_known;
        if parsed.id.at != 0 && !plan.is_encapsulated {
            plan.id = identify(tables, parsed, context)?;
        }
    }
    Ok(plan)
}

/// Decides about what no Service forwards. Echo requests to a frontend's address are answered, if a
/// backend could be. Nothing for an address of Services alone is left to the kernel, which would send
/// it on, to a router that sends it back; but ICMP is, for neighbour discovery.
#[inline(always)]
fn refuse_others<T: Tables>(
    hook: Hook,
    tables: &T,
    parsed: &Parsed,
    context: &mut Context,
) -> Result<Plan, Reason> {
    let flow = &parsed.flow;
    let is_echo = parsed.transport == Transport::Echo;
    let is_icmp = matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6);
    if hook == Hook::Egress || is_icmp && !is_echo {
        return Err(Reason::OtherProtocol);
    }
    if parsed.outer_len != 0 {
        return Err(Reason::EncapsulatedUnknown);
    }
    let address = tables.address(&flow.destination);
    let is_used = address.is_some();
    let address = address.unwrap_or_default();
    let is_refused = match is_used {
        true => address.is_service(),
        false => tables.is_in_service_range(&flow.destination),
    };
    let is_answered = is_echo && address.answers_echo();
    if !is_refused && !is_answered {
        return Err(Reason::OtherProtocol);
    }
    context.flow = *flow;
    if !flow.source.is_host() || tables.is_of_services(&flow.source) {
        return Err(Reason::Spoofed);
    }
    if is_answered {
        return Ok(answer(
            RejectionKind::Echo,
            flow.destination,
            0,
            Reason::EchoAnswered,
        ));
    }
    let reason = match (is_used, is_echo) {
        (false, _) => Reason::NoService,
        (true, true) => Reason::NoBackend,
        (true, false) => Reason::NoPort,
    };
    Ok(answer(
        RejectionKind::PortUnreachable,
        flow.destination,
        0,
        reason,
    ))
}

#[inline(always)]
fn apply<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &mut Parsed,
    entry: &CtEntry,
    plan: &Plan,
) -> Result<(), Reason> {
    let has_id = parsed.id.at != 0 && !plan.is_encapsulated;
    if parsed.outer_len != 0 {
        packet.shrink(parsed.outer_len)?;
        parsed.l4 -= parsed.outer_len;
        parsed.quoted_l4 = parsed.quoted_l4.wrapping_sub(parsed.outer_len);
        parsed.id.at = parsed.id.at.wrapping_sub(parsed.outer_len);
        parsed.outer_len = 0;
    }
    if plan.outcome.verdict == Verdict::Answer {
        return reject(packet, parsed, &plan.rejection, tables.has_dsr());
    }
    if tables.has_dsr() && plan.outcome.reason == Reason::ToClient {
        clamp_mss(packet, parsed, entry)?;
    }
    match parsed.transport {
        _ if plan.is_encapsulated => {
            let config = tables.config();
            encapsulate(packet, config, parsed, entry, plan.outer_source, plan.hops)?;
        }
        Transport::Tcp | Transport::Udp => rewrite(packet, parsed, entry, plan.hops)?,
        Transport::IcmpError => {
            rewrite_error(packet, parsed, entry, plan.hops, tables.config().seed)?
        }
        Transport::LaterFragment | Transport::Echo | Transport::Other => rewrite_network(
            packet,
            parsed.family,
            L3,
            entry.source,
            entry.destination,
            plan.hops,
        )?,
    }
    if has_id {
        rewrite_id(packet, parsed, plan.id)?;
    }
    if plan.outcome.verdict == Verdict::Redirect {
        packet.set_link(&plan.next_hop.destination, &plan.next_hop.source)?;
    }
    Ok(())
}

/// Leaves replies to TC egress, and all other packets to ingress.
///
/// The kernel then routes a reply as it routed the request, and its connection tracking and
/// firewalls see both directions. Exception: where the source was translated, the request bypassed
/// the kernel, and the reply is addressed to this node until it is translated here.
#[inline(always)]
fn leave_to_egress<T: Tables>(
    hook: Hook,
    tables: &T,
    parsed: &Parsed,
    entry: &CtEntry,
    path: EntryPath,
) -> Result<(), Reason> {
    let is_reply = path.direction == Direction::Reply;
    if hook == Hook::Egress {
        return match is_reply {
            true => Ok(()),
            false => Err(Reason::NotOurs),
        };
    }
    let destination = &parsed.flow.destination;
    // Where rules test the source, the kernel would route a reply by the pod's address.
    let is_routed_here = hook == Hook::Pod && tables.config().routes_replies != 0;
    if is_reply
        && !is_routed_here
        && entry.destination == *destination
        && entry.destination_port == parsed.flow.destination_port
        && *destination != tables.config().node_address(parsed.family)
    {
        return Err(Reason::AtEgress);
    }
    Ok(())
}

/// Leaves packets to TC that TC would assign to a direct connection (see [`direct`]) once XDP has
/// translated them: those of a connection that has a direct one beside it, and a SYN of a client
/// that has lost its connection.
#[inline(always)]
fn leave_to_tc<P: Packet>(parsed: &Parsed, entry: &CtEntry, path: EntryPath) -> Result<(), Reason> {
    let has_forgotten = parsed.flags.is_opening() && !is_opening(entry) && !path.is_encapsulating;
    match P::IS_BEFORE_TC && (has_forgotten || entry.flags.contains(CtFlags::DOUBLED)) {
        true => Err(Reason::ForTc),
        false => Ok(()),
    }
}

/// Whether a packet to a frontend, of no known connection, may belong to one of the rules that are taken over
/// from, or given back to. New connections are ours while we take over.
#[inline(always)]
fn is_of_other_rules<T: Tables>(tables: &T, parsed: &Parsed) -> bool {
    match tables.takeover() {
        Takeover::DONE => false,
        Takeover::BEGUN => parsed.flow.protocol == Protocol::TCP && !parsed.flags.is_opening(),
        Takeover::GIVEN_BACK => true,
        _ => false,
    }
}

/// Whether a packet of no known connection may be the reply of a backend to one that former programs have opened, and
/// that is not copied yet.
#[inline(always)]
fn may_be_copied<T: Tables>(tables: &T, parsed: &Parsed) -> bool {
    let flow = &parsed.flow;
    let sender = BackendKey {
        address: flow.source,
        port: flow.source_port,
        protocol: flow.protocol,
        zero: 0,
    };
    is_continued(parsed) && tables.is_paused(&sender)
}

/// Whether a segment belongs to a connection that is open. For datagrams a drop would be no better than a packet that is
/// not translated.
#[inline(always)]
fn is_continued(parsed: &Parsed) -> bool {
    parsed.flow.protocol == Protocol::TCP && !parsed.flags.is_opening()
}

#[inline(always)]
fn is_opening(entry: &CtEntry) -> bool {
    matches!(entry.state, CtState::NEW | CtState::ANSWERED)
}

/// Leaves packets whose checksum a device completes to TC: XDP cannot keep that mark.
#[inline(always)]
fn leave_partial_checksum<P: Packet>(packet: &P, parsed: &Parsed) -> Result<(), Reason> {
    if P::IS_BEFORE_TC && parsed.has_partial_checksum(packet)? {
        return Err(Reason::PartialChecksum);
    }
    Ok(())
}

/// Writes the translation of a new connection to `context.entry`; [`open_connection`] may still
/// change its source port.
#[inline(always)]
fn plan_connection<T: Tables>(
    hook: Hook,
    tables: &mut T,
    parsed: &Parsed,
    context: &mut Context,
) -> Result<(), Reason> {
    let is_copying = tables.takeover().is_copying(tables.now_s());
    if is_copying && may_be_copied(tables, parsed) {
        return Err(Reason::Paused);
    }
    if hook == Hook::Egress {
        // The reply of a connection that is not copied yet is no flow of the node.
        if !is_copying {
            note_own_flow(tables, parsed, context);
        }
        return Err(Reason::NotOurs);
    }
    if parsed.transport == Transport::IcmpError {
        return Err(Reason::NotOurs);
    }
    let flow = &parsed.flow;
    // The sender would reach listeners on the node's loopback (CVE-2020-8558).
    if flow.source.is_loopback() || flow.destination.is_loopback() {
        return Err(Reason::Spoofed);
    }
    let Some(address) = tables.address(&flow.destination) else {
        if tables.is_in_service_range(&flow.destination) {
            return match flow.source.is_host() {
                true => Err(Reason::NoService),
                false => Err(Reason::Spoofed),
            };
        }
        return direct(tables, parsed, context);
    };
    if is_of_other_rules(tables, parsed) {
        return Err(Reason::KernelConnection);
    }
    // Not the address of a host: no reply is possible. The kernel drops these as martians.
    if !flow.source.is_host() {
        return Err(Reason::Spoofed);
    }
    let key = FrontendKey::new(flow.destination, flow.destination_port, flow.protocol);
    let Some(frontend) = tables.frontend(&key) else {
        return match address.is_service() {
            true => Err(Reason::NoPort),
            false => direct(tables, parsed, context),
        };
    };
    if frontend.is_left_to_node(address) {
        return Err(Reason::NotOurs);
    }
    // It may be of a connection that is not copied yet. VERIFIER: asked again, because a value from above would make two
    // states of each.
    if is_continued(parsed) && tables.takeover().is_copying(tables.now_s()) {
        return Err(Reason::Paused);
    }
    if parsed.transport == Transport::LaterFragment {
        return Err(Reason::FragmentUnknown);
    }
    // Neither an answer nor a reset opens a connection.
    if parsed.flags.any(TcpFlags::RST) || parsed.flags.is_answer() {
        return Err(match address.is_service() {
            true => Reason::NoPort,
            false => Reason::NotOurs,
        });
    }
    if tables.is_of_services(&flow.source) {
        return Err(Reason::Spoofed);
    }
    balance(hook, tables, parsed, &frontend, context)
}

/// Plans a direct connection, one that uses no Service. It is left to the kernel, unless its
/// replies would match those of a connection to the same backend through a Service: same client,
/// same source port. Then it is tracked too, with a source port of its own, as `nf_conntrack` does.
///
/// While the connection through the Service opens, a packet that looks direct is its own: XDP has
/// translated it, and TC sees it now. A direct connection that opens in these milliseconds gets no
/// answer until its client tries again, a second later.
#[inline(always)]
fn direct<T: Tables>(tables: &mut T, parsed: &Parsed, context: &mut Context) -> Result<(), Reason> {
    let flow = &parsed.flow;
    if !parsed.flags.is_opening() {
        return Err(Reason::NotOurs);
    }
    let answers = flow.reversed();
    context.entry = tables.connection(&answers).ok_or(Reason::NotOurs)?;
    if is_opening(&context.entry) || Direction::of(&context.entry) == Direction::Original {
        return Err(Reason::NotOurs);
    }
    mirror(
        &answers,
        &context.entry,
        &mut context.other_flow,
        &mut context.other,
    );
    context.other.flags = context.other.flags.union(CtFlags::DOUBLED);
    // The client may have another backend by now.
    let forth = tables.connection(&context.other_flow);
    if forth.is_some_and(|forth| is_same_translation(&forth, &context.other)) {
        tables.put_connection(&context.other_flow, &context.other)?;
    }
    let itself = BackendEntry {
        address: flow.destination,
        port: flow.destination_port,
        ..BackendEntry::default()
    };
    context.entry = plan_dnat(flow, 0, 0, &itself, tables.now_s());
    Ok(())
}

#[inline(always)]
fn balance<T: Tables>(
    hook: Hook,
    tables: &mut T,
    parsed: &Parsed,
    frontend: &FrontendEntry,
    context: &mut Context,
) -> Result<(), Reason> {
    let (service_id, drop_flag) = match hook {
        Hook::External | Hook::Egress => (frontend.outside, FrontendFlags::DROP_OUTSIDE),
        Hook::Pod => (frontend.inside, FrontendFlags::DROP_INSIDE),
    };
    let empty = if frontend.flags.contains(drop_flag) {
        Reason::NoLocalBackend
    } else {
        Reason::NoBackend
    };
    let flow = &parsed.flow;
    if frontend.flags.contains(FrontendFlags::SOURCE_RANGES)
        && !tables.admits(frontend.outside, &flow.source)
    {
        return Err(Reason::SourceRange);
    }
    let service = tables.service(service_id).ok_or(empty)?;
    let hash = flow_hash(flow, tables.config().seed);
    let (backend_id, backend) =
        choose(tables, service_id, &service, &flow.source, hash).ok_or(empty)?;
    // VERIFIER: here and not in `select`, where a second way out of it doubles what is walked after it
    // (LLVM 22.1, Linux 6.18).
    if backend.is_empty() {
        return Err(Reason::StaleBackend);
    }
    if is_dsr_port(tables, backend.port, flow.protocol) {
        return Err(Reason::NoBackend);
    }
    context.entry = plan_dnat(flow, service_id, backend_id, &backend, tables.now_s());
    plan_snat(hook, tables, parsed, &backend, context)
}

/// Chooses the route.
///
/// The kernel routes packets to backends, except those whose source is now an address of this node:
/// it drops these on arrival as martians, so they are routed here.
#[inline(always)]
fn send<T: Tables>(
    hook: Hook,
    tables: &T,
    parsed: &Parsed,
    context: &mut Context,
    path: EntryPath,
) -> Result<Plan, Reason> {
    let entry = &context.entry;
    let node = tables.config().node_address(parsed.family);
    let is_encapsulated = path.is_encapsulating;
    let reason = match (parsed.transport, path.direction) {
        (Transport::IcmpError, _) => Reason::IcmpError,
        _ if is_encapsulated => Reason::Encapsulated,
        (_, Direction::Original) => Reason::ToBackend,
        (_, Direction::Reply) => Reason::ToClient,
    };
    let is_from_node = entry.source != parsed.flow.source
        || parsed.outer_len != 0 && entry.source == node
        || is_encapsulated;
    let is_routed_here = hook != Hook::Egress && is_from_node;
    let route = if is_routed_here {
        tables.route(&route_query(tables, parsed, entry, is_encapsulated))
    } else {
        Route::STACK
    };
    let is_sent_here = matches!(route.result, RouteResult::NextHop | RouteResult::Neighbour);
    let is_hop_limit_reached = is_sent_here && parsed.hop_limit <= 1;
    if is_hop_limit_reached
        || matches!(route.result, RouteResult::Unreachable | RouteResult::TooBig)
    {
        context.flow = parsed.flow;
    }
    if is_hop_limit_reached {
        return Ok(answer(RejectionKind::HopLimit, node, 0, Reason::HopLimit));
    }
    let verdict = match route.result {
        RouteResult::NotHere => return Err(Reason::NoNeighbour),
        RouteResult::Unreachable => return Err(Reason::NoRoute),
        RouteResult::TooBig => {
            let mtu = match is_encapsulated {
                true => route.mtu.wrapping_sub(outer_len(parsed.family) as u16),
                false => route.mtu,
            };
            return Ok(answer(RejectionKind::TooBig, node, mtu, Reason::TooBig));
        }
        RouteResult::Stack => Verdict::Pass,
        RouteResult::NextHop => Verdict::Redirect,
        RouteResult::Neighbour => Verdict::RedirectNeighbour,
    };
    Ok(Plan {
        outcome: Outcome {
            verdict,
            ifindex: route.next_hop.ifindex,
            reason,
            opens: false,
        },
        rejection: Rejection::default(),
        hops: u8::from(is_sent_here),
        is_encapsulated,
        outer_source: match is_encapsulated {
            true => source_address(tables, parsed.family, &route),
            false => Addr::default(),
        },
        id: 0,
        next_hop: route.next_hop,
    })
}

#[inline(always)]
fn route_query<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    entry: &CtEntry,
    is_encapsulated: bool,
) -> RouteQuery {
    if is_encapsulated {
        let config = tables.config();
        let outer_len = outer_len(parsed.family) as u16;
        return RouteQuery {
            family: parsed.family,
            source: config.node_address(parsed.family),
            destination: entry.destination,
            source_port: source_port(parsed, config),
            destination_port: config.dsr_port,
            protocol: Protocol::UDP,
            tos: parsed.tos,
            total_len: parsed.total_len.saturating_add(outer_len),
            outer_len,
            inner_protocol: parsed.flow.protocol,
        };
    }
    query(parsed, entry)
}

#[inline(always)]
fn answer(kind: RejectionKind, source: Addr, mtu: u16, reason: Reason) -> Plan {
    Plan {
        outcome: Outcome {
            verdict: Verdict::Answer,
            ifindex: 0,
            reason,
            opens: false,
        },
        rejection: Rejection { kind, source, mtu },
        hops: 0,
        is_encapsulated: false,
        outer_source: Addr::default(),
        id: 0,
        next_hop: NextHop::default(),
    }
}
