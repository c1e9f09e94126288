//! Properties of the shared logic.

use std::collections::BTreeMap;

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, CtEntry, CtFlags, CtState, DatapathConfig, FlowKey,
    FrontendFlags, FrontendKey, Location, Port, Protocol,
};
use headgate_datapath::{
    Direction, Family, Hook, Packet, SlicePacket, Standing, Sum, TcpFlags, Transport, flow_hash,
    is_expired,
    maglev::{self, Member},
    mirror, next_state, parse, state_after, timeout_s,
};
use headgate_packets::{Builder, Host, State};
use proptest::{collection::vec, prelude::*};

/// The checksum as RFC 1071 defines it, one word after the other.
fn reference(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let word = u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        sum += u32::from(word);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Zero has two forms in one's complement.
fn is_equal(one: u16, other: u16) -> bool {
    one == other || (one == 0 && other == 0xffff) || (one == 0xffff && other == 0)
}

prop_compose! {
    fn flow()(words in any::<[u32; 8]>(), ports in any::<[u16; 2]>(), tcp in any::<bool>()) -> FlowKey {
        let [a, b, c, d, e, f, g, h] = words;
        FlowKey {
            source: Addr::from_words([a, b, c, d]),
            destination: Addr::from_words([e, f, g, h]),
            source_port: Port::from_word(ports[0]),
            destination_port: Port::from_word(ports[1]),
            protocol: if tcp { Protocol::TCP } else { Protocol::UDP },
            zero: [0; 3],
        }
    }
}

prop_compose! {
    fn entry()(flow in flow(), service in 1u32.., backend in 1u32.., reply in any::<bool>(), state in 0u8..7, numbers in any::<[u32; 2]>()) -> CtEntry {
        CtEntry {
            source: flow.source,
            destination: flow.destination,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            service,
            backend,
            seen_s: 1,
            end: numbers[0],
            acknowledged: numbers[1],
            claimed: 0,
            state: CtState(state),
            flags: if reply { CtFlags::REPLY } else { CtFlags::default() },
            zero: [0; 2],
        }
    }
}

proptest! {
    #[test]
    fn incremental_checksum_is_the_recomputed_one(
        mut bytes in vec(any::<u8>(), 20..200),
        word in any::<u32>(),
        position in 0usize..4,
    ) {
        bytes[18] = 1; // Not all zero, as no packet is.
        let before = reference(&bytes);
        let at = position * 4;
        let old = u32::from_ne_bytes(bytes[at..at + 4].try_into()?);
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        let change = Sum::default().without_word(old).word(word);
        let after = change.adjust(before);
        prop_assert!(is_equal(after, reference(&bytes)));
        let back = Sum::default().without_word(word).word(old);
        prop_assert!(is_equal(back.adjust(after), before));
    }

    #[test]
    fn parse_never_panics_and_changes_nothing(bytes in vec(any::<u8>(), 0..200)) {
        let mut memory = bytes.clone();
        let len = memory.len();
        let packet = SlicePacket::new(&mut memory, len);
        let _parsed = parse(&packet);
        prop_assert_eq!(packet.frame(), &bytes[..]);
    }

    #[test]
    fn parse_agrees_with_etherparse(payload in vec(any::<u8>(), 0..60), v6 in any::<bool>(), ports in any::<[u16; 2]>(), ttl in any::<u8>()) {
        let link = etherparse::PacketBuilder::ethernet2([1; 6], [2; 6]);
        let mut frame = Vec::new();
        if v6 {
            link.ipv6([1; 16], [2; 16], ttl).udp(ports[0], ports[1]).write(&mut frame, &payload)
        } else {
            link.ipv4([1; 4], [2; 4], ttl).udp(ports[0], ports[1]).write(&mut frame, &payload)
        }.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let len = frame.len();
        let parsed = parse(&SlicePacket::new(&mut frame, len)).map_err(|reason| TestCaseError::fail(reason.name()))?;
        prop_assert_eq!(parsed.family, if v6 { Family::V6 } else { Family::V4 });
        prop_assert_eq!(parsed.transport, Transport::Udp);
        prop_assert_eq!((parsed.flow.source_port.number(), parsed.flow.destination_port.number()), (ports[0], ports[1]));
        prop_assert_eq!(parsed.hop_limit, ttl);
        prop_assert_eq!(usize::from(parsed.total_len), len - 14);
    }

    #[test]
    fn access_outside_of_a_frame_changes_nothing(bytes in vec(any::<u8>(), 0..40), offset in 0u32..60) {
        let mut memory = bytes.clone();
        let len = memory.len();
        let mut packet = SlicePacket::new(&mut memory, len);
        let fits = offset as usize + 4 <= len;
        prop_assert_eq!(packet.load::<4>(offset).is_ok(), fits);
        prop_assert_eq!(packet.store(offset, &[1, 2, 3, 4]).is_ok(), fits);
        if !fits {
            prop_assert_eq!(packet.frame(), &bytes[..]);
        }
    }

    #[test]
    fn reverse_of_reverse_is_the_flow(flow in flow()) {
        prop_assert_eq!(flow.reversed().reversed(), flow);
        prop_assert_eq!(flow_hash(&flow, 7), flow_hash(&flow, 7));
    }

    #[test]
    fn mirror_of_mirror_is_the_entry(flow in flow(), entry in entry()) {
        let (mut other_flow, mut other) = Default::default();
        mirror(&flow, &entry, &mut other_flow, &mut other);
        let (mut back_flow, mut back) = Default::default();
        mirror(&other_flow, &other, &mut back_flow, &mut back);
        prop_assert_eq!((back_flow, back), (flow, entry));
        prop_assert_ne!(Direction::of(&entry), Direction::of(&other));
    }

    #[test]
    fn every_state_has_a_successor(state in 0u8..7, flags in any::<u8>(), reply in any::<bool>(), standing in 0usize..5) {
        let direction = if reply { Direction::Reply } else { Direction::Original };
        let standing = [
            Standing::Belongs,
            Standing::Reopens,
            Standing::Resets,
            Standing::MayReset,
            Standing::Doubtful,
        ][standing];
        let next = state_after(CtState(state), direction, standing, TcpFlags(flags));
        prop_assert!(next.0 <= CtState::CLOSED.0);
        prop_assert_ne!(next.name(), "unknown");
        match standing {
            Standing::Resets => prop_assert_eq!(next, CtState::CLOSED),
            Standing::Doubtful => prop_assert_eq!(next, CtState(state)),
            Standing::Belongs | Standing::Reopens | Standing::MayReset => {}
        }
        prop_assert!(timeout_s(&DatapathConfig::default(), Protocol::TCP, next) > 0);
    }

    #[test]
    fn table_is_full_and_even(count in 1u32..40) {
        let table = table(1..=count);
        let mut shares = BTreeMap::new();
        for id in &table {
            *shares.entry(*id).or_insert(0u32) += 1;
        }
        prop_assert_eq!(shares.len() as u32, count);
        let (least, most) = (shares.values().min(), shares.values().max());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
    }

    #[test]
    fn removing_one_backend_moves_few_others(count in 2u32..40, gone in 1u32..40) {
        let gone = (gone - 1) % count + 1;
        let before = table(1..=count);
        let after = table((1..=count).filter(|id| *id != gone));
        let moved = before.iter().zip(&after).filter(|(before, after)| **before != gone && before != after).count();
        // Beside the slots of the backend that went, the paper measures a few per cent.
        prop_assert!(moved * 5 <= before.len(), "{} of {} slots moved", moved, before.len());
    }
}

/// The ends of a connection to a Service of one backend: what each has sent.
struct Ends {
    frames: [Builder; 2],
    sent: [u32; 2],
}

impl Ends {
    const CLIENT: usize = 0;
    const BACKEND: usize = 1;

    fn new() -> Self {
        let client = "198.51.100.7:1000";
        Self {
            frames: [
                Builder::new(client, "10.96.0.10:80"),
                Builder::new("10.244.1.2:9376", client),
            ],
            sent: [0; 2],
        }
    }

    /// Sends a segment that belongs to the connection.
    fn send(&mut self, host: &mut Host, end: usize, flags: &str, len: usize) {
        let frame = self.frames[end].after(self.sent[end], self.sent[1 - end]);
        run(host, end, &frame.tcp(flags, &vec![7; len]));
        self.sent[end] += len as u32 + u32::from(flags.contains('F'));
    }
}

fn run(host: &mut Host, end: usize, frame: &[u8]) {
    let hook = [Hook::External, Hook::Egress][end];
    host.run_tc(hook, frame);
}

/// A host with the Service of [`Ends`].
fn host() -> Host {
    let address = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().expect("an address"));
    let mut state = State::default();
    let backend = BackendEntry {
        address: address("10.244.1.2"),
        port: Port::new(9376),
        protocol: Protocol::TCP,
        location: Location::THIS_NODE,
    };
    state.backends.insert(1, backend);
    state.add_service(1, &[1], 0);
    let key = FrontendKey::new(address("10.96.0.10"), Port::new(80), Protocol::TCP);
    state.add_frontend(key, 1, FrontendFlags::default(), AddressEntry::SERVICE);
    Host::new(state)
}

