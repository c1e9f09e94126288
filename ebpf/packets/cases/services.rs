//! Behaviours of Services, packet by packet.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, HashSet};

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, CtEntry, CtFlags, CtState, DatapathConfig, FrontendFlags,
    FrontendKey, Location, MemberKey, Port, Protocol, REFUSED, Reason, ServiceEntry, ServiceFlags,
    SlotRange, Takeover, Traffic,
};
use headgate_datapath::{
    Hook, NextHop, Route, RouteResult, mirrored,
    socket::{Decision, Destination, translate},
};
use headgate_packets::{Builder, Host, Outcome, Replica, State, describe, is_checksum_right};

use super::load;

const WEB: u32 = 1;
const STICKY: u32 = 2;
pub(super) const CLUSTER_IP: &str = "10.96.0.10";
pub(super) const CLUSTER_IP_V6: &str = "fd96::10";
const BALANCER: &str = "203.0.113.10";

pub(super) fn address(text: &str) -> Addr {
    Addr::from(text.parse::<std::net::IpAddr>().unwrap())
}

/// Backends 1 and 2 are local, 3 is on another node, 4 is local with an IPv6 address.
pub(super) fn state() -> State {
    let mut state = State {
        config: DatapathConfig {
            snat_v4: address("192.168.50.1"),
            snat_v6: address("fd50::1"),
            snat_port_first: Port::new(10_000),
            snat_port_last: Port::new(29_999),
            seed: 7,
            ..DatapathConfig::default()
        },
        ..State::default()
    };
    for (id, text, location) in [
        (1, "10.244.1.2", Location::THIS_NODE),
        (2, "10.244.1.3", Location::THIS_NODE),
        (3, "10.244.2.2", Location::OTHER_NODE),
        (4, "fd44:1::2", Location::THIS_NODE),
    ] {
        for (id, protocol) in [(id, Protocol::TCP), (id + 10, Protocol::UDP)] {
            let entry = BackendEntry {
                address: address(text),
                port: Port::new(9376),
                protocol,
                location,
            };
            state.backends.insert(id, entry);
        }
    }
    state.add_service(WEB, &[1], 0);
    state.add_service(STICKY, &[1, 2], 100);
    state.add_service(3, &[11], 0);
    state.add_service(4, &[14], 0);
    state.add_service(5, &[3], 0);
    let mut frontend = |text: &str, port, protocol, service, flags| {
        let key = FrontendKey::new(address(text), Port::new(port), protocol);
        state.add_frontend(key, service, flags, AddressEntry::SERVICE);
    };
    let none = FrontendFlags::default();
    frontend(CLUSTER_IP, 80, Protocol::TCP, WEB, none);
    frontend(CLUSTER_IP, 81, Protocol::TCP, STICKY, none);
    frontend(CLUSTER_IP, 53, Protocol::UDP, 3, none);
    frontend(CLUSTER_IP_V6, 53, Protocol::UDP, 4, none);
    frontend(CLUSTER_IP, 82, Protocol::TCP, 5, none);
    frontend(
        BALANCER,
        80,
        Protocol::TCP,
        WEB,
        FrontendFlags::SOURCE_RANGES,
    );
    state.ranges = vec![(WEB, address("198.51.100.0"), 96 + 24)];
    state
}

/// The host, and the kernel if there is one.
pub(super) struct Walks {
    pub(super) host: Host,
    kernel: Option<Box<dyn Replica>>,
}

impl Walks {
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, state())
    }

    pub(super) fn with(name: &str, state: State) -> Self {
        Self {
            kernel: load(name, &state),
            host: Host::new(state),
        }
    }

    /// Runs a frame from outside on both at XDP.
    pub(super) fn run_xdp(&mut self, frame: &[u8]) -> Outcome {
        let kernel = self.kernel.as_mut();
        let kernel = kernel.map(|kernel| kernel.run_xdp(frame));
        same(kernel, self.host.run(Hook::External, frame))
    }

    /// The traffic of a service, the same on both.
    pub(super) fn traffic(&self, service: u32) -> Traffic {
        let host = self.host.traffic.borrow();
        let host = host.get(&service).copied().unwrap_or_default();
        if let Some(kernel) = &self.kernel {
            assert_eq!(kernel.traffic(service), host, "traffic of {service}");
        }
        host
    }

    /// Runs a frame from outside on both at XDP, and, if XDP leaves it to another hook, there. TC must not
    /// change what XDP translated.
    pub(super) fn run(&mut self, frame: &[u8]) -> Outcome {
        let arrived = self.run_xdp(frame);
        match (arrived.action, arrived.reason) {
            ("pass", Reason::AtEgress | Reason::ForTc) => {
                assert_eq!(arrived.frame, frame);
                let hook = match arrived.reason {
                    Reason::ForTc => Hook::External,
                    _ => Hook::Egress,
                };
                self.run_tc(hook, frame)
            }
            ("pass", Reason::ToBackend) => {
                let next = self.run_tc(Hook::External, &arrived.frame);
                assert_eq!(next.frame, arrived.frame, "what XDP translated");
                arrived
            }
            _ => arrived,
        }
    }

    pub(super) fn run_tc(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let kernel = self.kernel.as_mut();
        let kernel = kernel.map(|kernel| kernel.run_tc(hook, frame));
        same(kernel, self.host.run_tc(hook, frame))
    }
}

