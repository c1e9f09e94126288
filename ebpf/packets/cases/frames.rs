//! Fragments, extension headers, link addresses, echo requests and affinity, packet by packet.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, FrontendFlags, FrontendKey, LinkEntry, Location, Port,
    Protocol, Reason, ServiceRange,
};
use headgate_datapath::{
    Hook, SlicePacket,
    socket::{Decision, Destination, translate},
};
use headgate_packets::{Builder, Host, State, describe, is_checksum_right};

use super::services::{
    CLUSTER_IP, CLUSTER_IP_V6, Walks, address, fragments_v4, fragments_v6, state as services,
};

const CLIENT: &str = "198.51.100.7:1000";
const CLIENT_V6: &str = "[2001:db8::7]:1000";
/// The identification of an IPv4 frame.
const ID: std::ops::Range<usize> = 18..20;

/// Ports 83 of both addresses have a backend on another node.
fn state() -> State {
    let mut state = services();
    let mut far = state.backends[&14];
    (far.address, far.location) = (address("fd44:2::2"), Location::OTHER_NODE);
    state.backends.insert(15, far);
    state.add_service(6, &[13], 0);
    state.add_service(7, &[15], 0);
    for (text, service) in [(CLUSTER_IP, 6), (CLUSTER_IP_V6, 7)] {
        let key = FrontendKey::new(address(text), Port::new(83), Protocol::UDP);
        let entry = AddressEntry::SERVICE.with_echo(true);
        state.add_frontend(key, service, FrontendFlags::default(), entry);
    }
    state
}

/// Both fragments of a datagram of 256 bytes to port 83 of a Service.
fn parts(client: &str) -> [Vec<u8>; 2] {
    datagram(client, 83)
}

fn datagram(client: &str, port: u16) -> [Vec<u8>; 2] {
    let frame = Builder::new(client, &service(client, port)).udp(&[7; 256]);
    match client.starts_with('[') {
        true => fragments_v6(&frame, 128),
        false => fragments_v4(&frame, 128),
    }
}

fn service(client: &str, port: u16) -> String {
    match client.starts_with('[') {
        true => format!("[{CLUSTER_IP_V6}]:{port}"),
        false => format!("{CLUSTER_IP}:{port}"),
    }
}

fn id(frame: &[u8]) -> Vec<u8> {
    match frame[14] >> 4 {
        4 => frame[ID].to_vec(),
        _ => frame[58..62].to_vec(),
    }
}

#[test]
fn s110_fragments_of_an_ended_or_old_datagram_have_no_ports() {
    for (client, age_s, is_known) in [
        (CLIENT, 15, true),
        (CLIENT, 16, false),
        (CLIENT_V6, 60, true),
        (CLIENT_V6, 61, false),
    ] {
        let mut host = Host::new(state());
        let [first, later] = parts(client);
        let sent = host.run(Hook::External, &first);
        assert_eq!(sent.reason, Reason::ToBackend);
        host.now_s += age_s;
        // The connection is known.
        let to = Builder::new(client, &service(client, 83));
        assert_eq!(
            host.run(Hook::External, &to.udp(b"whole")).reason,
            Reason::ToBackend
        );
        let late = host.run(Hook::External, &later);
        let wanted = match is_known {
            true => ("pass", Reason::ToBackend),
            false => ("drop", Reason::FragmentUnknown),
        };
        assert_eq!(
            (late.action, late.reason),
            wanted,
            "{client} after {age_s} s"
        );
    }
    for client in [CLIENT, CLIENT_V6] {
        let mut walks = Walks::with("s110", state());
        let [first, later] = parts(client);
        assert_eq!(
            walks.run(&later).reason,
            Reason::FragmentUnknown,
            "it overtook the first"
        );
        assert_eq!(walks.run(&first).reason, Reason::ToBackend);
        assert_eq!(walks.run(&later).reason, Reason::ToBackend);
        assert_eq!(
            walks.run(&later).reason,
            Reason::FragmentUnknown,
            "all data was sent"
        );
        // The same identification again.
        let [first, later] = datagram(client, 53);
        assert_eq!(walks.run(&first).reason, Reason::ToBackend);
        assert_eq!(walks.run(&later).reason, Reason::ToBackend);
    }
}