proptest! {
    /// One end's address is forged, by a sender that does not see the connection. Numbers within 1 MiB of what the
    /// ends have sent would fit by chance.
    #[test]
    fn s179_segments_that_may_be_spoofed_change_neither_state_nor_lifetime(
        handshake in 1usize..=3,
        talk in vec((0usize..2, 0usize..200, 0u8..8), 0..8),
        wait_s in 0u32..50,
        end in 0usize..2,
        spoofed in vec((any::<u32>(), any::<u32>(), 0usize..7), 1..20),
    ) {
        let (mut host, mut ends) = (host(), Ends::new());
        let opening = [(Ends::CLIENT, "S"), (Ends::BACKEND, "SA"), (Ends::CLIENT, "A")];
        for (end, flags) in &opening[..handshake] {
            ends.send(&mut host, *end, flags, 0);
        }
        let mut has_closed = [false; 2];
        for (end, len, kind) in talk.into_iter().filter(|_| handshake == 3) {
            let closes = kind == 0;
            if !has_closed[end] {
                ends.send(&mut host, end, if closes { "FA" } else { "A" }, if closes { 0 } else { len });
            }
            has_closed[end] |= closes;
        }
        host.now_s += wait_s;
        let known = |host: &Host| -> BTreeMap<String, (CtState, u32, u32, u32)> {
            let entries = host.connections.iter();
            entries
                .map(|(flow, entry)| (format!("{flow:?}"), (entry.state, entry.seen_s, entry.end, entry.acknowledged)))
                .collect()
        };
        let before = known(&host);
        prop_assert_eq!(before.len(), 2);
        let is_open = before.values().all(|(state, ..)| state.0 < CtState::CLOSING.0);
        for (sequence, acknowledgment, flags) in spoofed {
            const FAR: u32 = 1 << 20;
            let far = |number: u32| 1001u32.wrapping_add(FAR + number % (u32::MAX - 2 * FAR));
            let flags = ["A", "FA", "R", "RA", "SA", "F", "S"][flags];
            // A SYN opens an ended connection again.
            if flags == "S" && !is_open {
                continue;
            }
            let mut frame = ends.frames[end];
            frame.numbers = (far(sequence), far(acknowledgment));
            run(&mut host, end, &frame.tcp(flags, b""));
            prop_assert_eq!(&known(&host), &before, "{}", flags);
        }
    }
}

