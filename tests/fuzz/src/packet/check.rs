//! Checks of every outcome, with a packet parser that shares no code with the datapath.

use std::ops::Range;

use headgate_abi::{Addr, CtFlags, CtState, Fate, FlowKey, Port, Protocol, Reason};
use headgate_datapath::{Hook, RouteResult, is_expired};
use headgate_packets::{Host, Outcome, describe, is_checksum_right};

use super::run::NEXT;

const LINK: usize = 14;

/// Protocol and offsets of a frame.
struct Layout {
    is_v6: bool,
    protocol: u8,
    /// Offset of the TCP, UDP or ICMP header.
    transport: usize,
    /// Bytes of the identification, if a receiver reads it (RFC 6864, 4; RFC 8200, 4.5).
    id: Range<usize>,
    is_fragment: bool,
    is_later_fragment: bool,
}

/// Panics if the outcome of a frame is wrong.
pub(crate) fn check(hook: Hook, before: &[u8], outcome: &Outcome, host: &Host) {
    let after = &outcome.frame;
    let context = format!(
        "{hook:?}: {} became {} by {:?} ({})",
        describe(before),
        describe(after),
        outcome.reason,
        outcome.action
    );
    if is_of_kernel(before, host) {
        // Packets of a connection that changes hands are paused.
        let fate = outcome.reason.fate();
        assert!(
            fate == Fate::Pass || outcome.reason == Reason::Paused,
            "{context}"
        );
    }
    match (outcome.reason.fate(), outcome.action) {
        (Fate::Pass, action) => {
            assert_eq!(action, "pass", "{context}");
            assert_eq!(before, after, "a passed frame was changed: {context}");
        }
        (Fate::Forward, "pass" | "redirect") => forwarded(before, outcome, host, &context),
        (Fate::Reject, "answer") => answered(before, after, &context),
        (Fate::Reject | Fate::Drop, "drop") => {}
        (fate, action) => panic!("{fate:?} is not {action}: {context}"),
    }
}

/// Whether a packet is of an open connection of the kernel, or an answer to what the node has opened.
fn is_of_kernel(frame: &[u8], host: &Host) -> bool {
    const OF_KERNEL: CtFlags = CtFlags::KERNEL.union(CtFlags::OWN);
    let Some(layout) = layout(frame) else {
        return false;
    };
    let has_ports = matches!(layout.protocol, 6 | 17) && !layout.is_fragment;
    if !has_ports || frame.len() < layout.transport + 20 {
        return false;
    }
    let flow = flow(frame, &layout);
    host.connections.get(&flow).is_some_and(|entry| {
        entry.flags.intersects(OF_KERNEL)
            && !entry.flags.contains(CtFlags::REMOVED)
            && entry.state != CtState::CLOSED
            && !is_expired(&host.state.config, entry, flow.protocol, host.now_s)
    })
}