#[test]
fn s110_two_datagrams_with_one_key_are_not_mixed() {
    for client in [CLIENT, CLIENT_V6] {
        let mut walks = Walks::with("s110m", state());
        let [one, rest] = parts(client);
        let [other, other_rest] = datagram(client, 53);
        assert_eq!(walks.run(&one).reason, Reason::ToBackend);
        for frame in [other, rest, one, other_rest] {
            assert_eq!(walks.run(&frame).reason, Reason::FragmentUnknown);
        }
    }
}

#[test]
fn s110_a_first_fragment_without_ports_is_not_forwarded() {
    let mut walks = Walks::with("s110t", state());
    let tcp = Builder::new(CLIENT, "10.96.0.10:80").tcp("S", &[7; 64]);
    // The flags are in the second one (RFC 1858).
    let [tiny, rest] = fragments_v4(&tcp, 8);
    for frame in [tiny, rest] {
        let outcome = walks.run(&frame);
        assert_eq!(
            (outcome.action, outcome.reason),
            ("drop", Reason::FragmentUnknown)
        );
    }
}

#[test]
fn s111_identifications_are_unique_after_translation() {
    let mut walks = Walks::with("s111", state());
    let mut seen = BTreeSet::new();
    for client in 1..60 {
        for client in [
            format!("198.51.100.{client}:1000"),
            format!("[2001:db8::{client}]:1000"),
        ] {
            let [first, later] = parts(&client);
            let frames = [&first, &first, &later].map(|frame| walks.run(frame));
            let ids = frames.each_ref().map(|outcome| {
                assert_eq!(outcome.reason, Reason::ToBackend);
                id(&outcome.frame)
            });
            assert_eq!([&ids[0]; 3], ids.each_ref(), "one datagram");
            assert!(
                seen.insert(ids[0].clone()),
                "{client}: another one has this number"
            );
        }
    }
}

#[test]
fn s111_only_packets_that_may_be_fragmented_get_another_identification() {
    let mut walks = Walks::with("s111w", state());
    let to = Builder::new(CLIENT, "10.96.0.10:83");
    let mut whole = to.udp(b"question");
    whole[ID].copy_from_slice(&[0x12, 0x34]);
    // Don't fragment.
    let outcome = walks.run(&whole);
    assert_eq!(outcome.frame[ID], [0x12, 0x34]);
    // One bit less: the checksum of the header is that much larger.
    let [hi, lo] = [whole[24], whole[25]];
    let sum = u32::from(u16::from_be_bytes([hi, lo])) + 0x4000;
    whole[24..26].copy_from_slice(&((sum % 0xffff) as u16).to_be_bytes());
    whole[20] = 0;
    let sent = walks.run(&whole).frame;
    assert_ne!(sent[ID], [0x12, 0x34]);
    assert_eq!(sent[26..30], [192, 168, 50, 1]);

    // An error about it quotes what the client sent.
    let router = Builder::new("10.244.2.1:0", "192.168.50.1:0");
    let back = walks.run(&router.unreachable(&sent));
    assert_eq!(back.reason, Reason::IcmpError);
    assert!(is_checksum_right(&back.frame));
    assert_eq!(back.frame[42..][4..6], [0x12, 0x34]);
    assert_eq!(back.frame[42..][12..16], [198, 51, 100, 7]);
}

/// Inserts extension headers after the IPv6 header of a frame, each with the bytes after its first.
fn extended(frame: &[u8], headers: &[(u8, &[u8])]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for (kind, rest) in headers.iter().rev() {
        let mut header = vec![frame[20]];
        header.extend(*rest);
        frame[20] = *kind;
        let len = u16::from_be_bytes([frame[18], frame[19]]) + header.len() as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame.splice(54..54, header);
    }
    frame
}