/// A table of backends that have their ids for addresses.
fn table(ids: impl Iterator<Item = u32>) -> Vec<u32> {
    const SIZE: u32 = 4093;
    let mut members: Vec<Member> = ids
        .map(|id| Member::new(id, Addr::from_v4_word(id), Port::new(80), 7, SIZE))
        .collect();
    let mut table = vec![0; SIZE as usize];
    maglev::fill(&mut table, &mut members);
    table
}

#[test]
fn example_of_rfc_1624() {
    // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285, HC' = 0x0000.
    let adjusted = Sum::default()
        .without_half(0x5555)
        .half(0x3285)
        .adjust(0xdd2f);
    assert_eq!(adjusted, 0x0000);
}

#[test]
fn connection_lives_as_in_nf_conntrack() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const FIN: u8 = 1;
    let config = DatapathConfig::default();
    let mut state = CtState::NEW;
    for (direction, flags, expected, timeout) in [
        (Direction::Original, SYN, CtState::NEW, 120),
        (Direction::Reply, SYN | ACK, CtState::ANSWERED, 60),
        (Direction::Original, ACK, CtState::ESTABLISHED, 86_400),
        (Direction::Reply, ACK, CtState::ESTABLISHED, 86_400),
        (Direction::Original, FIN | ACK, CtState::CLIENT_CLOSED, 3600),
        (Direction::Reply, ACK, CtState::CLIENT_CLOSED, 3600),
        (Direction::Reply, FIN | ACK, CtState::CLOSING, 120),
        (Direction::Original, ACK, CtState::CLOSING, 120),
    ] {
        state = next_state(state, direction, Transport::Tcp, TcpFlags(flags));
        assert_eq!(state, expected, "{direction:?} {flags:#b}");
        assert_eq!(timeout_s(&config, Protocol::TCP, state), timeout);
    }
    let entry = CtEntry {
        seen_s: 100,
        state: CtState::ESTABLISHED,
        ..CtEntry::default()
    };
    assert!(!is_expired(&config, &entry, Protocol::UDP, 220));
    assert!(is_expired(&config, &entry, Protocol::UDP, 221));
    assert!(
        !is_expired(&config, &entry, Protocol::UDP, 99),
        "a clock read earlier on another CPU"
    );
}