fn forwarded(before: &[u8], outcome: &Outcome, host: &Host, context: &str) {
    let after = &outcome.frame;
    assert_eq!(before.len(), after.len(), "{context}");
    let layout = layout(before).unwrap_or_else(|| panic!("neither IPv4 nor IPv6: {context}"));
    let is_error = outcome.reason == Reason::IcmpError;
    assert_eq!(is_error, !matches!(layout.protocol, 6 | 17), "{context}");
    let is_redirected = outcome.action == "redirect";
    let quoted = is_error.then(|| {
        let at = layout.transport + 8;
        let parse = if layout.is_v6 { layout_v6 } else { layout_v4 };
        parse(before, at).unwrap_or_else(|| panic!("quotes nothing: {context}"))
    });
    for (at, (old, new)) in before.iter().zip(after).enumerate() {
        assert!(
            old == new || may_change(&layout, quoted.as_ref(), at, is_redirected),
            "byte {at} changed: {context}\n{before:02x?}\n{after:02x?}"
        );
    }
    if is_redirected && host.route.result == RouteResult::NextHop {
        assert_eq!(after[..6], NEXT.destination, "{context}");
        assert_eq!(after[6..12], NEXT.source, "{context}");
    }
    let hops = if layout.is_v6 { LINK + 7 } else { LINK + 8 };
    let hop = u8::from(is_redirected);
    assert_eq!(
        before[hops].checked_sub(hop),
        Some(after[hops]),
        "hop limit: {context}"
    );
    if !layout.is_fragment && is_checksum_right(before) {
        assert!(
            is_checksum_right(after),
            "checksum: {context}\n{before:02x?}\n{after:02x?}"
        );
    }
    if layout.is_later_fragment || is_error {
        return;
    }
    let (old, new) = (flow(before, &layout), flow(after, &layout));
    let is_backend = |address: Addr, port: Port| {
        let mut backends = host.state.backends.values();
        backends.any(|backend| (backend.address, backend.port) == (address, port))
    };
    let is_frontend = |address: Addr, port: Port| {
        let mut frontends = host.state.frontends.keys();
        frontends.any(|key| (key.address, key.port) == (address, port))
    };
    // A connection to no service whose source port collides with a translated one keeps its destination.
    let is_right = match outcome.reason {
        Reason::ToBackend => {
            is_backend(new.destination, new.destination_port)
                || (new.destination, new.destination_port)
                    == (old.destination, old.destination_port)
        }
        _ => {
            is_frontend(new.source, new.source_port)
                || (new.source, new.source_port) == (old.source, old.source_port)
        }
    };
    assert!(
        is_right,
        "to an unknown backend or from an unknown frontend: {context}"
    );
    let back = host.connections.get(&new.reversed());
    let back = back.unwrap_or_else(|| panic!("no entry for replies: {context}"));
    assert_eq!(
        (
            back.source,
            back.source_port,
            back.destination,
            back.destination_port
        ),
        (
            old.destination,
            old.destination_port,
            old.source,
            old.source_port
        ),
        "a reply would not reach the client: {context}"
    );
}

/// Whether translation may change a byte; `quoted` is the packet in an ICMP error.
fn may_change(layout: &Layout, quoted: Option<&Layout>, at: usize, is_redirected: bool) -> bool {
    let Layout {
        is_v6,
        protocol,
        transport,
        ..
    } = *layout;
    let network = |at: usize, l3: usize| match is_v6 {
        true => (l3 + 8..l3 + 40).contains(&at),
        false => (l3 + 10..l3 + 20).contains(&at),
    };
    let hops = if is_v6 { LINK + 7 } else { LINK + 8 };
    if is_redirected && (at < 12 || at == hops) || network(at, LINK) {
        return true;
    }
    if let Some(quoted) = quoted {
        return (transport + 2..transport + 4).contains(&at)
            || network(at, transport + 8)
            // That of IPv6 is not restored: no sender reads it.
            || !is_v6 && quoted.id.contains(&at)
            || (quoted.transport..quoted.transport + 4).contains(&at);
    }
    let checksum = transport + if protocol == 6 { 16 } else { 6 };
    layout.id.contains(&at)
        || !layout.is_later_fragment
            && ((transport..transport + 4).contains(&at) || (checksum..checksum + 2).contains(&at))
}

/// A rejection is a complete packet with correct checksums, addressed to the sender. A reset or error gets
/// none.
fn answered(before: &[u8], after: &[u8], context: &str) {
    let asked = layout(before).unwrap_or_else(|| panic!("neither IPv4 nor IPv6: {context}"));
    let answer =
        layout(after).unwrap_or_else(|| panic!("the answer is neither IPv4 nor IPv6: {context}"));
    assert!(!asked.is_fragment, "an answer to a fragment: {context}");
    // Echo requests to a Service's address are answered, too.
    const ECHO: [(u8, u8); 2] = [(1, 8), (58, 128)];
    let icmp = (asked.protocol, before[asked.transport]);
    assert!(
        !matches!(asked.protocol, 1 | 58) || ECHO.contains(&icmp),
        "an error about an error: {context}"
    );
    assert!(
        is_checksum_right(after),
        "checksum: {context}\n{after:02x?}"
    );
    assert_eq!(
        (&before[..6], &before[6..12]),
        (&after[6..12], &after[..6]),
        "{context}"
    );
    let (from, size) = if asked.is_v6 {
        (LINK + 8, 16)
    } else {
        (LINK + 12, 4)
    };
    let client = &before[from..from + size];
    assert_eq!(
        client,
        &after[from + size..from + 2 * size],
        "the answer is not addressed to the sender: {context}"
    );
    const FLAGS: usize = 13;
    const RST: u8 = 4;
    if answer.protocol == 6 {
        assert_eq!(asked.protocol, 6, "{context}");
        assert_ne!(after[answer.transport + FLAGS] & RST, 0, "{context}");
        assert_eq!(
            before[asked.transport + FLAGS] & RST,
            0,
            "a reset for a reset: {context}"
        );
        return;
    }
    let quoted = answer.transport + 8;
    let header = if asked.is_v6 { 40 } else { 20 };
    let mut network = before[LINK..LINK + header].to_vec();
    if asked.is_v6 {
        // Extension headers are not quoted.
        network[6] = asked.protocol;
    }
    assert_eq!(network, after[quoted..quoted + header], "quoted: {context}");
    let transport = &before[asked.transport..asked.transport + 8];
    assert_eq!(
        transport,
        &after[quoted + header..quoted + header + 8],
        "quoted: {context}"
    );
}

