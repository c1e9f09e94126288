//! Sequence numbers: whether a TCP segment belongs to its connection, or may be spoofed.
//!
//! The entry of each direction keeps what the sender of that direction said last: the end of its
//! data, and what it acknowledged. A sender that is not on the path knows none of these numbers. So
//! a segment belongs to the connection if one of its two numbers continues what its sender sent
//! before, or what the other end said. Any other segment is forwarded, but changes nothing.
//!
//! Of a segment that belongs, a number is taken over if it continues a known one. If the other one
//! jumps, because packets before this node were lost, or because this node missed some, it is only
//! noted as a claim, until an answer of the other end acknowledges it: so one known number does not
//! help to find the other.
//!
//! FIN must fit by its own sequence number. RST must be the very next byte that the other end
//! expects; if it follows what its sender sent, but not what the other end acknowledged, that end may
//! still refuse it (RFC 5961, 3.2).

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

/// Whether the sequence number of a segment continues what its sender sent before.
#[inline(always)]
pub(crate) fn continues_data(entry: &CtEntry, segment: &Segment) -> bool {
    is_near(segment.sequence, entry.end)
}

/// Whether the acknowledgment of a segment continues what its sender acknowledged before.
#[inline(always)]
fn continues_acknowledgment(entry: &CtEntry, segment: &Segment) -> bool {
    segment.acknowledged != 0 && is_near(segment.acknowledged, entry.acknowledged)
}

/// Takes over the end of a segment. That of a retransmission is below the highest end, which stays.
#[inline(always)]
fn take_end(entry: &mut CtEntry, segment: &Segment) {
    let behind = entry.end.wrapping_sub(segment.end);
    if entry.end == 0 || behind > FLIGHT {
        entry.end = segment.end;
    }
}

/// Whether the entry of a packet's flow is enough to follow it: data or an acknowledgment that
/// continues what its sender sent and acknowledged, on a connection that both ends keep open; or not TCP.
#[inline(always)]
pub(crate) fn is_plain(entry: &CtEntry, parsed: &Parsed) -> bool {
    const CONTROLS: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);
    match parsed.transport {
        Transport::Tcp => {
            !parsed.flags.any(CONTROLS)
                && entry.state.0 < CtState::CLOSING.0
                && continues_data(entry, &parsed.segment)
                && continues_acknowledgment(entry, &parsed.segment)
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
    take_end(entry, &parsed.segment);
    entry.acknowledged = parsed.segment.acknowledged;
    before != (entry.end, entry.acknowledged)
}

/// What a segment is to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It belongs to the connection: the numbers that continue known ones are taken over.
    Belongs,
    /// It belongs, and opens the connection again: a SYN-ACK that answers a claimed SYN.
    Reopens,
    /// An RST that both ends believe.
    Resets,
    /// An RST that the other end may answer instead (RFC 5961, 3.2).
    MayReset,
    /// It may be spoofed, and changes nothing.
    Doubtful,
}

/// Judges a segment by the entries of both directions, and takes over what fits of its numbers: `own` is the entry
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
        let is_next = peer.acknowledged != 0 && segment.sequence == peer.acknowledged;
        let is_in_flight = segment.sequence == own.end
            && is_in_flight(segment.sequence, own.end, peer.acknowledged);
        return match is_in_flight {
            _ if refuses || answers_claim || is_next => Standing::Resets,
            true => Standing::MayReset,
            false => Standing::Doubtful,
        };
    }
    let continues_data = continues_data(own, segment);
    let continues_acknowledgment = continues_acknowledgment(own, segment);
    let fits_expected = is_near(segment.sequence, peer.acknowledged);
    let fits_sent = segment.acknowledged != 0 && is_near(segment.acknowledged, peer.end);
    let is_confirming = segment.acknowledged != 0
        && peer.claimed != 0
        && peer.claimed.wrapping_sub(segment.acknowledged) <= FLIGHT;
    let is_fin_out_of_place =
        flags.any(TcpFlags::FIN) && !is_in_flight(segment.sequence, own.end, peer.acknowledged);
    let fits = continues_data || continues_acknowledgment || fits_expected || fits_sent;
    if !(answers_claim || fits || is_confirming) || is_fin_out_of_place {
        own.claimed = segment.end;
        return Standing::Doubtful;
    }
    let is_resuming = answers_claim || !fits;
    if is_resuming {
        own.end = 0;
        peer.acknowledged = segment.sequence;
    }
    if is_resuming || is_confirming {
        peer.end = segment.acknowledged;
        peer.claimed = 0;
    }
    if own.end == 0 || continues_data || fits_expected {
        take_end(own, segment);
    } else {
        own.claimed = segment.end;
    }
    // What the other end sent up to this node, it has sent.
    let is_of_sent = peer.end.wrapping_sub(segment.acknowledged) <= FLIGHT;
    let is_acknowledging = own.acknowledged == 0 || is_of_sent || fits_sent;
    if segment.acknowledged != 0 && (is_acknowledging || continues_acknowledgment) {
        own.acknowledged = segment.acknowledged;
    }
    match answers_claim {
        true => Standing::Reopens,
        false => Standing::Belongs,
    }
}

/// Whether the other end may still accept a segment of this number: it is not below what that end
/// acknowledged, nor above the end of what the sender sent. If that is not known, it is the number
/// that the other end expects.
#[inline(always)]
fn is_in_flight(sequence: u32, end: u32, acknowledged: u32) -> bool {
    let flight = match end.wrapping_sub(acknowledged) {
        flight if end != 0 && flight <= FLIGHT => flight,
        _ => 0,
    };
    acknowledged != 0 && sequence.wrapping_sub(acknowledged) <= flight
}

/// Whether an ICMP error quotes a segment that may be in flight (RFC 5927, 4.1). `sender` is the
/// entry of the quoted segment, `receiver` that of the other end. Without known numbers it is let
/// through, so that errors about connections that another node opened arrive.
#[inline(always)]
pub(crate) fn is_quote_in_flight(sender: &CtEntry, receiver: &CtEntry, parsed: &Parsed) -> bool {
    let (end, acknowledged) = (sender.end, receiver.acknowledged);
    let sequence = parsed.segment.sequence;
    (end, acknowledged) == (0, 0)
        || is_near(sequence, end)
        || is_near(sequence, acknowledged)
        || is_in_flight(sequence, end, acknowledged)
}

/// Whether both ends have acknowledged everything, after a segment of `own`'s sender.
#[inline(always)]
pub(crate) fn is_all_acknowledged(own: &CtEntry, peer: &CtEntry) -> bool {
    own.end != 0 && own.acknowledged == peer.end && peer.acknowledged == own.end
}
