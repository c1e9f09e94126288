//! Connection tracking: states and timeouts.
//!
//! A connection has two entries, one for each direction. Each is keyed by the flow on the wire
//! *before* translation and holds the flow after it. One can be computed from the other
//! ([`mirror`]), so the next packet of one direction restores a lost entry of the other.
//!
//! States follow `nf_conntrack`, merged where the timeout is the same. We see what both ends send
//! but not what they receive, so, as in `nf_conntrack`, a lost packet can leave us one step ahead
//! of an end. That only shortens the timeout, and any later packet renews it: a FIN or RST that
//! never arrived costs nothing while data still flows.

use headgate_abi::{CtEntry, CtFlags, CtState, FlowKey, Protocol};

use crate::{
    parse::{TcpFlags, Transport},
    tables::Tables,
};

/// Direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Original,
    /// From the backend.
    Reply,
}

impl Direction {
    /// Returns the direction of the packets that an entry is for.
    #[inline(always)]
    pub const fn of(entry: &CtEntry) -> Self {
        if entry.flags.contains(CtFlags::REPLY) {
            Self::Reply
        } else {
            Self::Original
        }
    }
}

/// Writes the flow and entry of the other direction to `other_flow` and `other`. Not returned,
/// because both would take 92 of the kernel's 512 bytes of stack.
#[inline(always)]
pub fn mirror(flow: &FlowKey, entry: &CtEntry, other_flow: &mut FlowKey, other: &mut CtEntry) {
    *other_flow = FlowKey {
        source: entry.destination,
        destination: entry.source,
        source_port: entry.destination_port,
        destination_port: entry.source_port,
        protocol: flow.protocol,
        zero: [0; 3],
    };
    *other = CtEntry {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        flags: entry.flags.symmetric_difference(CtFlags::REPLY),
        ..*entry
    };
}

/// Returns the state after a packet. Every state, direction and set of flags has a successor; RST
/// leads to [`CtState::CLOSED`] from every state.
#[inline(always)]
pub fn next_state(
    state: CtState,
    direction: Direction,
    transport: Transport,
    flags: TcpFlags,
) -> CtState {
    match transport {
        Transport::Tcp => {}
        Transport::Udp if direction == Direction::Reply => return CtState::ESTABLISHED,
        // An ICMP error does not change the state of the connection.
        Transport::Udp
        | Transport::IcmpError
        | Transport::LaterFragment
        | Transport::Echo
        | Transport::Other => return state,
    }
    if flags.any(TcpFlags::RST) {
        return CtState::CLOSED;
    }
    match (state, direction) {
        (CtState::CLOSED, _) => CtState::CLOSED,
        (CtState::CLIENT_CLOSED, Direction::Reply)
        | (CtState::BACKEND_CLOSED, Direction::Original)
            if flags.any(TcpFlags::FIN) =>
        {
            CtState::CLOSED
        }
        (CtState::CLIENT_CLOSED | CtState::BACKEND_CLOSED, _) => state,
        (_, Direction::Original) if flags.any(TcpFlags::FIN) => CtState::CLIENT_CLOSED,
        (_, Direction::Reply) if flags.any(TcpFlags::FIN) => CtState::BACKEND_CLOSED,
        (CtState::NEW, Direction::Reply) => CtState::ANSWERED,
        (CtState::ANSWERED, Direction::Original) if !flags.any(TcpFlags::SYN) => {
            CtState::ESTABLISHED
        }
        _ => state,
    }
}

/// Returns the state after a packet of a connection of which this node sees only the client's
/// packets (DSR). A client that sends a second packet has received a reply.
#[inline(always)]
pub(crate) fn next_state_one_way(state: CtState, transport: Transport, flags: TcpFlags) -> CtState {
    const CONTROLS: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0);
    match (state, transport) {
        (CtState::NEW, Transport::Tcp) if !flags.any(CONTROLS) => CtState::ESTABLISHED,
        (CtState::NEW, Transport::Udp) => CtState::ESTABLISHED,
        _ => next_state(state, Direction::Original, transport, flags),
    }
}

/// Returns the seconds that an entry lives without a packet: the defaults of `nf_conntrack`.
#[inline(always)]
pub fn timeout_s(protocol: Protocol, state: CtState) -> u32 {
    match (protocol, state) {
        (Protocol::TCP, CtState::NEW) => 120,
        (Protocol::TCP, CtState::ANSWERED) => 60,
        (Protocol::TCP, CtState::ESTABLISHED) => 5 * 24 * 3600,
        (Protocol::TCP, _) => 120,
        (_, CtState::NEW) => 30,
        _ => 120,
    }
}

/// Whether an entry has outlived its timeout.
#[inline(always)]
pub fn is_expired(entry: &CtEntry, protocol: Protocol, now_s: u32) -> bool {
    entry.age_s(now_s) > timeout_s(protocol, entry.state)
}

/// Whether a packet opens a new connection although its flow still has an entry: the client reuses
/// its port after the old connection ended.
#[inline(always)]
pub(crate) fn is_reopening<T: Tables>(tables: &T, entry: &CtEntry, flags: TcpFlags) -> bool {
    if !flags.is_opening() || Direction::of(entry) == Direction::Reply {
        return false;
    }
    let is_ending = matches!(
        entry.state,
        CtState::CLIENT_CLOSED | CtState::BACKEND_CLOSED | CtState::CLOSED
    );
    // The end that the backend of an encapsulated connection sends is not seen here.
    is_ending || tables.is_encapsulating(entry) && entry.state != CtState::NEW
}