/// Compares both outcomes.
fn same(kernel: Option<Outcome>, host: Outcome) -> Outcome {
    if let Some(kernel) = kernel {
        let text = |outcome: &Outcome| (outcome.action, outcome.reason, describe(&outcome.frame));
        assert_eq!(text(&kernel), text(&host), "kernel and host differ");
        assert_eq!(kernel.frame, host.frame);
    }
    host
}

fn syn(from: &str, to: &str) -> Vec<u8> {
    Builder::new(from, to).tcp("S", b"")
}

#[test]
fn s13_source_ranges_admit_only_those_inside() {
    let mut walks = Walks::new("s13");
    let inside = walks.run(&syn("198.51.100.7:1000", "203.0.113.10:80"));
    assert_eq!(inside.reason, Reason::ToBackend);
    let outside = walks.run(&syn("198.51.101.7:1000", "203.0.113.10:80"));
    assert_eq!(
        (outside.action, outside.reason),
        ("drop", Reason::SourceRange)
    );
    let cluster_ip = walks.run(&syn("198.51.101.7:1000", "10.96.0.10:80"));
    assert_eq!(
        cluster_ip.reason,
        Reason::ToBackend,
        "for the load balancer alone"
    );
}

#[test]
fn s16_unused_port_of_a_service_address_is_refused() {
    let mut walks = Walks::new("s16");
    for address in ["10.96.0.10:8080", "203.0.113.10:443"] {
        let outcome = walks.run(&syn("198.51.100.7:1000", address));
        assert_eq!((outcome.action, outcome.reason), ("answer", Reason::NoPort));
        assert!(
            describe(&outcome.frame).ends_with("tcp AR"),
            "{}",
            describe(&outcome.frame)
        );
        assert!(is_checksum_right(&outcome.frame));
    }
    let datagram = Builder::new("198.51.100.7:1000", "10.96.0.10:9").udp(b"x");
    assert_eq!(walks.run(&datagram).reason, Reason::NoPort);
    let elsewhere = walks.run(&syn("198.51.100.7:1000", "192.0.2.1:80"));
    assert_eq!(
        (elsewhere.action, elsewhere.reason),
        ("pass", Reason::NotOurs)
    );
}

#[test]
fn s24_client_keeps_its_backend_until_it_was_idle_too_long() {
    let mut host = Host::new(state());
    // Only one backend at first, so every client gets it.
    let only = |host: &mut Host, backends: &[u32]| {
        host.state.members.clear();
        host.state.add_service(STICKY, backends, 100);
    };
    only(&mut host, &[1]);
    let mut port = 1000;
    let mut chosen = |host: &mut Host, client: u8| {
        port += 1;
        let frame = syn(&format!("198.51.100.{client}:{port}"), "10.96.0.10:81");
        describe(&host.run(Hook::External, &frame).frame)
            .split(' ')
            .nth(3)
            .unwrap()
            .to_owned()
    };
    for client in 0..32 {
        assert_eq!(chosen(&mut host, client), "10.244.1.2");
    }
    only(&mut host, &[1, 2]);
    for now_s in [1050, 1100, 1200, 1300] {
        host.now_s = now_s;
        for client in 0..32 {
            assert_eq!(
                chosen(&mut host, client),
                "10.244.1.2",
                "each connection renews it"
            );
        }
    }
    host.now_s = 1401;
    let after: Vec<String> = (0..32).map(|client| chosen(&mut host, client)).collect();
    assert!(
        after.iter().any(|backend| backend == "10.244.1.3"),
        "idle for longer than 100 s"
    );
    // A backend that is no longer eligible is replaced, though it still exists.
    only(&mut host, &[2]);
    for client in 0..32 {
        assert_eq!(chosen(&mut host, client), "10.244.1.3");
    }
    // With affinity off, the last backend does not count.
    let slots = host.state.services[&STICKY].slots();
    let off = ServiceEntry::new(SlotRange { first: 0, ..slots }, 0, ServiceFlags::default());
    host.state.services.insert(STICKY, off);
    assert_eq!(chosen(&mut host, 1), "10.244.1.2");
}

