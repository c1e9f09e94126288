//! Translation of a new connection: DNAT, SNAT and source ports.

use headgate_abi::{
    Addr, BackendEntry, CtEntry, CtFlags, CtState, DatapathConfig, FlowKey, Location, Port, Reason,
};

use crate::{
    conntrack::{is_expired, mirror, timeout_s},
    context::{Context, Hook},
    hash::{client_hash, flow_hash, mix},
    parse::Parsed,
    tables::{Added, Route, RouteQuery, RouteResult, Tables},
    wire::Family,
};

/// Number of source ports tried before a connection is refused.
const PORT_TRIES: u32 = 16;

/// Translates the source in `context.entry` where the backend's reply would otherwise not come back
/// through this node: for a backend on another node, and for a pod that reaches itself (hairpin),
/// also if its device is taken for an external one.
///
/// With DSR the node of a remote backend replies instead, and the entry is marked for
/// encapsulation. A backend outside of the cluster cannot, so it gets a translated source.
#[inline(always)]
pub(crate) fn plan_snat<T: Tables>(
    hook: Hook,
    tables: &T,
    parsed: &Parsed,
    backend: &BackendEntry,
    context: &mut Context,
) -> Result<(), Reason> {
    let is_hairpin = backend.address == context.entry.source;
    let is_remote = hook == Hook::External && backend.location != Location::THIS_NODE;
    if hook == Hook::Egress || !is_hairpin && !is_remote {
        return Ok(());
    }
    let config = tables.config();
    let family = parsed.family;
    if hook == Hook::External
        && tables.has_dsr()
        && config.forwards_by_dsr != 0
        && backend.location == Location::OTHER_NODE
    {
        context.entry.flags = CtFlags::ENCAPSULATES;
        return match config.node_address(family).is_unspecified() {
            true => Err(Reason::NoSnatAddress),
            false => Ok(()),
        };
    }
    let address = match is_remote {
        true => {
            // The kernel names no device for packets that are too large.
            let query = RouteQuery {
                total_len: 0,
                ..query(parsed, &context.entry)
            };
            source_address(tables, family, &tables.route(&query))
        }
        false => config.node_address(family),
    };
    translate_source(config, address, context)
}

/// Asks for the route of a packet after translation.
#[inline(always)]
pub(crate) fn query(parsed: &Parsed, entry: &CtEntry) -> RouteQuery {
    RouteQuery {
        family: parsed.family,
        source: entry.source,
        destination: entry.destination,
        source_port: entry.source_port,
        destination_port: entry.destination_port,
        protocol: parsed.flow.protocol,
        tos: parsed.tos,
        total_len: parsed.total_len,
        outer_len: 0,
        inner_protocol: parsed.flow.protocol,
    }
}

/// Returns the address that the node sends from by this route: that of the device, as masquerading
/// chooses it, because networks and strict reverse-path filters drop other ones. If the device has
/// none, that of the default route.
#[inline(always)]
pub(crate) fn source_address<T: Tables>(tables: &T, family: Family, route: &Route) -> Addr {
    let own = match route.result {
        RouteResult::Stack | RouteResult::Unreachable => Addr::default(),
        _ => tables
            .source(route.next_hop.ifindex)
            .unwrap_or_default()
            .address(family),
    };
    match own.is_unspecified() {
        true => tables.config().node_address(family),
        false => own,
    }
}

/// Replaces the source in `context.entry` by this address of the node and a port of the SNAT range.
#[inline(always)]
pub(crate) fn translate_source(
    config: &DatapathConfig,
    address: Addr,
    context: &mut Context,
) -> Result<(), Reason> {
    let entry = &mut context.entry;
    if address.is_unspecified() {
        return Err(Reason::NoSnatAddress);
    }
    let client = core::mem::replace(&mut entry.source, address);
    let port = entry.source_port.number();
    if port < config.snat_port_first.number() || port > config.snat_port_last.number() {
        entry.source_port = port_of_client(config, &client, port);
    }
    Ok(())
}

/// Adds both entries of a connection: `context.entry` for the client's packets, and its mirror for
/// the replies.
///
/// The reply entry must be unique: otherwise two clients, or one client through two services, look
/// the same to the backend. So it is added first, and while another connection uses it, the next
/// source port is tried.
#[inline(always)]
pub(crate) fn open_connection<T: Tables>(
    tables: &mut T,
    flow: &FlowKey,
    context: &mut Context,
    is_encapsulating: bool,
) -> Result<(), Reason> {
    if is_encapsulating {
        return tables.put_connection(flow, &context.entry);
    }
    let mut candidate = flow_hash(flow, tables.config().seed);
    mirror(
        flow,
        &context.entry,
        &mut context.other_flow,
        &mut context.other,
    );
    for _ in 0..PORT_TRIES {
        match tables.add_connection(&context.other_flow, &context.other) {
            Added::Yes => return tables.put_connection(flow, &context.entry),
            Added::Full => return Err(Reason::ConntrackFull),
            Added::Exists => {}
        }
        if is_replaceable(tables, context) {
            end_original(tables, flow, context);
            tables.put_connection(&context.other_flow, &context.other)?;
            return tables.put_connection(flow, &context.entry);
        }
        candidate = mix(candidate.wrapping_add(1));
        context.entry.source_port = port_in_range(tables.config(), candidate);
        context.other_flow.destination_port = context.entry.source_port;
    }
    Err(Reason::SnatPortsExhausted)
}

