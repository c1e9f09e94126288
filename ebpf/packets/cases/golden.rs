//! Connections, rejections, ICMP errors and frames that are not for a Service.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, CtState, DatapathConfig, FrontendFlags, FrontendKey,
    Location, Port, Protocol, Reason,
};
use headgate_datapath::Hook;
use headgate_packets::{
    Builder, Host, Outcome, Replica, State, describe, is_checksum_right, mutations,
};

use super::load;

const WEB: u32 = 1;
const EMPTY: u32 = 2;
const EMPTY_LOCAL: u32 = 3;
const WEB_V6: u32 = 4;
const DNS: u32 = 5;

fn address(text: &str) -> Addr {
    Addr::from(text.parse::<std::net::IpAddr>().unwrap())
}

fn backend(text: &str, port: u16, protocol: Protocol) -> BackendEntry {
    BackendEntry {
        address: address(text),
        port: Port::new(port),
        protocol,
        location: Location::THIS_NODE,
    }
}

fn state() -> State {
    let mut state = State {
        config: DatapathConfig {
            snat_v4: address("192.168.50.1"),
            snat_v6: address("fd50::1"),
            snat_port_first: Port::new(10_000),
            snat_port_last: Port::new(19_999),
            seed: 7,
            ..DatapathConfig::default()
        },
        ..State::default()
    };
    let mut frontend = |text: &str, port, protocol, service, flags| {
        let key = FrontendKey::new(address(text), Port::new(port), protocol);
        state.add_frontend(key, service, flags, AddressEntry::SHARED);
    };
    let none = FrontendFlags::default();
    frontend("192.168.50.1", 30080, Protocol::TCP, WEB, none);
    frontend("192.168.50.1", 30090, Protocol::TCP, WEB, none);
    frontend("fd50::1", 30080, Protocol::TCP, WEB_V6, none);
    frontend("192.168.50.1", 30053, Protocol::UDP, DNS, none);
    frontend("192.168.50.1", 30081, Protocol::TCP, EMPTY, none);
    frontend("192.168.50.1", 30081, Protocol::UDP, EMPTY, none);
    frontend("fd50::1", 30081, Protocol::TCP, EMPTY, none);
    frontend("fd50::1", 30081, Protocol::UDP, EMPTY, none);
    frontend(
        "192.168.50.1",
        30082,
        Protocol::TCP,
        EMPTY_LOCAL,
        FrontendFlags::DROP_OUTSIDE,
    );
    state
        .backends
        .insert(1, backend("10.244.1.2", 9376, Protocol::TCP));
    state
        .backends
        .insert(2, backend("10.244.1.3", 9376, Protocol::TCP));
    state
        .backends
        .insert(3, backend("fd44:1::2", 9376, Protocol::TCP));
    state
        .backends
        .insert(4, backend("10.244.1.2", 53, Protocol::UDP));
    state.add_service(WEB, &[1, 2], 0);
    state.add_service(WEB_V6, &[3], 0);
    state.add_service(DNS, &[4], 0);
    state.add_service(EMPTY, &[], 0);
    state.add_service(EMPTY_LOCAL, &[], 0);
    state
}

/// Host, XDP and TC, each over tables of its own.
struct Walks {
    host: Host,
    xdp: Option<Box<dyn Replica>>,
    tc: Option<Box<dyn Replica>>,
}

impl Walks {
    fn new(name: &str) -> Self {
        let state = state();
        Self {
            xdp: load(&format!("{name}-xdp"), &state),
            tc: load(&format!("{name}-tc"), &state),
            host: Host::new(state),
        }
    }

    /// Runs a frame from outside everywhere and checks that all agree, also at egress if it is left to it.
    fn run(&mut self, frame: &[u8]) -> Outcome {
        let expected = self.arrive(frame);
        if expected.reason != Reason::AtEgress {
            return expected;
        }
        assert_eq!((expected.action, &*expected.frame), ("pass", frame));
        let expected = self.host.run(Hook::Egress, frame);
        for kernel in [&mut self.xdp, &mut self.tc].into_iter().flatten() {
            let actual = kernel.run_tc(Hook::Egress, frame);
            compare("TC egress", &actual, &expected);
        }
        expected
    }