#[test]
fn s24_kernel_keeps_the_backend_as_the_host_does() {
    let mut walks = Walks::new("s24");
    let mut seen = BTreeMap::<u8, String>::new();
    for round in 0..4 {
        for client in 0..16u8 {
            let frame = syn(
                &format!("198.51.100.{client}:{}", 2000 + round),
                "10.96.0.10:81",
            );
            let text = describe(&walks.run(&frame).frame);
            let backend = text.split(' ').nth(3).unwrap().to_owned();
            let first = seen.entry(client).or_insert_with(|| backend.clone());
            assert_eq!(*first, backend, "client {client}");
        }
    }
    let backends: std::collections::BTreeSet<&String> = seen.values().collect();
    assert_eq!(backends.len(), 2, "clients are spread");
    let member = MemberKey {
        service: STICKY,
        backend: 1,
    };
    assert!(walks.host.state.members.contains(&member));
}

/// Cuts a datagram's frame in two; offsets count from the end of the network header.
pub(super) fn fragments_v4(frame: &[u8], at: usize) -> [Vec<u8>; 2] {
    const HEADER: usize = 34;
    let part = |from: usize, to: usize, more: bool| {
        let mut part = frame[..HEADER].to_vec();
        part.extend(&frame[HEADER + from..HEADER + to]);
        let len = (part.len() - 14) as u16;
        part[16..18].copy_from_slice(&len.to_be_bytes());
        part[18..20].copy_from_slice(&0x1234u16.to_be_bytes());
        let field = (from / 8) as u16 | if more { 0x2000 } else { 0 };
        part[20..22].copy_from_slice(&field.to_be_bytes());
        part[24..26].fill(0);
        let sum: u32 = part[14..HEADER]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        part[24..26].copy_from_slice(&checksum.to_be_bytes());
        part
    };
    [part(0, at, true), part(at, frame.len() - HEADER, false)]
}

pub(super) fn fragments_v6(frame: &[u8], at: usize) -> [Vec<u8>; 2] {
    const HEADER: usize = 54;
    let part = |from: usize, to: usize, more: bool| {
        let mut part = frame[..HEADER].to_vec();
        let field = from as u16 | u16::from(more);
        part.extend([part[20], 0]);
        part.extend(field.to_be_bytes());
        part.extend(0x1234_5678u32.to_be_bytes());
        part.extend(&frame[HEADER + from..HEADER + to]);
        part[20] = 44;
        let len = (part.len() - HEADER) as u16;
        part[18..20].copy_from_slice(&len.to_be_bytes());
        part
    };
    [part(0, at, true), part(at, frame.len() - HEADER, false)]
}