/// Parses a frame; `None` if it is neither IPv4 nor IPv6.
fn layout(frame: &[u8]) -> Option<Layout> {
    match (frame.get(12)?, frame.get(13)?) {
        (0x08, 0x00) => layout_v4(frame, LINK),
        (0x86, 0xdd) => layout_v6(frame, LINK),
        _ => None,
    }
}

fn half(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// Parses the header at `l3` (RFC 791, 3.1).
fn layout_v4(frame: &[u8], l3: usize) -> Option<Layout> {
    const DONT_FRAGMENT: u16 = 0x4000;
    let field = half(frame, l3 + 6)?;
    let id = l3 + 4;
    Some(Layout {
        is_v6: false,
        protocol: *frame.get(l3 + 9)?,
        transport: l3 + usize::from(*frame.get(l3)? & 15) * 4,
        id: id..id + if field & DONT_FRAGMENT == 0 { 2 } else { 0 },
        is_fragment: field & 0x3fff != 0,
        is_later_fragment: field & 0x1fff != 0,
    })
}

/// Parses the header at `l3`, and the extension headers after it: options, routing, and that of a fragment
/// (RFC 8200, 3 and 4).
fn layout_v6(frame: &[u8], l3: usize) -> Option<Layout> {
    let mut layout = Layout {
        is_v6: true,
        protocol: *frame.get(l3 + 6)?,
        transport: l3 + 40,
        id: 0..0,
        is_fragment: false,
        is_later_fragment: false,
    };
    while matches!(layout.protocol, 0 | 43 | 44 | 60) && !layout.is_later_fragment {
        let at = layout.transport;
        let is_fragment_header = layout.protocol == 44;
        layout.protocol = *frame.get(at)?;
        layout.transport += match is_fragment_header {
            true => 8,
            false => 8 * (usize::from(*frame.get(at + 1)?) + 1),
        };
        if is_fragment_header {
            let field = half(frame, at + 2)?;
            layout.is_fragment = field & 0xfff9 != 0;
            layout.is_later_fragment = field & 0xfff8 != 0;
            if layout.is_fragment {
                layout.id = at + 4..at + 8;
            }
        }
    }
    Some(layout)
}

fn flow(frame: &[u8], layout: &Layout) -> FlowKey {
    let word = |at: usize| u32::from_ne_bytes(frame[at..at + 4].try_into().expect("four bytes"));
    let v6 = |at: usize| Addr::from_words([word(at), word(at + 4), word(at + 8), word(at + 12)]);
    let (source, destination) = match layout.is_v6 {
        true => (v6(LINK + 8), v6(LINK + 24)),
        false => (
            Addr::from_v4_word(word(LINK + 12)),
            Addr::from_v4_word(word(LINK + 16)),
        ),
    };
    let port = |at: usize| Port::new(u16::from_be_bytes([frame[at], frame[at + 1]]));
    FlowKey {
        source,
        destination,
        source_port: port(layout.transport),
        destination_port: port(layout.transport + 2),
        protocol: Protocol(layout.protocol),
        zero: [0; 3],
    }
}