    fn arrive(&mut self, frame: &[u8]) -> Outcome {
        let expected = self.host.run(Hook::External, frame);
        if let Some(kernel) = &mut self.xdp {
            compare("XDP", &kernel.run_xdp(frame), &expected);
        }
        // TC decides again about what XDP leaves to it.
        let is_left = expected.is_left_to_tc();
        if let Some(kernel) = &mut self.tc
            && !is_left
        {
            compare("TC", &kernel.run_tc(Hook::External, frame), &expected);
        }
        if let (Some(xdp), false) = (&self.xdp, is_left) {
            assert_eq!(
                xdp.connections(),
                self.host.connections.len(),
                "connection entries"
            );
        }
        expected
    }
}

fn compare(name: &str, actual: &Outcome, expected: &Outcome) {
    assert_eq!(
        (
            actual.action,
            actual.reason,
            describe(&actual.frame),
            &actual.frame
        ),
        (
            expected.action,
            expected.reason,
            describe(&expected.frame),
            &expected.frame
        ),
        "{name} (left) and host walk (right) differ"
    );
}

fn assert_sent(outcome: &Outcome, action: &str, reason: Reason, description: &str) {
    assert_eq!(
        (
            outcome.action,
            outcome.reason,
            describe(&outcome.frame).as_str()
        ),
        (action, reason, description)
    );
    assert!(
        is_checksum_right(&outcome.frame),
        "checksum of {description}"
    );
}

#[test]
fn connection_is_translated_both_ways_v4() {
    let mut walks = Walks::new("both4");
    let client = Builder::new("192.168.50.100:40000", "192.168.50.1:30080");
    let first = walks.run(&client.tcp("S", b""));
    assert_eq!((first.action, first.reason), ("pass", Reason::ToBackend));
    assert!(is_checksum_right(&first.frame));
    let chosen = if describe(&first.frame).contains("10.244.1.2") {
        "10.244.1.2"
    } else {
        "10.244.1.3"
    };
    let backend = Builder::new(&format!("{chosen}:9376"), "192.168.50.100:40000");
    let reply = walks.run(&backend.tcp("SA", b""));
    assert_sent(
        &reply,
        "pass",
        Reason::ToClient,
        "192.168.50.1 30080 > 192.168.50.100 40000 tcp SA",
    );
    let data = walks.run(&client.tcp("A", b"GET / HTTP/1.1\r\n\r\n!"));
    assert_sent(
        &data,
        "pass",
        Reason::ToBackend,
        &format!("192.168.50.100 40000 > {chosen} 9376 tcp A"),
    );
}

#[test]
fn connection_is_translated_both_ways_v6() {
    let mut walks = Walks::new("both6");
    let client = Builder::new("[fd50::100]:40000", "[fd50::1]:30080");
    assert_sent(
        &walks.run(&client.tcp("S", b"")),
        "pass",
        Reason::ToBackend,
        "fd50::100 40000 > fd44:1::2 9376 tcp S",
    );
    let backend = Builder::new("[fd44:1::2]:9376", "[fd50::100]:40000");
    assert_sent(
        &walks.run(&backend.tcp("SA", b"")),
        "pass",
        Reason::ToClient,
        "fd50::1 30080 > fd50::100 40000 tcp SA",
    );
}

#[test]
fn s46_datagram_without_checksum_stays_without() {
    let mut walks = Walks::new("udp0");
    let client = Builder::new("192.168.50.100:5000", "192.168.50.1:30053");
    assert_sent(
        &walks.run(&client.udp(b"question")),
        "pass",
        Reason::ToBackend,
        "192.168.50.100 5000 > 10.244.1.2 53 udp 16",
    );
    let mut bare = client.udp(b"question");
    bare[40..42].fill(0);
    let outcome = walks.run(&bare);
    assert_eq!(outcome.frame[40..42], [0, 0]);
}