const PADDING: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
const LONG: &[u8] = &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// A routing header (type 4, RFC 8754) that has no way to go, and one that has.
const ROUTED: &[u8] = &[0, 4, 0, 0, 0, 0, 0];
const TO_ROUTE: &[u8] = &[0, 4, 1, 0, 0, 0, 0];
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const OPTIONS: u8 = 60;

#[test]
fn s112_extension_headers_are_stepped_over() {
    let plain = Builder::new(CLIENT_V6, "[fd96::10]:53").udp(b"question");
    let cases: [&[(u8, &[u8])]; 5] = [
        &[(HOP_BY_HOP, PADDING)],
        &[(OPTIONS, LONG)],
        &[(ROUTING, ROUTED)],
        &[(HOP_BY_HOP, PADDING), (ROUTING, ROUTED), (OPTIONS, LONG)],
        &[
            (HOP_BY_HOP, PADDING),
            (OPTIONS, LONG),
            (ROUTING, ROUTED),
            (OPTIONS, PADDING),
        ],
    ];
    for headers in cases {
        let mut walks = Walks::with("s112", state());
        let sent = extended(&plain, headers);
        let outcome = walks.run(&sent);
        assert_eq!(outcome.reason, Reason::ToBackend, "{headers:?}");
        let end = sent.len() - 16;
        assert_eq!(outcome.frame[54..end], sent[54..end], "the headers stay");
        // The same without them is right.
        let mut bare = outcome.frame.clone();
        bare.splice(54..end, []);
        bare[20] = 17;
        let len = (bare.len() - 54) as u16;
        bare[18..20].copy_from_slice(&len.to_be_bytes());
        assert!(is_checksum_right(&bare), "{headers:?}");
        assert_eq!(describe(&bare), "2001:db8::7 1000 > fd44:1::2 9376 udp 16");

        // An error about it, from the pod.
        let pod = Builder::new("[fd44:1::2]:0", CLIENT_V6);
        let back = walks.run(&pod.unreachable(&outcome.frame));
        assert_eq!(back.reason, Reason::IcmpError, "{headers:?}");
        assert!(is_checksum_right(&back.frame));
        let quoted = &back.frame[62..];
        assert_eq!(
            Addr::from(std::net::IpAddr::from(
                <[u8; 16]>::try_from(&quoted[24..40]).unwrap()
            )),
            address(CLUSTER_IP_V6)
        );
    }
    let untouched: [&[(u8, &[u8])]; 3] = [
        &[(ROUTING, TO_ROUTE)],
        &[(OPTIONS, PADDING); 5],
        &[(51, LONG)],
    ];
    for headers in untouched {
        let mut walks = Walks::with("s112u", state());
        let sent = extended(
            &Builder::new(CLIENT_V6, "[2001:db8::1]:53").udp(b"question"),
            headers,
        );
        let outcome = walks.run(&sent);
        assert_eq!(
            (outcome.action, outcome.reason),
            ("pass", Reason::OtherProtocol)
        );
        assert_eq!(outcome.frame, sent);
    }
}