/// Returns the source port to try first for a client's port.
///
/// Consecutive client ports, which Linux hands out in steps of two (`ip_local_port_range`), get
/// distinct ports until the range is used up. With a hash some would collide early (birthday
/// paradox), and a server that remembers the older connection (TIME_WAIT) drops the newer one's
/// SYN, because its timestamps are from another clock (RFC 7323, 5.3): Linux clients use one for
/// each flow.
#[inline(always)]
fn port_of_client(config: &DatapathConfig, client: &Addr, port: u16) -> Port {
    let own = client_hash(client, 0, config.seed);
    port_in_range(config, own.wrapping_add(u32::from(port) << 17))
}

#[inline(always)]
fn port_in_range(config: &DatapathConfig, hash: u32) -> Port {
    let first = config.snat_port_first.number();
    let span = u32::from(config.snat_port_last.number().wrapping_sub(first)) + 1;
    let offset = (u64::from(hash) * u64::from(span)) >> 32;
    Port::new(first.wrapping_add(offset as u16))
}

/// Whether the present reply entry may be replaced: it belongs to this connection, whose original
/// entry was evicted, or its connection has ended.
#[inline(always)]
fn is_replaceable<T: Tables>(tables: &T, context: &Context) -> bool {
    let Some(present) = tables.connection(&context.other_flow) else {
        return true;
    };
    is_same_translation(&present, &context.other)
        || present.state == CtState::CLOSED
        || is_expired(
            tables.config(),
            &present,
            context.other_flow.protocol,
            tables.now_s(),
        )
}

/// Expires the original entry of the connection whose reply entry is about to be replaced.
/// Otherwise late packets of its client would reach the new connection at the backend, and change
/// its state here.
#[inline(always)]
fn end_original<T: Tables>(tables: &mut T, flow: &FlowKey, context: &mut Context) {
    let Some(present) = tables.connection(&context.other_flow) else {
        return;
    };
    context.other_flow.source = present.destination;
    context.other_flow.destination = present.source;
    context.other_flow.source_port = present.destination_port;
    context.other_flow.destination_port = present.source_port;
    end(tables, &context.other_flow, &context.entry);
    mirror(
        flow,
        &context.entry,
        &mut context.other_flow,
        &mut context.other,
    );
}

/// Expires the reply entry of `context.entry`, whose client reuses its port. Otherwise late packets
/// of the backend would be translated into the next connection, which may have another backend.
#[inline(always)]
pub(crate) fn end_reply<T: Tables>(tables: &mut T, flow: &FlowKey, context: &mut Context) {
    mirror(
        flow,
        &context.entry,
        &mut context.other_flow,
        &mut context.other,
    );
    end(tables, &context.other_flow, &context.other);
}

/// Expires a flow's entry, unless it belongs to another connection by now.
#[inline(always)]
fn end<T: Tables>(tables: &mut T, flow: &FlowKey, entry: &CtEntry) {
    let found = tables.connection(flow);
    if !found.is_some_and(|found| is_same_translation(&found, entry)) {
        return;
    }
    let age = timeout_s(tables.config(), flow.protocol, CtState::CLOSED) + 1;
    let long_ago = tables.now_s().wrapping_sub(age);
    tables.touch_connection(flow, CtState::CLOSED, long_ago);
}

/// Whether two entries translate to the same addresses and ports.
#[inline(always)]
pub(crate) fn is_same_translation(one: &CtEntry, other: &CtEntry) -> bool {
    one.source == other.source
        && one.source_port == other.source_port
        && one.destination == other.destination
        && one.destination_port == other.destination_port
}

/// Returns the entry for the client's packets that changes only the destination.
#[inline(always)]
pub(crate) fn plan_dnat(
    flow: &FlowKey,
    service: u32,
    backend_id: u32,
    backend: &BackendEntry,
    now_s: u32,
) -> CtEntry {
    CtEntry {
        source: flow.source,
        destination: backend.address,
        source_port: flow.source_port,
        destination_port: backend.port,
        service,
        backend: backend_id,
        seen_s: now_s,
        end: 0,
        acknowledged: 0,
        claimed: 0,
        state: CtState::NEW,
        flags: CtFlags::default(),
        zero: [0; 2],
    }
}