#[test]
fn s36_service_without_endpoint_answers() {
    let mut walks = Walks::new("reject");
    for (client, node) in [
        ("192.168.50.100:40000", "192.168.50.1:30081"),
        ("[fd50::100]:40000", "[fd50::1]:30081"),
    ] {
        let client = Builder::new(client, node);
        let (from, to) = (client.destination, client.source);
        assert_sent(
            &walks.run(&client.tcp("S", b"early data")),
            "answer",
            Reason::NoBackend,
            &format!(
                "{} {} > {} {} tcp AR",
                from.ip(),
                from.port(),
                to.ip(),
                to.port()
            ),
        );
        assert_sent(
            &walks.run(&client.tcp("A", b"")),
            "answer",
            Reason::NoBackend,
            &format!(
                "{} {} > {} {} tcp R",
                from.ip(),
                from.port(),
                to.ip(),
                to.port()
            ),
        );
        assert_sent(
            &walks.run(&client.udp(b"hello")),
            "answer",
            Reason::NoBackend,
            &format!("{} > {} DestinationUnreachable(Port)", from.ip(), to.ip()),
        );
        assert_eq!(
            walks.run(&client.tcp("R", b"")).reason,
            Reason::NotOurs,
            "no answer to a reset, which may be about a connection of the node"
        );
    }
}

#[test]
fn s21_local_policy_without_local_endpoint_drops() {
    let mut walks = Walks::new("local");
    let client = Builder::new("192.168.50.100:40000", "192.168.50.1:30082");
    let outcome = walks.run(&client.tcp("S", b""));
    assert_eq!(
        (outcome.action, outcome.reason),
        ("drop", Reason::NoLocalBackend)
    );
}

#[test]
fn s45_icmp_error_is_translated_inside_and_outside() {
    for (name, client, node, backend) in [
        (
            "icmp4",
            "192.168.50.100:5000",
            "192.168.50.1:30053",
            "10.244.1.2:53",
        ),
        (
            "icmp6",
            "[fd50::100]:40000",
            "[fd50::1]:30080",
            "[fd44:1::2]:9376",
        ),
    ] {
        let mut walks = Walks::new(name);
        let client = Builder::new(client, node);
        let is_v4 = client.source.is_ipv4();
        let sent = if is_v4 {
            client.udp(b"question")
        } else {
            client.tcp("S", b"")
        };
        let arrived = walks.run(&sent);
        let error = Builder::new(backend, &client.source.to_string()).unreachable(&arrived.frame);
        let outcome = walks.run(&error);
        assert_sent(
            &outcome,
            "pass",
            Reason::IcmpError,
            &format!(
                "{} > {} DestinationUnreachable(Port)",
                client.destination.ip(),
                client.source.ip()
            ),
        );
        // What is quoted is what the client sent: addresses and ports.
        let (inner, addresses) = if is_v4 { (42, 12..24) } else { (62, 8..44) };
        assert_eq!(
            outcome.frame[inner + addresses.start..inner + addresses.end],
            sent[14 + addresses.start..14 + addresses.end]
        );
    }
}

#[test]
fn s46_partial_checksum_is_left_to_tc() {
    let mut walks = Walks::new("partial");
    let client = Builder::new("192.168.50.100:40000", "192.168.50.1:30080");
    let mut frame = client.tcp("S", b"");
    // What the kernel leaves for a device: the folded sum of the pseudo header.
    let mut sum: u32 = frame[26..34]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    sum += 6 + (frame.len() as u32 - 34);
    let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
    frame[50..52].copy_from_slice(&folded.to_be_bytes());
    let outcome = walks.run(&frame);
    assert_eq!(
        (outcome.action, outcome.reason),
        ("pass", Reason::PartialChecksum)
    );
    assert_eq!(outcome.frame, frame);
    assert!(walks.host.connections.is_empty(), "no connection was added");
}

#[test]
fn s46_packets_of_no_service_stay_unchanged() {
    let mut walks = Walks::new("pass");
    let node = Builder::new("192.168.50.100:40000", "192.168.50.1:22");
    let mut fragment = node.udp(b"part");
    fragment[20] = 0x20;
    let mut tagged = node.tcp("S", b"");
    tagged[12..14].copy_from_slice(&[0x81, 0x00]);
    let mut short = node.tcp("S", b"");
    short.truncate(40);
    let mut bad_length = node.tcp("S", b"");
    bad_length[14] = 0x44;
    for (frame, reason) in [
        (node.tcp("S", b""), Reason::NotOurs),
        (node.udp(b"hello"), Reason::NotOurs),
        (node.echo(), Reason::OtherProtocol),
        (fragment, Reason::NotOurs),
        (tagged, Reason::NotIp),
        (short, Reason::Malformed),
        (bad_length, Reason::Malformed),
    ] {
        let outcome = walks.run(&frame);
        assert_eq!((outcome.action, outcome.reason), ("pass", reason));
        assert_eq!(outcome.frame, frame);
    }
}

