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

use crate::{
    parse::{Parsed, Segment, TcpFlags, Transport},
    truth::Truth,
};

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
///
/// VERIFIER: the conditions are numbers (`truth.rs`). With branches, the verifier would walk what follows once for each
/// combination of them: a third of all that it walks at XDP, and half at TC egress.
#[inline(always)]
pub fn judge(own: &mut CtEntry, peer: &mut CtEntry, parsed: &Parsed, is_reply: bool) -> Standing {
    let (segment, flags) = (&parsed.segment, parsed.flags);
    let acknowledges = Truth::nonzero(segment.acknowledged);
    let is_reply = Truth::of(is_reply) & acknowledges;
    let answers_claim = is_reply
        & Truth::equal(segment.acknowledged, peer.claimed)
        & any(flags, TcpFlags::SYN.with(TcpFlags::RST));
    let in_flight = in_flight(segment.sequence, own.end, peer.acknowledged);
    if flags.any(TcpFlags::RST) {
        let refuses = is_reply
            & Truth::equal(own.state.0.into(), CtState::NEW.0.into())
            & Truth::equal(segment.acknowledged, peer.end);
        let is_next =
            Truth::nonzero(peer.acknowledged) & Truth::equal(segment.sequence, peer.acknowledged);
        if (refuses | answers_claim | is_next).holds() {
            return Standing::Resets;
        }
        return match (Truth::equal(segment.sequence, own.end) & in_flight).holds() {
            true => Standing::MayReset,
            false => Standing::Doubtful,
        };
    }
    let continues_data = near(segment.sequence, own.end);
    let continues_acknowledgment = acknowledges & near(segment.acknowledged, own.acknowledged);
    let fits_expected = near(segment.sequence, peer.acknowledged);
    let fits_sent = acknowledges & near(segment.acknowledged, peer.end);
    let is_confirming = acknowledges
        & Truth::nonzero(peer.claimed)
        & Truth::at_most(peer.claimed.wrapping_sub(segment.acknowledged), FLIGHT);
    let is_fin_out_of_place = any(flags, TcpFlags::FIN) & !in_flight;
    let fits = continues_data | continues_acknowledgment | fits_expected | fits_sent;
    let belongs = (answers_claim | fits | is_confirming) & !is_fin_out_of_place;
    if !belongs.holds() {
        own.claimed = segment.end;
        return Standing::Doubtful;
    }
    let is_resuming = answers_claim | !fits;
    own.end = is_resuming.choose(0, own.end);
    peer.acknowledged = is_resuming.choose(segment.sequence, peer.acknowledged);
    let is_confirmed = is_resuming | is_confirming;
    peer.end = is_confirmed.choose(segment.acknowledged, peer.end);
    peer.claimed = is_confirmed.choose(0, peer.claimed);
    let is_new = !Truth::nonzero(own.end);
    let takes_end = is_new | continues_data | fits_expected;
    // The end of a retransmission is below the highest end, which stays.
    let is_ahead = is_new | !Truth::at_most(own.end.wrapping_sub(segment.end), FLIGHT);
    own.end = (takes_end & is_ahead).choose(segment.end, own.end);
    own.claimed = takes_end.choose(own.claimed, segment.end);
    // What the other end sent up to this node, it has sent.
    let is_of_sent = Truth::at_most(peer.end.wrapping_sub(segment.acknowledged), FLIGHT);
    let is_acknowledging = !Truth::nonzero(own.acknowledged) | is_of_sent | fits_sent;
    let takes_acknowledgment = acknowledges & (is_acknowledging | continues_acknowledgment);
    own.acknowledged = takes_acknowledgment.choose(segment.acknowledged, own.acknowledged);
    match answers_claim.holds() {
        true => Standing::Reopens,
        false => Standing::Belongs,
    }
}

/// Whether one of these flags is set.
#[inline(always)]
fn any(flags: TcpFlags, of: TcpFlags) -> Truth {
    Truth::nonzero((flags.0 & of.0).into())
}

/// [`is_near`] without branches.
#[inline(always)]
fn near(one: u32, known: u32) -> Truth {
    let distance = one.wrapping_sub(known).wrapping_add(NEAR);
    Truth::nonzero(known) & Truth::at_most(distance, 2 * NEAR)
}

/// Whether the other end may still accept a segment of this number: it is not below what that end
/// acknowledged, nor above the end of what the sender sent. If that is not known, it is the number
/// that the other end expects.
#[inline(always)]
fn in_flight(sequence: u32, end: u32, acknowledged: u32) -> Truth {
    let flight = end.wrapping_sub(acknowledged);
    let is_known = Truth::nonzero(end) & Truth::at_most(flight, FLIGHT);
    let is_below = Truth::at_most(
        sequence.wrapping_sub(acknowledged),
        is_known.choose(flight, 0),
    );
    Truth::nonzero(acknowledged) & is_below
}

/// Whether an ICMP error quotes a segment that may be in flight (RFC 5927, 4.1). `sender` is the
/// entry of the quoted segment, `receiver` that of the other end. Without known numbers it is let
/// through, so that errors about connections that another node opened arrive.
#[inline(always)]
pub(crate) fn is_quote_in_flight(sender: &CtEntry, receiver: &CtEntry, parsed: &Parsed) -> bool {
    let (end, acknowledged) = (sender.end, receiver.acknowledged);
    let sequence = parsed.segment.sequence;
    let fits = !Truth::nonzero(end | acknowledged)
        | near(sequence, end)
        | near(sequence, acknowledged)
        | in_flight(sequence, end, acknowledged);
    fits.holds()
}

/// Whether both ends have acknowledged everything, after a segment of `own`'s sender.
#[inline(always)]
pub(crate) fn is_all_acknowledged(own: &CtEntry, peer: &CtEntry) -> bool {
    let is_all = Truth::nonzero(own.end)
        & Truth::equal(own.acknowledged, peer.end)
        & Truth::equal(peer.acknowledged, own.end);
    is_all.holds()
}