#[test]
fn s112_fragments_after_extension_headers_reach_one_backend() {
    let mut walks = Walks::with("s112f", state());
    let [first, later] = datagram(CLIENT_V6, 53).map(|part| extended(&part, &[(OPTIONS, PADDING)]));
    for part in [first, later] {
        let outcome = walks.run(&part);
        assert_eq!(outcome.reason, Reason::ToBackend);
        assert_eq!(
            outcome.frame[38..54],
            [0xfd, 0x44, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
        );
    }
}

/// The kernel joins segments to a packet larger than the length field can say (BIG TCP).
#[test]
fn s112_jumbograms_are_translated() {
    let mut host = Host::new(state());
    let key = FrontendKey::new(address(CLUSTER_IP_V6), Port::new(80), Protocol::TCP);
    host.state.add_service(8, &[4], 0);
    host.state
        .add_frontend(key, 8, FrontendFlags::default(), AddressEntry::SERVICE);
    let to = Builder::new(CLIENT_V6, "[fd96::10]:80");
    assert_eq!(
        host.run_tc(Hook::External, &to.tcp("S", b"")).reason,
        Reason::ToBackend
    );
    let jumbo: &[u8] = &[0, 0xc2, 4, 0, 1, 0x86, 0xa0];
    let mut sent = extended(&to.tcp("A", &[7; 200]), &[(HOP_BY_HOP, jumbo)]);
    sent[18..20].fill(0);
    let outcome = host.run_tc(Hook::External, &sent);
    assert_eq!(outcome.reason, Reason::ToBackend);
    assert_eq!(outcome.frame[54..62], sent[54..62]);
    assert_eq!(outcome.frame[64..66], 9376u16.to_be_bytes());
}

/// A page has 4096 bytes: the kernel hands larger frames over in several buffers.
#[test]
fn s175_frames_in_several_buffers_are_handled_at_xdp() {
    let payload: Vec<u8> = (0..8900).map(|number: u32| number as u8).collect();
    let mut walks = Walks::with("s175", services());
    for (client, frontend, service) in [
        (CLIENT, "10.96.0.10:53", 3),
        (CLIENT_V6, "[fd96::10]:53", 4),
    ] {
        let sent = Builder::new(client, frontend).udp(&payload);
        let outcome = walks.run_xdp(&sent);
        assert_eq!(
            (outcome.action, outcome.reason),
            ("pass", Reason::ToBackend)
        );
        assert!(outcome.frame.ends_with(&payload));
        assert!(is_checksum_right(&outcome.frame), "{frontend}");
        assert_eq!(walks.traffic(service).bytes, sent.len() as u64);
    }
    // Answers are built in place of a frame.
    let to = Builder::new(CLIENT, "10.96.0.10:8080");
    for (frame, len) in [
        (to.tcp("A", &payload), 14 + 20 + 20),
        (to.udp(&payload), 14 + 20 + 8 + 20 + 8),
        (
            Builder::new(CLIENT_V6, "[fd96::10]:8080").udp(&payload),
            14 + 40 + 8 + 40 + 8,
        ),
    ] {
        let outcome = walks.run_xdp(&frame);
        assert_eq!((outcome.action, outcome.reason), ("answer", Reason::NoPort));
        assert_eq!(outcome.frame.len(), len);
        assert!(is_checksum_right(&outcome.frame));
    }
    let elsewhere = Builder::new(CLIENT, "192.0.2.1:80").tcp("A", &payload);
    let outcome = walks.run_xdp(&elsewhere);
    assert_eq!(
        (outcome.reason, outcome.frame),
        (Reason::NotOurs, elsewhere)
    );
}

#[test]
fn s177_frames_with_a_tag_are_left_to_the_device_of_the_vlan() {
    let mut walks = Walks::with("s177", services());
    for (client, frontend) in [(CLIENT, "10.96.0.10:53"), (CLIENT_V6, "[fd96::10]:53")] {
        let inside = Builder::new(client, frontend).udp(b"question");
        for protocol in [0x8100u16, 0x88a8] {
            let [hi, lo] = protocol.to_be_bytes();
            let mut tagged = inside.clone();
            tagged.splice(12..12, [hi, lo, 0, 100]);
            let outcome = walks.run_xdp(&tagged);
            assert_eq!((outcome.action, outcome.reason), ("pass", Reason::NotIp));
            assert_eq!(outcome.frame, tagged);
        }
        // As that device gets it.
        let outcome = walks.run_tc(Hook::External, &inside);
        assert_eq!(outcome.reason, Reason::ToBackend);
    }
}

#[test]
fn s113_frames_for_others_are_left_alone() {
    let to = Builder::new(CLIENT, "10.96.0.10:53");
    let mut walks = Walks::with("s113", state());
    for link in [[2, 0, 0, 0, 0, 0x99], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut frame = to.udp(b"question");
        frame[..6].copy_from_slice(&link);
        let at_xdp = walks.run(&frame);
        assert_eq!(
            (at_xdp.action, at_xdp.reason),
            ("pass", Reason::LinkUnknown)
        );
        assert_eq!(at_xdp.frame, frame);
        let at_tc = walks.run_tc(Hook::External, &frame);
        assert_eq!((at_tc.action, at_tc.reason), ("pass", Reason::OtherHost));
        assert_eq!(at_tc.frame, frame);
        // A pod behind a bridge sends to the bridge, but not to all.
        let reason = match link[0] & 1 {
            0 => Reason::ToBackend,
            _ => Reason::OtherHost,
        };
        assert_eq!(walks.run_tc(Hook::Pod, &frame).reason, reason);
    }
    assert_eq!(walks.run(&to.udp(b"question")).reason, Reason::ToBackend);
}

#[test]
fn s113_xdp_follows_the_address_of_the_device() {
    let frame = Builder::new(CLIENT, "10.96.0.10:53").udp(b"question");
    let mut host = Host::new(state());
    host.link = Some(LinkEntry {
        seen_s: host.now_s,
        address: [2, 0, 0, 0, 0, 1],
        ..LinkEntry::default()
    });
    assert_eq!(host.run(Hook::External, &frame).reason, Reason::LinkUnknown);
    // TC knows better, and XDP learns from it.
    assert_eq!(
        host.run_tc(Hook::External, &frame).reason,
        Reason::ToBackend
    );
    assert_eq!(host.link.unwrap().address, SlicePacket::<true>::LINK);
    assert_eq!(host.run(Hook::External, &frame).reason, Reason::ToBackend);
    // What TC saw long ago says nothing.
    host.now_s += 2;
    assert_eq!(host.run(Hook::External, &frame).reason, Reason::LinkUnknown);
}

#[test]
fn s114_affinity_ends_after_its_timeout() {
    let mut chosen = BTreeSet::new();
    let mut host = Host::new(state());
    host.now_s = 1_000_000;
    for round in 0..12u16 {
        let from = |port: u16| Builder::new(&format!("198.51.100.7:{port}"), "10.96.0.10:81");
        let connect = |host: &mut Host, port: u16| {
            let frame = host.run(Hook::External, &from(port).tcp("S", b"")).frame;
            describe(&frame).split(' ').nth(3).unwrap().to_owned()
        };
        // Two connections at once agree, also if the second one does not see the first one yet.
        let before = host.affinities.clone();
        let first = connect(&mut host, 2000 + round * 4);
        host.affinities = before;
        assert_eq!(connect(&mut host, 2001 + round * 4), first);
        host.now_s += 100;
        assert_eq!(
            connect(&mut host, 2002 + round * 4),
            first,
            "within the timeout"
        );
        chosen.insert(first);
        host.now_s += 101;
    }
    assert_eq!(chosen.len(), 2, "12 choices among 2 backends");

    let mut chosen = BTreeSet::new();
    let wanted = Destination {
        last: (0, BackendEntry::default()),
        address: address(CLUSTER_IP),
        port: Port::new(81),
        protocol: Protocol::TCP,
        netns: 7,
        is_node: false,
    };
    for random in 0..12 {
        let Decision::Backend { id, .. } = translate(&mut host, &wanted, random) else {
            panic!("no backend");
        };
        chosen.insert(id);
        host.now_s += 101;
    }
    assert_eq!(chosen.len(), 2, "12 choices of a socket");
}

#[test]
fn s115_echo_requests_to_service_addresses_are_answered() {
    let mut walks = Walks::with("s115", state());
    for (client, service) in [(CLIENT, "10.96.0.10:0"), (CLIENT_V6, "[fd96::10]:0")] {
        let mut to = Builder::new(client, service);
        to.hop_limit = 1;
        let hooks = [None, Some(Hook::External), Some(Hook::Pod)];
        for hook in hooks {
            let outcome = match hook {
                None => walks.run(&to.echo()),
                Some(hook) => walks.run_tc(hook, &to.echo()),
            };
            assert_eq!(
                (outcome.action, outcome.reason),
                ("answer", Reason::EchoAnswered)
            );
            assert!(is_checksum_right(&outcome.frame));
            let text = describe(&outcome.frame);
            assert!(
                text.contains("EchoReply(IcmpEchoHeader { id: 1, seq: 1 })"),
                "{text}"
            );
            let [from, to] = [service, client].map(|text| {
                text.parse::<std::net::SocketAddr>()
                    .unwrap()
                    .ip()
                    .to_string()
            });
            assert!(text.starts_with(&format!("{from} > {to} ")), "{text}");
            assert_eq!(outcome.frame[if client == CLIENT { 22 } else { 21 }], 64);
            assert!(outcome.frame.ends_with(b"ping"));
        }
    }
    // Without a ready backend.
    let balancer = Builder::new(CLIENT, "203.0.113.10:0").echo();
    let outcome = walks.run(&balancer);
    assert_eq!(
        (outcome.action, outcome.reason),
        ("answer", Reason::NoBackend)
    );
    assert!(describe(&outcome.frame).contains("DestinationUnreachable"));
    // Not the address of a host.
    for source in ["127.0.0.1:0", "224.0.0.1:0", "10.96.0.10:0"] {
        let frame = Builder::new(source, "10.96.0.10:0").echo();
        assert_eq!(walks.run(&frame).reason, Reason::Spoofed, "{source}");
    }
    // The node answers for its own address.
    let own = Builder::new(CLIENT, "192.168.50.1:0").echo();
    assert_eq!(walks.run(&own).reason, Reason::OtherProtocol);
}

#[test]
fn s116_addresses_that_no_service_has_are_refused() {
    let mut state = state();
    let range = |first: &str, mask: &str| ServiceRange {
        address: address(first),
        mask: address(mask),
    };
    state.service_ranges = vec![
        range("fd96::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
        ServiceRange {
            address: address("10.96.0.0"),
            mask: Addr::from_words([u32::MAX, u32::MAX, u32::MAX, 0xfff0_0000u32.to_be()]),
        },
    ];
    let mut walks = Walks::with("s116", state);
    let cases = [(CLIENT, "10.111.255.9:80"), (CLIENT_V6, "[fd96::999]:80")];
    for (client, unused) in cases {
        let to = Builder::new(client, unused);
        for hook in [Hook::External, Hook::Pod] {
            for (frame, wanted) in [
                (to.tcp("S", b""), "tcp AR"),
                (to.udp(b"question"), "Unreachable"),
                (to.echo(), "Unreachable"),
            ] {
                let outcome = walks.run_tc(hook, &frame);
                assert_eq!(
                    (outcome.action, outcome.reason),
                    ("answer", Reason::NoService)
                );
                assert!(is_checksum_right(&outcome.frame));
                let text = describe(&outcome.frame);
                assert!(text.contains(wanted), "{text}");
            }
        }
    }
    // Served, and outside of the ranges.
    let served = Builder::new(CLIENT, "10.96.0.10:80").tcp("S", b"");
    assert_eq!(walks.run(&served).reason, Reason::ToBackend);
    for (client, other) in [(CLIENT, "10.112.0.1:80"), (CLIENT_V6, "[fd96::1:0]:80")] {
        let frame = Builder::new(client, other).tcp("S", b"");
        assert_eq!(walks.run(&frame).reason, Reason::NotOurs);
    }
    let wanted = Destination {
        last: (0, BackendEntry::default()),
        address: address("10.111.255.9"),
        port: Port::new(80),
        protocol: Protocol::TCP,
        netns: 7,
        is_node: true,
    };
    let decision = translate(&mut walks.host, &wanted, 0);
    assert_eq!(decision, Decision::Refuse(Reason::NoService));
}
