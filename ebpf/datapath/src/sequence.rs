//! Sequence numbers: whether a TCP segment belongs to its connection, or may be spoofed.
//!
//! The entry of each direction keeps what the sender of that direction said last: the end of its
//! data, and what it acknowledged. A sender that is not on the path knows none of these numbers. So
//! a segment belongs to the connection if one of its two numbers continues what its sender sent
//! before, or what the other end said. Any other segment is forwarded, but changes nothing.
//!
//! Both numbers of a segment that belongs are taken over. So one number that jumps, because packets
//! before this node were lost, or because this node missed some, does not lose the connection. If
//! both jump, the segment is only noted as a claim, until an answer of the other end acknowledges it.
//!
//! FIN and RST must fit by their own sequence number. RST (RFC 5961, 3.2) must lie within what is in
//! flight: from what the other end acknowledged to the end of what the sender sent.

use headgate_abi::{CtEntry, CtState};

use crate::parse::{Parsed, Segment, TcpFlags, Transport};

/// Distance in bytes up to which a number continues a known one: a segment of the largest common
/// size, or as much that was lost before this node. A random number does once in 32,768 times.
const NEAR: u32 = 1 << 16;

/// Upper bound of the bytes in flight. Numbers further apart are not compared.
const FLIGHT: u32 = 1 << 24;

/// Whether a number is known and another continues it.
#[inline(always)]
const fn is_near(one: u32, known: u32) -> bool {
    known != 0 && one.wrapping_sub(known).wrapping_add(NEAR) <= 2 * NEAR
}

/// Whether one of a segment's numbers continues what its sender sent before.
#[inline(always)]
fn continues(entry: &CtEntry, segment: &Segment) -> bool {
    is_near(segment.sequence, entry.end)
        || segment.acknowledged != 0 && is_near(segment.acknowledged, entry.acknowledged)
}

/// Takes over both numbers of a segment that belongs to the connection. The end of a retransmission
/// is below the highest end, which stays.
#[inline(always)]
fn take_over(entry: &mut CtEntry, segment: &Segment) {
    let behind = entry.end.wrapping_sub(segment.end);
    if entry.end == 0 || behind > FLIGHT {
        entry.end = segment.end;
    }
    if segment.acknowledged != 0 {
        entry.acknowledged = segment.acknowledged;
    }
}

/// Whether the entry of a packet's flow is enough to follow it: data or an acknowledgment that
/// continues what its sender sent, on a connection that both ends keep open; or not TCP.
#[inline(always)]
pub(crate) fn is_plain(entry: &CtEntry, parsed: &Parsed) -> bool {
    const CONTROLS: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);
    match parsed.transport {
        Transport::Tcp => {
            !parsed.flags.any(CONTROLS)
                && entry.state.0 < CtState::CLOSING.0
                && continues(entry, &parsed.segment)
        }
        _ => true,
    }
}

/// Takes over the numbers of a plain segment (`is_plain`); returns whether the entry changed.
#[inline(always)]
pub fn follow(entry: &mut CtEntry, parsed: &Parsed) -> bool {
    if parsed.transport != Transport::Tcp || !is_plain(entry, parsed) {
        return false;
    }
    let before = (entry.end, entry.acknowledged);
    take_over(entry, &parsed.segment);
    before != (entry.end, entry.acknowledged)
}

/// What a segment is to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It belongs to the connection: both numbers are taken over.
    Belongs,
    /// It belongs, and opens the connection again: a SYN-ACK that answers a claimed SYN.
    Reopens,
    /// An RST that both ends believe.
    Resets,
    /// An RST of the client that the backend may answer instead (RFC 5961, 3.2).
    MayReset,
    /// It may be spoofed, and changes nothing.
    Doubtful,
}

