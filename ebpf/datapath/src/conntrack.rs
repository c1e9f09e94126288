//! Connection tracking: states and timeouts.
//!
//! A connection has two entries, one for each direction. Each is keyed by the flow on the wire
//! *before* translation and holds the flow after it. One can be computed from the other
//! ([`mirror`]), so the next packet of one direction restores a lost entry of the other.
//!
//! States follow `nf_conntrack`, merged where the timeout is the same. Only a segment that belongs to
//! the connection by its numbers (`sequence.rs`) changes a state or a lifetime.
//!
//! A source port is available to another connection only in [`CtState::CLOSED`], or when the
//! lifetime is over: until then one end may still send.

use headgate_abi::{CtEntry, CtFlags, CtState, DatapathConfig, FlowKey, Protocol};

use crate::{
    parse::{TcpFlags, Transport},
    sequence::Standing,
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
        // Until the other end says more: it received what was sent.
        end: entry.acknowledged,
        acknowledged: entry.end,
        claimed: 0,
        ..*entry
    };
}

/// Returns what [`mirror`] writes: for userspace, whose stack is large.
pub fn mirrored(flow: &FlowKey, entry: &CtEntry) -> (FlowKey, CtEntry) {
    let (mut other_flow, mut other) = (FlowKey::default(), CtEntry::default());
    mirror(flow, entry, &mut other_flow, &mut other);
    (other_flow, other)
}

/// Returns the state after a packet that belongs to the connection and is no RST.
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
    match (state, direction) {
        (CtState::CLOSING | CtState::CLOSED, _) => state,
        (CtState::CLIENT_CLOSED, Direction::Reply)
        | (CtState::BACKEND_CLOSED, Direction::Original)
            if flags.any(TcpFlags::FIN) =>
        {
            CtState::CLOSING
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

/// Returns the state after a segment that was judged by its numbers.
#[inline(always)]
pub fn state_after(
    state: CtState,
    direction: Direction,
    standing: Standing,
    flags: TcpFlags,
) -> CtState {
    match standing {
        Standing::Belongs => next_state(state, direction, Transport::Tcp, flags),
        Standing::Reopens => CtState::ANSWERED,
        Standing::Resets => CtState::CLOSED,
        Standing::MayReset | Standing::Doubtful => state,
    }
}

/// Returns the state after a packet of a flow of which this node sees one direction (DSR, and flows
/// of the kernel). A sender of a second packet has received a reply.
#[inline(always)]
pub(crate) fn next_state_one_way(state: CtState, transport: Transport, flags: TcpFlags) -> CtState {
    const CONTROLS: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);
    match (state, transport) {
        (_, Transport::Tcp) if flags.any(TcpFlags::RST) => CtState::CLOSED,
        (CtState::NEW, Transport::Tcp) if !flags.any(CONTROLS) => CtState::ESTABLISHED,
        (CtState::NEW, Transport::Udp) => CtState::ESTABLISHED,
        _ => next_state(state, Direction::Original, transport, flags),
    }
}

/// Returns the seconds that an entry lives without a packet: those of the operator, and the defaults
/// of `nf_conntrack`.
#[inline(always)]
pub fn timeout_s(config: &DatapathConfig, protocol: Protocol, state: CtState) -> u32 {
    let timeouts = &config.timeouts;
    match (protocol, state) {
        (Protocol::TCP, CtState::NEW) => 120,
        (Protocol::TCP, CtState::ANSWERED) => 60,
        (Protocol::TCP, CtState::ESTABLISHED) => timeouts.tcp_established_s,
        (Protocol::TCP, CtState::CLIENT_CLOSED | CtState::BACKEND_CLOSED) => {
            timeouts.tcp_close_wait_s
        }
        (Protocol::TCP, _) => 120,
        (_, CtState::NEW) => timeouts.udp_s,
        _ => timeouts.udp_stream_s,
    }
}

/// Whether an entry has outlived its timeout.
#[inline(always)]
pub fn is_expired(
    config: &DatapathConfig,
    entry: &CtEntry,
    protocol: Protocol,
    now_s: u32,
) -> bool {
    entry.age_s(now_s) > timeout_s(config, protocol, entry.state)
}

/// Whether a packet opens a new connection although its flow still has an entry: the client reuses
/// its port after neither end can send any more, or after the service lost the backend.
///
/// In all other states a SYN may be spoofed, and goes to the same backend. A backend that still has
/// the connection answers with what it expects, whereupon a client that lost the connection resets
/// it, and tries again. A backend that lost it too opens a new one.
#[inline(always)]
pub(crate) fn is_reopening(entry: &CtEntry, flags: TcpFlags) -> bool {
    flags.is_opening()
        && Direction::of(entry) == Direction::Original
        && (entry.state == CtState::CLOSED || entry.flags.contains(CtFlags::REMOVED))
}