#[test]
fn s44_fragments_of_a_datagram_reach_one_backend() {
    let mut walks = Walks::new("s44");
    let payload = [7; 256];
    let v4 = Builder::new("198.51.100.7:1000", "10.96.0.10:53").udp(&payload);
    let v6 = Builder::new("[2001:db8::7]:1000", "[fd96::10]:53").udp(&payload);
    let pod_v4 = [10, 244, 1, 2];
    let pod_v6 = [0xfd, 0x44, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    for (fragments, destination, pod, ports) in [
        (fragments_v4(&v4, 128), 30..34, &pod_v4[..], 36),
        (fragments_v6(&v6, 128), 38..54, &pod_v6[..], 64),
    ] {
        let [first, later] = fragments;
        let early = walks.run(&later);
        assert_eq!(
            (early.action, early.reason),
            ("drop", Reason::FragmentUnknown)
        );
        assert_eq!(early.frame, later);
        let first = walks.run(&first);
        assert_eq!(first.reason, Reason::ToBackend);
        assert_eq!(&first.frame[destination.clone()], pod);
        assert_eq!(&first.frame[ports..ports + 2], &9376u16.to_be_bytes());
        let translated = walks.run(&later);
        assert_eq!(translated.reason, Reason::ToBackend);
        assert_eq!(&translated.frame[destination.clone()], pod);
        assert_eq!(translated.frame[ports - 2..], later[ports - 2..], "payload");
    }
}

/// It quotes data where the ports would be.
#[test]
fn s45_icmp_error_about_a_later_fragment_is_left_alone() {
    let mut walks = Walks::new("s45f");
    let client = Builder::new("198.51.100.7:1000", "10.96.0.10:53");
    let mut quoted = walks.run(&client.udp(b"question")).frame;
    let backend = Builder::new("10.244.1.2:9376", "198.51.100.7:1000");
    let whole = walks.run(&backend.unreachable(&quoted));
    assert_eq!(whole.reason, Reason::IcmpError);
    quoted[21] = 1;
    let sent = backend.unreachable(&quoted);
    let later = walks.run(&sent);
    assert_eq!(
        (later.action, later.reason),
        ("pass", Reason::OtherProtocol)
    );
    assert_eq!(later.frame, sent);
}

#[test]
fn s46_options_are_forwarded_and_unknown_headers_left_alone() {
    let mut walks = Walks::new("s46");
    // Router alert (RFC 2113) before the TCP header.
    let plain = syn("198.51.100.7:1000", "10.96.0.10:80");
    let mut options = plain.clone();
    options.splice(34..34, [0x94, 4, 0, 0]);
    options[14] = 0x46;
    options[17] += 4;
    options[24..26].fill(0);
    let sum: u32 = options[14..38]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    options[24..26].copy_from_slice(&checksum.to_be_bytes());
    let outcome = walks.run(&options);
    assert_eq!(outcome.reason, Reason::ToBackend);
    assert_eq!(&outcome.frame[30..34], &[10, 244, 1, 2]);
    assert_eq!(&outcome.frame[34..38], &[0x94, 4, 0, 0], "the option stays");
    assert!(is_checksum_right(&outcome.frame));

    let mut tagged = plain;
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    // Authentication (RFC 4302) before the UDP header.
    let mut secured = Builder::new("[2001:db8::7]:1000", "[2001:db8::10]:53").udp(b"hello");
    let next = secured[20];
    secured.splice(54..54, [next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    secured[20] = 51;
    secured[19] += 12;
    for frame in [tagged, secured] {
        let outcome = walks.run(&frame);
        assert_eq!(outcome.action, "pass");
        assert_eq!(outcome.frame, frame, "untouched");
    }
}

#[test]
fn s47_hop_limit_goes_down_where_we_forward() {
    let mut host = Host::new(state());
    host.route = Route {
        result: RouteResult::NextHop,
        next_hop: NextHop {
            ifindex: 2,
            destination: [1; 6],
            source: [2; 6],
        },
        mtu: 0,
    };
    let mut builder = Builder::new("198.51.100.7:1000", "10.96.0.10:82");
    builder.hop_limit = 9;
    let outcome = host.run(Hook::External, &builder.tcp("S", b""));
    assert_eq!(
        (outcome.action, outcome.reason),
        ("redirect", Reason::ToBackend)
    );
    assert_eq!(outcome.frame[22], 8);
    assert!(is_checksum_right(&outcome.frame));
    builder.hop_limit = 1;
    let outcome = host.run(Hook::External, &builder.tcp("S", b""));
    assert_eq!(
        (outcome.action, outcome.reason),
        ("answer", Reason::HopLimit)
    );
    // Time exceeded, in transit (RFC 792).
    assert_eq!(
        (outcome.frame[23], outcome.frame[34], outcome.frame[35]),
        (1, 11, 0)
    );
}

#[test]
fn s48_client_reuses_its_port_after_the_end() {
    let mut walks = Walks::new("s48");
    let client = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
    let backend = Builder::new("10.244.1.2:9376", "198.51.100.7:1000");
    for _ in 0..3 {
        assert_eq!(walks.run(&client.tcp("S", b"")).reason, Reason::ToBackend);
        assert_eq!(walks.run(&backend.tcp("SA", b"")).reason, Reason::ToClient);
        walks.run(&client.tcp("A", b""));
        walks.run(&client.tcp("FA", b""));
        walks.run(&backend.after(0, 1).tcp("FA", b""));
        walks.run(&client.after(1, 1).tcp("A", b""));
    }
    let traffic = walks.host.traffic.borrow()[&WEB];
    assert_eq!(
        traffic.connections, 3,
        "each SYN opened a connection of its own"
    );
}

/// Ports as Linux assigns them to one client's connections: every other one of `ip_local_port_range`.
#[test]
fn s48_consecutive_client_ports_get_distinct_ports() {
    let mut walks = Walks::new("s48p");
    let mut seen = HashSet::new();
    for port in (32_768..61_000).step_by(2) {
        let sent = walks.run(&syn(&format!("198.51.100.7:{port}"), "10.96.0.10:82"));
        let sent = describe(&sent.frame);
        let words: Vec<_> = sent.split(' ').map(str::to_owned).collect();
        assert_eq!(words[0], "192.168.50.1", "{sent}");
        assert!(seen.insert(words[1].clone()), "{sent} from {port}");
    }
}

#[test]
fn s48_direct_connection_beside_one_through_a_service() {
    let mut walks = Walks::new("s48s");
    let client = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
    let backend = Builder::new("10.244.1.2:9376", "198.51.100.7:1000");
    let direct = backend.reversed();
    assert_eq!(walks.run(&direct.tcp("S", b"")).reason, Reason::NotOurs);
    for _ in 0..2 {
        walks.run(&client.tcp("S", b""));
        walks.run(&backend.tcp("SA", b""));
        walks.run(&client.tcp("A", b""));
        let moved = describe(&walks.run(&direct.tcp("S", b"")).frame);
        let port = moved.split(' ').nth(1).unwrap();
        assert_ne!(port, "1000", "{moved}");
        let answer = Builder::new("10.244.1.2:9376", &format!("198.51.100.7:{port}"));
        let answer = describe(&walks.run(&answer.tcp("SA", b"")).frame);
        assert_eq!(answer, "10.244.1.2 9376 > 198.51.100.7 1000 tcp SA");
        let through = describe(&walks.run(&backend.tcp("A", b"data")).frame);
        assert_eq!(through, "10.96.0.10 80 > 198.51.100.7 1000 tcp A");
        // At TC alone: after translation by XDP, TC would assign it to the other connection.
        assert_eq!(
            walks.host.run(Hook::External, &client.tcp("A", b"")).reason,
            Reason::ForTc
        );
        let through = describe(&walks.run(&client.tcp("A", b"data")).frame);
        assert_eq!(through, "198.51.100.7 1000 > 10.244.1.2 9376 tcp A");
        // Both end, and the client can use the port again for either.
        for frame in [client.tcp("R", b""), direct.tcp("R", b"")] {
            walks.run(&frame);
        }
        let kept = describe(&walks.run(&direct.tcp("S", b"")).frame);
        assert_eq!(kept, "198.51.100.7 1000 > 10.244.1.2 9376 tcp S");
        let answer = describe(&walks.run(&backend.tcp("SA", b"")).frame);
        assert_eq!(answer, "10.244.1.2 9376 > 198.51.100.7 1000 tcp SA");
        walks.run(&direct.tcp("R", b""));
    }
}

/// The client has reused its port for a connection to another backend, and then connects to the former.
#[test]
fn s48_direct_connection_to_a_former_backend_leaves_the_present_one() {
    let mut host = Host::new(state());
    let client = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
    host.run(Hook::External, &client.tcp("S", b""));
    host.run(Hook::External, &client.tcp("R", b""));
    host.state.add_service(WEB, &[2], 0);
    let backend = Builder::new("10.244.1.3:9376", "198.51.100.7:1000");
    for (hook, frame) in [
        (Hook::External, client.tcp("S", b"")),
        (Hook::Egress, backend.tcp("SA", b"")),
        (Hook::External, client.tcp("A", b"")),
        (Hook::External, syn("198.51.100.7:1000", "10.244.1.2:9376")),
    ] {
        host.run(hook, &frame);
    }
    host.state.add_service(WEB, &[1], 0);
    let data = host.run(Hook::External, &client.tcp("A", b"data"));
    assert_eq!(
        describe(&data.frame),
        "198.51.100.7 1000 > 10.244.1.3 9376 tcp A"
    );
}

#[test]
fn s48_next_hook_leaves_a_translated_packet_alone() {
    let mut walks = Walks::new("s48n");
    let client = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
    let backend = Builder::new("10.244.1.2:9376", "198.51.100.7:1000");
    for answer in [None, Some(backend.tcp("SA", b""))] {
        answer.map(|answer| walks.run(&answer));
        // The second time the client retries: the answer was lost.
        let translated = walks.run(&client.tcp("S", b"")).frame;
        assert_eq!(
            describe(&translated),
            "198.51.100.7 1000 > 10.244.1.2 9376 tcp S"
        );
        let outcome = walks.run(&translated);
        assert_eq!(outcome.reason, Reason::NotOurs);
        assert_eq!(outcome.frame, translated);
    }
}

/// It was rebooted, or a NAT router gave its port to another client.
#[test]
fn s48_client_that_lost_its_connection_keeps_its_entry() {
    let mut walks = Walks::new("s48f");
    let client = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
    let backend = Builder::new("10.244.1.2:9376", "198.51.100.7:1000");
    for frame in [
        client.tcp("S", b""),
        backend.tcp("SA", b""),
        client.tcp("A", b""),
    ] {
        walks.run(&frame);
    }
    let again = describe(&walks.run(&client.tcp("S", b"")).frame);
    assert_eq!(again, "198.51.100.7 1000 > 10.244.1.2 9376 tcp S");
    assert_eq!(walks.host.connections.len(), 2, "one connection");
    let challenge = describe(&walks.run(&backend.tcp("A", b"")).frame);
    assert_eq!(challenge, "10.96.0.10 80 > 198.51.100.7 1000 tcp A");
}

#[test]
fn s49_idle_connection_survives_days_and_its_end_does_not() {
    const DAY: u32 = 24 * 3600;
    let client = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
    let backend = Builder::new("10.244.1.2:9376", "198.51.100.7:1000");
    let open = || {
        let mut host = Host::new(state());
        host.run(Hook::External, &client.tcp("S", b""));
        host.run(Hook::Egress, &backend.tcp("SA", b""));
        host.run(Hook::External, &client.tcp("A", b""));
        host
    };
    let is_alive = |host: &mut Host| {
        let answer = host.run(Hook::Egress, &backend.tcp("A", b"data"));
        answer.reason == Reason::ToClient
    };
    let mut host = open();
    host.now_s += DAY;
    assert!(is_alive(&mut host), "a day, as kube-proxy has it");
    host.now_s += DAY + 1;
    assert!(!is_alive(&mut host));
    let to_backend = |flags| (Hook::External, client.tcp(flags, b""));
    let to_client = |flags| (Hook::Egress, backend.tcp(flags, b""));
    for ends in [
        [to_backend("FA"), to_client("FA")],
        [to_client("FA"), to_backend("FA")],
        [to_backend("R"), to_client("A")],
        [to_client("RA"), to_backend("A")],
    ] {
        let mut host = open();
        for (hook, frame) in ends {
            host.run(hook, &frame);
        }
        host.now_s += 121;
        assert!(
            !is_alive(&mut host),
            "closed connections are kept for two minutes"
        );
    }
}

#[test]
fn s51_spoofed_sources_are_dropped() {
    let mut walks = Walks::new("s51");
    for (from, to) in [
        ("127.0.0.1:1000", "10.96.0.10:80"),
        ("[::1]:1000", "[fd96::10]:53"),
        ("10.96.0.10:1000", "10.96.0.10:80"),
        ("203.0.113.10:1000", "10.96.0.10:80"),
        ("0.0.0.0:1000", "10.96.0.10:80"),
        ("224.0.0.1:1000", "10.96.0.10:8080"),
        ("255.255.255.255:1000", "10.96.0.10:80"),
        ("[::]:1000", "[fd96::10]:53"),
        ("[ff02::1]:1000", "[fd96::10]:53"),
        ("198.51.100.7:1000", "127.0.0.1:80"),
    ] {
        let outcome = walks.run(&syn(from, to));
        assert_eq!(
            (outcome.action, outcome.reason),
            ("drop", Reason::Spoofed),
            "{from} to {to}"
        );
    }
    // IPv6 packets with addresses that stand for IPv4.
    for (from, to) in [
        ("[fd50::100]:1000", "[::ffff:10.96.0.10]:80"),
        ("[::ffff:198.51.100.7]:1000", "[fd96::10]:53"),
    ] {
        let outcome = walks.run(&syn(from, to));
        assert_eq!(
            (outcome.action, outcome.reason),
            ("pass", Reason::Malformed),
            "{from} to {to}"
        );
    }
}

/// A program may read a slot just before the agent replaces it, and the backend after the agent has
/// cleared it.
#[test]
fn empty_backend_behind_a_slot_gets_no_packet() {
    let mut removed = state();
    removed.backends.insert(1, BackendEntry::default());
    let mut walks = Walks::with("stale", removed);
    let frame = syn("198.51.100.7:1000", "10.96.0.10:80");
    let outcome = walks.run(&frame);
    assert_eq!(
        (outcome.action, outcome.reason),
        ("drop", Reason::StaleBackend)
    );
    assert!(walks.host.connections.is_empty());
    let wanted = Destination {
        last: (0, BackendEntry::default()),
        address: address(CLUSTER_IP),
        port: Port::new(80),
        protocol: Protocol::TCP,
        netns: 1,
        is_node: true,
    };
    assert_eq!(
        translate(&mut walks.host, &wanted, 0),
        Decision::Refuse(Reason::StaleBackend)
    );
}

#[test]
fn s126_packets_of_unknown_connections_are_the_kernels_while_its_rules_are_taken_over() {
    let segment = Builder::new("192.0.2.9:1000", "10.96.0.10:80").tcp("A", b"hello");
    let syn = syn("192.0.2.9:1001", "10.96.0.10:80");
    let datagram = Builder::new("192.0.2.9:1000", "10.96.0.10:53").udp(b"hello");
    let (ours, kernels) = (Reason::ToBackend, Reason::KernelConnection);
    for (index, (takeover, reasons)) in [
        (Takeover::DONE, [ours, ours, ours]),
        (Takeover::BEGUN, [kernels, ours, ours]),
        (Takeover::GIVEN_BACK, [kernels, kernels, kernels]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut state = state();
        state.takeover = takeover;
        let mut walks = Walks::with(&format!("s126-{index}"), state);
        for (frame, reason) in [&segment, &syn, &datagram].into_iter().zip(reasons) {
            let outcome = walks.run(frame);
            assert_eq!(outcome.reason, reason, "{takeover:?} {}", describe(frame));
            if reason == kernels {
                assert_eq!((outcome.action, &outcome.frame), ("pass", frame));
            }
        }
        let known = reasons.iter().filter(|reason| **reason == ours).count();
        assert_eq!(walks.host.connections.len(), 2 * known);
    }
}

/// A connection of the kernel, in the table that both directions are looked up in.
fn kernel_connection(host: &mut Host, state: CtState) -> [Vec<u8>; 2] {
    let (client, frontend) = ("192.0.2.9:1000", "10.96.0.10:80");
    let (node, pod) = ("192.168.50.1:40000", "10.244.1.2:9376");
    let flow = |from, to| Builder::new(from, to).flow(Protocol::TCP);
    let (there, translated) = (flow(client, frontend), flow(node, pod));
    let entry = CtEntry {
        source: translated.source,
        destination: translated.destination,
        source_port: translated.source_port,
        destination_port: translated.destination_port,
        seen_s: host.now_s,
        state,
        flags: CtFlags::KERNEL,
        ..CtEntry::default()
    };
    let (back, reply) = mirrored(&there, &entry);
    assert_eq!(back, translated.reversed());
    host.connections.insert(there, entry);
    host.connections.insert(back, reply);
    [
        Builder::new(client, frontend).tcp("A", b"hello"),
        Builder::new(pod, node).after(0, 5).tcp("A", b"hello"),
    ]
}

#[test]
fn s126_connections_of_the_kernel_are_left_to_it() {
    let mut host = Host::new(state());
    let frames = kernel_connection(&mut host, CtState::ESTABLISHED);
    // Its numbers are not known before an answer confirms them.
    for frame in &frames {
        host.run(Hook::External, frame);
    }
    for frame in frames {
        // Its packets renew it.
        host.now_s += 60;
        let outcome = host.run(Hook::External, &frame);
        assert_eq!(
            (outcome.action, outcome.reason, outcome.frame),
            ("pass", Reason::KernelConnection, frame)
        );
        for entry in host.connections.values() {
            assert_eq!(entry.seen_s, host.now_s);
        }
    }
    // A new connection of the same client and port, once the kernel's has ended, is ours.
    kernel_connection(&mut host, CtState::CLOSED);
    let outcome = host.run(Hook::External, &syn("192.0.2.9:1000", "10.96.0.10:80"));
    assert_eq!(outcome.reason, Reason::ToBackend);
    // While it is handed to the kernel, neither translation fits.
    let [frame, _] = kernel_connection(&mut host, CtState::ESTABLISHED);
    for entry in host.connections.values_mut() {
        entry.flags = CtFlags::PAUSED;
    }
    let outcome = host.run(Hook::External, &frame);
    assert_eq!((outcome.action, outcome.reason), ("drop", Reason::Paused));
}

#[test]
fn s132_unconnected_socket_keeps_its_backend_while_that_is_ready() {
    let mut host = Host::new(state());
    let last = host.state.backends[&12];
    // What the service sends to now, the backend that the socket had, and the backend that it gets.
    for (now, cleared, had, gets) in [
        (&[11, 12][..], false, 12, 12),
        (&[12, 11], false, 12, 12),
        (&[11], true, 12, 11),
        (&[11], false, 0, 11),
    ] {
        host.state.add_service(3, now, 0);
        let entry = if cleared {
            BackendEntry::default()
        } else {
            last
        };
        host.state.backends.insert(12, entry);
        let wanted = Destination {
            address: address(CLUSTER_IP),
            port: Port::new(53),
            protocol: Protocol::UDP,
            netns: 1,
            is_node: true,
            last: (had, last),
        };
        for random in [0, u32::MAX / 2, u32::MAX] {
            let Decision::Backend { id, .. } = translate(&mut host, &wanted, random) else {
                panic!("{now:?}")
            };
            assert_eq!(id, gets, "{now:?} {random}");
        }
        host.state.add_service(3, &[], 0);
        assert_eq!(
            translate(&mut host, &wanted, 0),
            Decision::Refuse(Reason::NoBackend)
        );
    }
}

#[test]
fn s191_slot_that_refuses_is_answered_as_without_a_backend() {
    let mut state = state();
    state.add_service(6, &[REFUSED, 1], 0);
    state.add_service(7, &[11, REFUSED], 0);
    state.add_service(8, &[REFUSED, 2], 100);
    for (port, protocol, service) in [
        (90, Protocol::TCP, 6),
        (91, Protocol::UDP, 7),
        (92, Protocol::TCP, 8),
    ] {
        let key = FrontendKey::new(address(CLUSTER_IP), Port::new(port), protocol);
        state.add_frontend(
            key,
            service,
            FrontendFlags::default(),
            AddressEntry::SERVICE,
        );
    }
    let mut walks = Walks::with("s191", state);
    // What clients get, and how many of them.
    let mut seen = BTreeMap::<(&str, String), usize>::new();
    for port in 1000..1064 {
        for (to, is_tcp) in [
            ("10.96.0.10:90", true),
            ("10.96.0.10:91", false),
            ("10.96.0.10:92", true),
        ] {
            // Affinity chooses by the client's address.
            let client = format!("198.51.100.{}:{port}", port - 900);
            let builder = Builder::new(&client, to);
            let frame = if is_tcp {
                builder.tcp("S", b"")
            } else {
                builder.udp(b"x")
            };
            let outcome = walks.run(&frame);
            assert!(is_checksum_right(&outcome.frame));
            let what = match outcome.reason {
                Reason::ToBackend => "forwarded".into(),
                Reason::NoBackend => {
                    assert_eq!(outcome.action, "answer");
                    let text = describe(&outcome.frame);
                    text.rsplit(' ').next().unwrap_or_default().to_owned()
                }
                other => panic!("{other:?}"),
            };
            *seen.entry((to, what)).or_default() += 1;
        }
    }
    let kinds: Vec<(&str, &str)> = seen.keys().map(|(to, what)| (*to, what.as_str())).collect();
    assert_eq!(
        kinds,
        [
            ("10.96.0.10:90", "AR"),
            ("10.96.0.10:90", "forwarded"),
            ("10.96.0.10:91", "DestinationUnreachable(Port)"),
            ("10.96.0.10:91", "forwarded"),
            ("10.96.0.10:92", "AR"),
            ("10.96.0.10:92", "forwarded"),
        ],
        "{seen:?}"
    );
    assert!(seen.values().all(|count| *count > 16), "{seen:?}");
    // At the socket as well.
    let wanted = Destination {
        address: address(CLUSTER_IP),
        port: Port::new(90),
        protocol: Protocol::TCP,
        netns: 1,
        is_node: true,
        last: (0, BackendEntry::default()),
    };
    let decided = [0, u32::MAX].map(|random| translate(&mut walks.host, &wanted, random));
    assert_eq!(decided[0], Decision::Refuse(Reason::NoBackend));
    assert!(matches!(decided[1], Decision::Backend { id: 1, .. }));
}