/// Judges a segment by the entries of both directions, and takes over its numbers: `own` is the entry
/// of its sender, `peer` that of the other end.
#[inline(always)]
pub fn judge(own: &mut CtEntry, peer: &mut CtEntry, parsed: &Parsed, is_reply: bool) -> Standing {
    let (segment, flags) = (&parsed.segment, parsed.flags);
    let answers_claim = is_reply
        && segment.acknowledged != 0
        && segment.acknowledged == peer.claimed
        && flags.any(TcpFlags::SYN.with(TcpFlags::RST));
    if flags.any(TcpFlags::RST) {
        let refuses = own.state == CtState::NEW
            && is_reply
            && segment.acknowledged != 0
            && segment.acknowledged == peer.end;
        let is_exact = peer.acknowledged != 0 && segment.sequence == peer.acknowledged;
        return match is_in_flight(segment.sequence, own.end, peer.acknowledged, 0) {
            _ if refuses || answers_claim || is_exact => Standing::Resets,
            // The backend is closed, or it would not send this.
            true if is_reply => Standing::Resets,
            true => Standing::MayReset,
            false => Standing::Doubtful,
        };
    }
    let fits_peer = is_near(segment.sequence, peer.acknowledged)
        || segment.acknowledged != 0 && is_near(segment.acknowledged, peer.end);
    let is_confirming = segment.acknowledged != 0
        && peer.claimed != 0
        && peer.claimed.wrapping_sub(segment.acknowledged) <= FLIGHT;
    let is_fin_out_of_place = flags.any(TcpFlags::FIN)
        && !is_in_flight(segment.sequence, own.end, peer.acknowledged, NEAR);
    let belongs = answers_claim || continues(own, segment) || fits_peer || is_confirming;
    if !belongs || is_fin_out_of_place {
        own.claimed = segment.end;
        return Standing::Doubtful;
    }
    let is_resuming = answers_claim || !continues(own, segment) && !fits_peer;
    if is_resuming {
        own.end = 0;
        peer.end = segment.acknowledged;
        peer.acknowledged = segment.sequence;
        peer.claimed = 0;
    }
    take_over(own, segment);
    match answers_claim {
        true => Standing::Reopens,
        false => Standing::Belongs,
    }
}

/// Whether the other end may still accept a segment of this number: it is not below what that end
/// acknowledged, nor above the end of what the sender sent, each by at most `slack`.
#[inline(always)]
fn is_in_flight(sequence: u32, end: u32, acknowledged: u32, slack: u32) -> bool {
    let flight = end.wrapping_sub(acknowledged);
    if end == 0 || acknowledged == 0 || flight > FLIGHT {
        return slack != 0 && (is_near(sequence, end) || is_near(sequence, acknowledged));
    }
    sequence.wrapping_sub(acknowledged).wrapping_add(slack) <= flight + 2 * slack
}

/// Whether an ICMP error quotes a segment that may be in flight (RFC 5927, 4.1). `sender` is the
/// entry of the quoted segment, `receiver` that of the other end. Without known numbers it is let
/// through, so that errors about connections that another node opened arrive.
#[inline(always)]
pub(crate) fn is_quote_in_flight(sender: &CtEntry, receiver: &CtEntry, parsed: &Parsed) -> bool {
    let (end, acknowledged) = (sender.end, receiver.acknowledged);
    (end, acknowledged) == (0, 0) || is_in_flight(parsed.segment.sequence, end, acknowledged, NEAR)
}

/// Whether a FIN or RST fits where only its sender's direction is seen (DSR).
#[inline(always)]
pub(crate) fn fits_one_way(entry: &CtEntry, parsed: &Parsed) -> bool {
    is_near(parsed.segment.sequence, entry.end)
}

/// Whether both ends have acknowledged everything, after a segment of `own`'s sender.
#[inline(always)]
pub(crate) fn is_all_acknowledged(own: &CtEntry, peer: &CtEntry) -> bool {
    own.end != 0 && own.acknowledged == peer.end && peer.acknowledged == own.end
}