#[test]
fn s48_two_services_with_one_backend_get_two_source_ports() {
    let mut state = state();
    let other = FrontendKey::new(address("192.168.50.1"), Port::new(30099), Protocol::UDP);
    state.add_frontend(other, DNS, FrontendFlags::default(), AddressEntry::SHARED);
    let mut host = Host::new(state);
    let one = Builder::new("192.168.50.100:5000", "192.168.50.1:30053").udp(b"a");
    let two = Builder::new("192.168.50.100:5000", "192.168.50.1:30099").udp(b"b");
    let one = describe(&host.run(Hook::External, &one).frame);
    let two = describe(&host.run(Hook::External, &two).frame);
    assert_eq!(one, "192.168.50.100 5000 > 10.244.1.2 53 udp 9");
    assert!(two.ends_with("> 10.244.1.2 53 udp 9"), "{two}");
    assert_ne!(one, two);
}

/// Another connection may reuse the address and port that a backend saw. Late packets of the first must
/// not reach it.
#[test]
fn s48_late_packets_do_not_reach_the_next_connection() {
    let mut walks = Walks::new("late");
    let first = Builder::new("192.168.50.100:40000", "192.168.50.1:30080");
    let second = Builder::new("192.168.50.100:40000", "192.168.50.1:30090");
    let opened = describe(&walks.run(&first.tcp("S", b"")).frame);
    let chosen = match opened.contains("10.244.1.2") {
        true => "10.244.1.2:9376",
        false => "10.244.1.3:9376",
    };
    let backend = Builder::new(chosen, "192.168.50.100:40000");
    walks.run(&backend.tcp("RA", b""));
    let again = describe(&walks.run(&second.tcp("S", b"")).frame);
    assert_eq!(again, opened, "the port is free again");
    let late = describe(&walks.run(&first.tcp("A", b"")).frame);
    assert!(!late.starts_with("192.168.50.100 40000 "), "{late}");
    assert_sent(
        &walks.run(&backend.tcp("SA", b"")),
        "pass",
        Reason::ToClient,
        "192.168.50.1 30090 > 192.168.50.100 40000 tcp SA",
    );
    let data = walks.run(&second.tcp("A", b"data"));
    assert_eq!(describe(&data.frame), opened.replace("tcp S", "tcp A"));
    let states = walks.host.connections.iter();
    let second = states.filter(|(flow, _)| flow.destination_port == Port::new(30090));
    let states: Vec<CtState> = second.map(|(_, entry)| entry.state).collect();
    assert_eq!(states, [CtState::ESTABLISHED]);
}

/// Frames of every kind with random bytes, cut or extended: host and kernel agree.
#[test]
fn mutated_packets_have_the_same_outcome() {
    const FRAMES: usize = 3000;
    let mut walks = Walks::new("mutate");
    let v4 = Builder::new("192.168.50.100:40000", "192.168.50.1:30080");
    let v6 = Builder::new("[fd50::100]:40000", "[fd50::1]:30080");
    let dns = Builder::new("192.168.50.100:5000", "192.168.50.1:30053");
    let none = Builder::new("[fd50::100]:40000", "[fd50::1]:30081");
    let translated = walks.run(&dns.udp(b"question")).frame;
    let seeds = [
        v4.tcp("S", b""),
        v6.tcp("A", b"data"),
        dns.udp(b"question"),
        none.tcp("S", b""),
        none.udp(b"question"),
        Builder::new("10.244.1.2:53", "192.168.50.100:5000").unreachable(&translated),
    ];
    for frame in mutations(&seeds, usize::MAX, 54..134).take(FRAMES) {
        walks.run(&frame);
    }
}
