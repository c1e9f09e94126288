//! Direct server return, packet by packet: node `A` gets the client's packets, node `B` has the backend.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, CtFlags, CtState, DatapathConfig, FrontendFlags, FrontendKey,
    FrontendKind, Location, Port, Protocol, Reason,
};
use headgate_datapath::{Hook, NextHop, Route, RouteResult};
use headgate_packets::{
    Builder, Host, Outcome, Replica, State, describe, is_checksum_right, mutations,
};

use super::load;

const PORT: u16 = 6090;
const CLIENT_V4: &str = "192.168.50.100:40000";
const CLIENT_V6: &str = "[fd50::100]:40000";
const NODE_PORT_V4: &str = "192.168.50.1:30080";
const NODE_PORT_V6: &str = "[fd50::1]:30080";
const BALANCER: &str = "203.0.113.10:80";
const BACKEND_V4: &str = "10.244.2.2:9376";
const BACKEND_V6: &str = "[fd44:2::2]:9376";
/// The client, the frontend and the backend.
const PATHS: [(&str, &str, &str); 3] = [
    (CLIENT_V4, NODE_PORT_V4, BACKEND_V4),
    (CLIENT_V4, BALANCER, BACKEND_V4),
    (CLIENT_V6, NODE_PORT_V6, BACKEND_V6),
];
const LINK_HEADER: usize = 14;

fn address(text: &str) -> Addr {
    Addr::from(text.parse::<std::net::IpAddr>().unwrap())
}

fn socket_ip(text: &str) -> String {
    text.parse::<SocketAddr>().unwrap().ip().to_string()
}

fn socket(text: &str) -> (Addr, Port) {
    let socket: SocketAddr = text.parse().unwrap();
    (Addr::from(socket.ip()), Port::new(socket.port()))
}

/// Node `number`. The backends are on node 2.
pub(super) fn state(number: u8) -> State {
    let (v4, v6) = (format!("192.168.50.{number}"), format!("fd50::{number}"));
    let mut state = State {
        config: DatapathConfig {
            snat_v4: address(&v4),
            snat_v6: address(&v6),
            snat_port_first: Port::new(10_000),
            snat_port_last: Port::new(19_999),
            seed: 7,
            dsr_port: Port::new(PORT),
            forwards_by_dsr: 1,
            ..DatapathConfig::default()
        },
        ..State::default()
    };
    let none = FrontendFlags::default();
    let node_port = FrontendFlags::of_kind(FrontendKind::NodePort);
    for (id, backend, node, protocol) in [
        (1, BACKEND_V4, v4.as_str(), Protocol::TCP),
        (2, BACKEND_V4, &v4, Protocol::UDP),
        (3, BACKEND_V6, &v6, Protocol::TCP),
        (4, BACKEND_V6, &v6, Protocol::UDP),
    ] {
        let (backend, port) = socket(backend);
        let entry = BackendEntry {
            address: backend,
            port,
            protocol,
            location: match number {
                2 => Location::THIS_NODE,
                _ => Location::OTHER_NODE,
            },
        };
        state.backends.insert(id, entry);
        state.add_service(id, &[id], 0);
        let key = FrontendKey::new(address(node), Port::new(30080), protocol);
        state.add_frontend(key, id, node_port, AddressEntry::SHARED);
        if backend.is_v4() {
            let (balancer, port) = socket(BALANCER);
            let key = FrontendKey::new(balancer, port, protocol);
            state.add_frontend(key, id, none, AddressEntry::SERVICE);
        }
    }
    state
}

/// A node on the host, and where it may be asked in the kernel.
struct Node {
    host: Host,
    xdp: Option<Box<dyn Replica>>,
    tc: Option<Box<dyn Replica>>,
}

impl Node {
    fn new(name: &str, state: State) -> Self {
        Self {
            xdp: load(&format!("{name}-xdp"), &state),
            tc: load(&format!("{name}-tc"), &state),
            host: Host::new(state),
        }
    }

    /// Runs a frame everywhere, and checks that all agree; if it is left to the hook where it leaves,
    /// there as well.
    fn run(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let arrived = self.run_at(hook, frame);
        match arrived.reason {
            Reason::AtEgress => self.run_at(Hook::Egress, frame),
            _ => arrived,
        }
    }

    fn run_at(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let expected = self.host.run(hook, frame);
        let text = |outcome: &Outcome| (outcome.action, outcome.reason, describe(&outcome.frame));
        // TC decides otherwise about such a packet, so from then on its tables differ.
        if expected.reason == Reason::ForTc {
            self.tc = None;
        }
        for (is_xdp, kernel) in [(true, &mut self.xdp), (false, &mut self.tc)] {
            let Some(kernel) = kernel else { continue };
            let actual = match (is_xdp, hook) {
                (true, Hook::External) => kernel.run_xdp(frame),
                (false, _) if expected.is_left_to_tc() => continue,
                _ => kernel.run_tc(hook, frame),
            };
            assert_eq!(text(&actual), text(&expected), "kernel and host differ");
            assert_eq!(actual.frame, expected.frame);
            assert_eq!(kernel.connections(), self.host.connections.len());
        }
        expected
    }

    fn entry(&self, from: &str, to: &str, protocol: Protocol) -> headgate_abi::CtEntry {
        self.host.connections[&Builder::new(from, to).flow(protocol)]
    }
}

/// Nodes 1 and 2.
fn nodes(name: &str) -> (Node, Node) {
    (
        Node::new(&format!("{name}-a"), state(1)),
        Node::new(&format!("{name}-b"), state(2)),
    )
}

/// Length of the outer headers, by the family of the packet.
fn outer_len(frame: &[u8]) -> usize {
    if frame[12..14] == [0x08, 0x00] {
        32
    } else {
        52
    }
}

/// The inner packet, with the link header.
fn inside(frame: &[u8]) -> Vec<u8> {
    let start = LINK_HEADER + outer_len(frame);
    [&frame[..LINK_HEADER], &frame[start..]].concat()
}

/// The packet encapsulated by node 1.
fn encapsulated(frame: &[u8], backend: &str) -> Vec<u8> {
    let backend: SocketAddr = backend.parse().unwrap();
    let node = if backend.is_ipv4() {
        "192.168.50.1:50000"
    } else {
        "[fd50::1]:50000"
    };
    let to = SocketAddr::new(backend.ip(), PORT).to_string();
    let [hi, lo] = backend.port().to_be_bytes();
    let payload = [&[1, 0, hi, lo], &frame[LINK_HEADER..]].concat();
    let mut frame = Builder::new(node, &to).udp(&payload);
    let checksum = LINK_HEADER + outer_len(&frame) - 6;
    frame[checksum..checksum + 2].fill(0);
    frame
}

fn bump_hop_limit(frame: &mut [u8]) {
    let at = if frame[12..14] == [0x08, 0x00] {
        22
    } else {
        21
    };
    frame[at] -= 1;
}

#[test]
fn s67_packet_is_sent_whole_and_reply_comes_directly() {
    let (mut a, mut b) = nodes("dsr");
    for (path, (client, frontend, backend)) in PATHS.into_iter().enumerate() {
        // Each from a port of its own: the backend sees the client and nothing of the frontend.
        let client = &client.replace("40000", &(40_000 + path).to_string());
        let (ask, answer) = (
            Builder::new(client, frontend),
            Builder::new(backend, client),
        );
        let exchanges = [
            (ask.tcp("S", b""), answer.tcp("SA", b""), Protocol::TCP),
            (
                ask.tcp("A", b"GET / HTTP/1.1\r\n\r\n"),
                answer.tcp("A", b"HTTP"),
                Protocol::TCP,
            ),
            (ask.udp(b"question"), answer.udp(b"answer"), Protocol::UDP),
        ];
        for (sent, replied, protocol) in exchanges {
            let carried = a.run(Hook::External, &sent);
            assert_eq!(
                (carried.action, carried.reason),
                ("pass", Reason::Encapsulated)
            );
            assert_eq!(inside(&carried.frame), sent, "the client's packet, whole");
            let text = describe(&carried.frame);
            let (node, pod): (SocketAddr, SocketAddr) =
                (frontend.parse().unwrap(), backend.parse().unwrap());
            let node = if frontend == BALANCER {
                "192.168.50.1".into()
            } else {
                node.ip().to_string()
            };
            assert!(text.starts_with(&format!("{node} ")), "{text}");
            assert!(
                text.contains(&format!("> {} {PORT} udp", pod.ip())),
                "{text}"
            );

            let arrived = b.run(Hook::External, &carried.frame);
            assert_eq!(
                (arrived.action, arrived.reason),
                ("pass", Reason::ToBackend)
            );
            let name = if protocol == Protocol::TCP {
                "tcp"
            } else {
                "udp"
            };
            let [from, to] = [client, backend].map(|text| {
                let socket: SocketAddr = text.parse().unwrap();
                format!("{} {}", socket.ip(), socket.port())
            });
            let text = describe(&arrived.frame);
            assert!(text.starts_with(&format!("{from} > {to} {name}")), "{text}");
            assert!(is_checksum_right(&arrived.frame), "{text}");

            let back = b.run(Hook::Pod, &replied);
            let text = describe(&back.frame);
            let frontend: SocketAddr = frontend.parse().unwrap();
            let name = format!("{} {} > {from} {name}", frontend.ip(), frontend.port());
            assert_eq!(back.reason, Reason::ToClient);
            assert!(text.starts_with(&name), "{text}");
            assert!(is_checksum_right(&back.frame));
            assert_eq!(
                b.entry(client, &frontend.to_string(), protocol).service,
                a.entry(client, &frontend.to_string(), protocol).service
            );
        }
    }
}

#[test]
fn s67_hop_limit_and_traffic_class_on_the_way() {
    let mut host = Host::new(state(1));
    host.route = Route {
        result: RouteResult::NextHop,
        next_hop: NextHop {
            ifindex: 3,
            destination: [4; 6],
            source: [5; 6],
        },
        mtu: 1500,
    };
    for (client, frontend, _) in PATHS {
        let mut sent = Builder::new(client, frontend).tcp("S", b"");
        let is_v4 = sent[12..14] == [0x08, 0x00];
        if is_v4 {
            sent[15] = 0xba;
            let checksum = &mut sent[24..26];
            let sum = u32::from(!u16::from_be_bytes([checksum[0], checksum[1]])) + 0xba;
            let sum = (sum & 0xffff) + (sum >> 16);
            checksum.copy_from_slice(&(!(sum as u16)).to_be_bytes());
        } else {
            sent[14..16].copy_from_slice(&[0x6b, 0xa0]);
        }
        let carried = host.run(Hook::External, &sent);
        assert_eq!(
            (carried.action, carried.reason),
            ("redirect", Reason::Encapsulated)
        );
        assert_eq!(carried.frame[..12], [[4; 6], [5; 6]].concat());
        // Congestion marks stay inside.
        let class = if is_v4 {
            vec![carried.frame[15]]
        } else {
            carried.frame[14..16].to_vec()
        };
        assert_eq!(class, if is_v4 { vec![0xb8] } else { vec![0x6b, 0x80] });
        let mut inner = inside(&carried.frame);
        assert!(is_checksum_right(&inner));
        bump_hop_limit(&mut sent);
        inner[..12].copy_from_slice(&sent[..12]);
        let checksum = if is_v4 { 24..26 } else { 0..0 };
        inner[checksum.clone()].fill(0);
        sent[checksum].fill(0);
        assert_eq!(inner, sent);
        let query = host.asked.take().unwrap();
        assert_eq!(
            usize::from(query.total_len),
            carried.frame.len() - LINK_HEADER
        );
        assert_eq!(query.destination_port.number(), PORT);
    }
    let mut worn = Builder::new(CLIENT_V4, NODE_PORT_V4);
    worn.hop_limit = 1;
    let answer = host.run(Hook::External, &worn.tcp("S", b""));
    assert_eq!((answer.action, answer.reason), ("answer", Reason::HopLimit));
}

/// The client gets the MTU minus the outer headers, also about a first fragment.
#[test]
fn s69_client_gets_an_error_about_what_does_not_fit() {
    let mut host = Host::new(state(1));
    host.route = Route {
        result: RouteResult::TooBig,
        mtu: 1500,
        ..Route::STACK
    };
    for (client, frontend, _) in PATHS {
        let whole = Builder::new(client, frontend).udp(&[b'x'; 1440]);
        let parts = fragments(&whole);
        for sent in [&whole, &parts[0]] {
            let answer = host.run(Hook::External, sent);
            assert_eq!((answer.action, answer.reason), ("answer", Reason::TooBig));
            assert!(is_checksum_right(&answer.frame));
            let is_v4 = sent[12..14] == [0x08, 0x00];
            let (icmp, network) = if is_v4 { (34, 20) } else { (54, 40) };
            let mtu = u16::from_be_bytes([answer.frame[icmp + 6], answer.frame[icmp + 7]]);
            assert_eq!(mtu, if is_v4 { 1468 } else { 1448 });
            // Network header, that of a fragment, and eight bytes: as they were sent.
            let quoted = &answer.frame[icmp + 8..];
            let is_v6_part = !is_v4 && sent.len() < whole.len();
            assert_eq!(quoted.len(), network + 8 + if is_v6_part { 8 } else { 0 });
            assert_eq!(quoted, &sent[LINK_HEADER..LINK_HEADER + quoted.len()]);
        }
        let later = host.run(Hook::External, &parts[1]);
        assert_eq!(
            (later.action, later.reason),
            ("drop", Reason::FragmentUnknown)
        );
    }
}

/// The MSS that a backend offers to clients whose packets come encapsulated.
#[test]
fn s69_segments_are_clamped_to_what_fits() {
    let mut b = Node::new("dsr-mss", state(2));
    for (client, frontend, backend) in PATHS {
        let client = &client.replace("40000", "40009");
        let syn = Builder::new(client, frontend).tcp("S", b"");
        b.run(Hook::External, &encapsulated(&syn, backend));
        let is_v4 = syn[12..14] == [0x08, 0x00];
        let l4 = if is_v4 { 34 } else { 54 };
        let answer = |flags: &str, option: [u8; 4]| {
            let mut frame = Builder::new(backend, client).tcp(flags, &option);
            // The payload becomes an option.
            frame[l4 + 12] += 0x10;
            let checksum = &mut frame[l4 + 16..l4 + 18];
            let sum = u32::from(!u16::from_be_bytes([checksum[0], checksum[1]])) + 0x1000;
            let sum = (sum & 0xffff) + (sum >> 16);
            checksum.copy_from_slice(&(!(sum as u16)).to_be_bytes());
            frame
        };
        let outer_len = if is_v4 { 32 } else { 52 };
        for (flags, option, wanted) in [
            ("SA", [2, 4, 0x05, 0xb4], 1460 - outer_len),
            ("A", [2, 4, 0x05, 0xb4], 1460),
            ("SA", [2, 4, 0, 60], 60),
            ("SA", [1, 4, 0x05, 0xb4], 1460),
        ] {
            let outcome = b.run(Hook::Pod, &answer(flags, option));
            assert_eq!(outcome.reason, Reason::ToClient);
            assert!(is_checksum_right(&outcome.frame));
            let size = u16::from_be_bytes([outcome.frame[l4 + 22], outcome.frame[l4 + 23]]);
            assert_eq!(size, wanted);
        }
    }
}

/// A UDP packet in two parts.
fn fragments(whole: &[u8]) -> [Vec<u8>; 2] {
    const CUT: usize = 40;
    let is_v4 = whole[12..14] == [0x08, 0x00];
    let headers = LINK_HEADER + if is_v4 { 20 } else { 40 };
    [(0, CUT), (CUT, whole.len() - headers)].map(|(from, to)| {
        let part = &whole[headers + from..headers + to];
        let more = to < whole.len() - headers;
        let mut frame = whole[..headers].to_vec();
        if is_v4 {
            frame[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            frame[18..20].copy_from_slice(&[9, 9]);
            let field = (from / 8) as u16 | if more { 0x2000 } else { 0 };
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame[24..26].fill(0);
            let sum: u32 = frame[14..34]
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        } else {
            frame[18..20].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            let protocol = std::mem::replace(&mut frame[20], 44);
            let field = from as u16 | u16::from(more);
            let [hi, lo] = field.to_be_bytes();
            frame.extend([protocol, 0, hi, lo, 9, 9, 9, 9]);
        }
        frame.extend(part);
        frame
    })
}

#[test]
fn s67_fragments_and_errors_follow_the_connection() {
    let (mut a, mut b) = nodes("dsr-parts");
    for (client, frontend, backend) in PATHS {
        let ask = Builder::new(client, frontend);
        for part in fragments(&ask.udp(&[b'x'; 200])) {
            let carried = a.run(Hook::External, &part);
            assert_eq!(carried.reason, Reason::Encapsulated);
            assert_eq!(inside(&carried.frame), part);
            let arrived = b.run(Hook::External, &carried.frame);
            assert_eq!(
                (arrived.action, arrived.reason),
                ("pass", Reason::ToBackend)
            );
            let pod: SocketAddr = backend.parse().unwrap();
            let text = describe(&arrived.frame);
            assert!(text.contains(&format!("> {}", pod.ip())), "{text}");
        }
        // An ICMP error about a reply comes to the frontend's node.
        let answer = b.run(Hook::Pod, &Builder::new(backend, client).udp(b"answer"));
        let error = ask.unreachable(&answer.frame);
        let carried = a.run(Hook::External, &error);
        assert_eq!(carried.reason, Reason::IcmpError);
        assert_eq!(inside(&carried.frame), error);
        let arrived = b.run(Hook::External, &carried.frame);
        assert_eq!(
            (arrived.action, arrived.reason),
            ("pass", Reason::IcmpError)
        );
        assert!(is_checksum_right(&arrived.frame));
        let [from, to]: [SocketAddr; 2] = [client, backend].map(|text| text.parse().unwrap());
        let text = format!("{} > {} DestinationUnreachable(Port)", from.ip(), to.ip());
        assert_eq!(describe(&arrived.frame), text);
    }
    // Fragments that overtook the first, and errors about no known packet.
    let ask = Builder::new("192.168.50.101:41000", NODE_PORT_V4);
    let [_, later] = fragments(&ask.udp(&[b'x'; 300]));
    let outcome = b.run(Hook::External, &encapsulated(&later, BACKEND_V4));
    assert_eq!(
        (outcome.action, outcome.reason),
        ("drop", Reason::FragmentUnknown)
    );
    let error = ask.unreachable(&Builder::new(NODE_PORT_V4, "192.168.50.100:42000").udp(b"x"));
    let outcome = b.run(Hook::External, &encapsulated(&error, BACKEND_V4));
    assert_eq!(
        (outcome.action, outcome.reason),
        ("drop", Reason::EncapsulatedUnknown)
    );
}

#[test]
fn s68_encapsulated_packets_without_a_backend_are_dropped() {
    let mut ranges = state(2);
    let restricted = FrontendKey::new(address("203.0.113.11"), Port::new(80), Protocol::TCP);
    let flags = FrontendFlags::SOURCE_RANGES;
    ranges.add_frontend(restricted, 1, flags, AddressEntry::SERVICE);
    let mut b = Node::new("dsr-unknown", ranges);
    let good = Builder::new(CLIENT_V4, NODE_PORT_V4);
    let cases = [
        (
            "a backend that is not here",
            good.tcp("S", b""),
            "10.244.2.3:9376",
            Reason::EncapsulatedUnknown,
        ),
        (
            "another port of it",
            good.tcp("S", b""),
            "10.244.2.2:22",
            Reason::EncapsulatedUnknown,
        ),
        (
            "a port that no Service uses",
            Builder::new(CLIENT_V4, "192.168.50.1:30081").tcp("S", b""),
            BACKEND_V4,
            Reason::EncapsulatedUnknown,
        ),
        (
            "a port that is no node port",
            Builder::new(CLIENT_V4, "192.168.50.1:80").tcp("S", b""),
            BACKEND_V4,
            Reason::EncapsulatedUnknown,
        ),
        (
            "neither TCP nor UDP",
            good.echo(),
            BACKEND_V4,
            Reason::EncapsulatedUnknown,
        ),
        (
            "from loopback",
            Builder::new("127.0.0.1:4000", NODE_PORT_V4).tcp("S", b""),
            BACKEND_V4,
            Reason::Spoofed,
        ),
        (
            "from a group",
            Builder::new("224.0.0.1:4000", NODE_PORT_V4).tcp("S", b""),
            BACKEND_V4,
            Reason::Spoofed,
        ),
        (
            "to loopback",
            Builder::new(CLIENT_V4, "127.0.0.1:30080").tcp("S", b""),
            BACKEND_V4,
            Reason::Spoofed,
        ),
        (
            "from a service",
            Builder::new("203.0.113.10:80", NODE_PORT_V4).tcp("S", b""),
            BACKEND_V4,
            Reason::Spoofed,
        ),
        (
            "outside of the source ranges",
            Builder::new(CLIENT_V4, "203.0.113.11:80").tcp("S", b""),
            BACKEND_V4,
            Reason::SourceRange,
        ),
    ];
    for (what, frame, backend, reason) in cases {
        let outcome = b.run(Hook::External, &encapsulated(&frame, backend));
        assert_eq!((outcome.action, outcome.reason), ("drop", reason), "{what}");
    }
    // Encapsulated twice.
    let twice = encapsulated(&encapsulated(&good.tcp("S", b""), BACKEND_V4), BACKEND_V4);
    let outcome = b.run(Hook::External, &twice);
    assert_eq!(
        (outcome.action, outcome.reason),
        ("drop", Reason::EncapsulatedUnknown)
    );
    assert!(b.host.connections.is_empty());
    // Unreadable inner headers. XDP may lack them, so TC decides.
    let other = encapsulated(
        &Builder::new(CLIENT_V6, NODE_PORT_V6).tcp("S", b""),
        BACKEND_V4,
    );
    let kernel = b.tc.as_mut().map(|tc| tc.run_tc(Hook::External, &other));
    for outcome in kernel
        .into_iter()
        .chain([b.host.run_tc(Hook::External, &other)])
    {
        assert_eq!(
            (outcome.action, outcome.reason),
            ("drop", Reason::EncapsulatedUnknown)
        );
    }
    assert_eq!(b.run(Hook::External, &other).reason, Reason::ForTc);
    // Of another version: not read as encapsulated.
    let mut later = encapsulated(&good.tcp("S", b""), BACKEND_V4);
    later[42] = 2;
    assert_eq!(b.run(Hook::External, &later).reason, Reason::NotOurs);
    // Pods may not send any.
    let forged = encapsulated(&good.tcp("S", b""), BACKEND_V4);
    let outcome = b.run(Hook::Pod, &forged);
    assert_eq!((outcome.action, outcome.reason), ("drop", Reason::Spoofed));
    // A node without DSR accepts none.
    let mut off = state(2);
    (off.config.dsr_port, off.config.forwards_by_dsr) = (Port::default(), 0);
    let mut off = Node::new("dsr-off", off);
    for hook in [Hook::External, Hook::Pod] {
        let outcome = off.run(hook, &forged);
        assert_eq!((outcome.action, outcome.reason), ("pass", Reason::NotOurs));
    }
}

#[test]
fn s175_encapsulated_frames_in_several_buffers_are_delivered() {
    let mut b = Node::new("dsr-jumbo", state(2));
    // Test runs of TC are for frames of one page.
    b.tc = None;
    for (client, frontend, backend) in PATHS {
        let sent = Builder::new(client, frontend).udp(&[7; 8900]);
        let arrived = b.run(Hook::External, &encapsulated(&sent, backend));
        assert_eq!(
            (arrived.action, arrived.reason),
            ("pass", Reason::ToBackend)
        );
        assert_eq!(arrived.frame.len(), sent.len());
        assert!(is_checksum_right(&arrived.frame));
    }
}

/// A packet from a Service's client to a backend must not be read as encapsulated where it arrives, or
/// by the next hook.
#[test]
fn s68_clients_send_no_encapsulated_packets_through_a_service() {
    const CLIENT: &str = "192.168.50.100:6090";
    let mut state = state(2);
    let (backend, port) = socket("10.244.2.2:6090");
    let protocol = Protocol::UDP;
    let entry = BackendEntry {
        address: backend,
        port,
        protocol,
        location: Location::THIS_NODE,
    };
    state.backends.insert(5, entry);
    state.add_service(5, &[5], 0);
    let key = FrontendKey::new(address("203.0.113.11"), Port::new(53), protocol);
    let none = FrontendFlags::default();
    state.add_frontend(key, 5, none, AddressEntry::SERVICE);
    let mut b = Node::new("dsr-through", state);
    let forged = encapsulated(
        &Builder::new(CLIENT_V4, NODE_PORT_V4).tcp("S", b""),
        BACKEND_V4,
    );
    let payload = &forged[LINK_HEADER + 28..];
    let ask = Builder::new(CLIENT_V4, "203.0.113.11:53").udp(payload);
    for hook in [Hook::External, Hook::Pod] {
        assert_eq!(b.run(hook, &ask).reason, Reason::NoBackend);
    }
    let outcome = b.run(Hook::External, &encapsulated(&ask, "10.244.2.2:6090"));
    assert_eq!(
        (outcome.action, outcome.reason),
        ("drop", Reason::EncapsulatedUnknown)
    );
    assert!(b.host.connections.is_empty());
    // Nor as the reply to a client that uses that port.
    let ask = Builder::new(CLIENT, "192.168.50.2:30080").udp(b"question");
    assert_eq!(b.run(Hook::External, &ask).reason, Reason::ToBackend);
    let answer = Builder::new(BACKEND_V4, CLIENT).udp(payload);
    let outcome = b.run(Hook::Pod, &answer);
    assert_eq!((outcome.action, outcome.reason), ("drop", Reason::Spoofed));
}

/// They read no encapsulated packets, and answer the address that a packet comes from.
#[test]
fn s141_backends_outside_of_the_cluster_get_a_translated_source() {
    let mut state = state(1);
    for backend in state.backends.values_mut() {
        backend.location = Location::OUTSIDE;
    }
    let mut a = Node::new("dsr-outside", state);
    for (client, frontend, backend) in PATHS {
        let (client_ip, _) = client.rsplit_once(':').unwrap();
        let node = match client_ip.starts_with('[') {
            true => "fd50::1",
            false => "192.168.50.1",
        };
        let sent = a.run(Hook::External, &Builder::new(client, frontend).udp(b"ask"));
        assert_eq!(sent.reason, Reason::ToBackend);
        let text = describe(&sent.frame);
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(
            (words[0], words[3]),
            (node, socket_ip(backend).as_str()),
            "{text}"
        );
        let source = SocketAddr::new(node.parse().unwrap(), words[1].parse().unwrap());
        let answer = Builder::new(backend, &source.to_string()).udp(b"answer");
        let answered = a.run(Hook::External, &answer);
        assert_eq!(answered.reason, Reason::ToClient);
        let text = describe(&answered.frame);
        assert!(
            text.starts_with(&format!("{} ", socket_ip(frontend))),
            "{text}"
        );
    }
}

/// A node that only accepts sends by SNAT.
#[test]
fn s67_accepting_is_not_sending() {
    let mut state = state(1);
    state.config.forwards_by_dsr = 0;
    let mut a = Node::new("dsr-accept", state);
    let sent = Builder::new(CLIENT_V4, NODE_PORT_V4).tcp("S", b"");
    let outcome = a.run(Hook::External, &sent);
    assert_eq!(outcome.reason, Reason::ToBackend);
    let text = describe(&outcome.frame);
    assert!(text.starts_with("192.168.50.1 "), "{text}");
}

/// The first node sees one direction of such a connection.
#[test]
fn s67_life_of_a_connection_that_is_seen_one_way() {
    let mut host = Host::new(state(1));
    let ask = Builder::new(CLIENT_V4, NODE_PORT_V4);
    let run = |host: &mut Host, frame: &[u8]| {
        let outcome = host.run(Hook::External, frame);
        assert_eq!(outcome.reason, Reason::Encapsulated);
        describe(&outcome.frame)
            .split(' ')
            .nth(3)
            .unwrap()
            .to_owned()
    };
    let state_of = |host: &Host| host.connections.values().next().unwrap().state;
    run(&mut host, &ask.tcp("S", b""));
    assert_eq!(state_of(&host), CtState::NEW);
    run(&mut host, &ask.tcp("S", b""));
    assert_eq!(state_of(&host), CtState::NEW, "the first packet again");
    run(&mut host, &ask.tcp("A", b""));
    assert_eq!(state_of(&host), CtState::ESTABLISHED);
    assert_eq!(host.connections.len(), 1, "nothing for the other direction");
    let first = host.connections.values().next().unwrap();
    assert!(first.flags.contains(CtFlags::ENCAPSULATES));
    // After a day without a packet, and with other backends: the same.
    let (other, port) = socket("10.244.3.2:9376");
    let entry = BackendEntry {
        address: other,
        port,
        protocol: Protocol::TCP,
        location: Location::OTHER_NODE,
    };
    host.state.backends.insert(9, entry);
    host.state.add_service(1, &[9], 0);
    host.now_s += 24 * 3600;
    assert_eq!(run(&mut host, &ask.tcp("A", b"data")), "10.244.2.2");
    // A SYN may be spoofed, so it goes there too, until the Service has lost the backend.
    assert_eq!(run(&mut host, &ask.tcp("S", b"")), "10.244.2.2");
    for entry in host.connections.values_mut() {
        entry.flags = entry.flags.union(CtFlags::REMOVED);
    }
    assert_eq!(run(&mut host, &ask.tcp("S", b"")), "10.244.3.2");
    run(&mut host, &ask.tcp("A", b""));
    run(&mut host, &ask.tcp("FA", b""));
    assert_eq!(state_of(&host), CtState::CLIENT_CLOSED);
    run(&mut host, &ask.tcp("R", b""));
    assert_eq!(state_of(&host), CtState::CLOSED);
}

/// Another node takes over in the middle, or the backend's node itself: it is the same connection.
#[test]
fn s67_flow_moves_to_another_node() {
    let (mut a, mut b) = nodes("dsr-move");
    let mut c = Node::new("dsr-move-c", state(3));
    let ask = Builder::new(CLIENT_V4, BALANCER);
    let opened = a.run(Hook::External, &ask.tcp("S", b""));
    let first = b.run(Hook::External, &opened.frame);
    let data = ask.tcp("A", b"data");
    let carried = c.run(Hook::External, &data);
    assert_eq!(carried.reason, Reason::Encapsulated);
    let second = b.run(Hook::External, &carried.frame);
    let direct = b.run(Hook::External, &data);
    let to = "192.168.50.100 40000 > 10.244.2.2 9376 tcp";
    assert_eq!(describe(&first.frame), format!("{to} S"));
    for outcome in [second, direct] {
        assert_eq!(
            (outcome.action, describe(&outcome.frame)),
            ("pass", format!("{to} A"))
        );
    }
    assert_eq!(b.host.connections.len(), 2, "one connection");
    // It continues after the endpoint is removed.
    b.host.state.backends.clear();
    let outcome = b.host.run(Hook::External, &carried.frame);
    assert_eq!(outcome.reason, Reason::ToBackend);
}

/// Clients on the node of the backend: the pod itself, and a process of the node.
#[test]
fn s67_clients_on_the_node_of_the_backend() {
    let mut b = Node::new("dsr-own", state(2));
    for client in ["10.244.2.2:5000", "192.168.50.2:5000"] {
        let sent = Builder::new(client, NODE_PORT_V4).tcp("S", b"");
        let arrived = b.run(Hook::External, &encapsulated(&sent, BACKEND_V4));
        assert_eq!(arrived.reason, Reason::ToBackend);
        let text = describe(&arrived.frame);
        assert!(
            text.starts_with("192.168.50.2 ") && text.ends_with("> 10.244.2.2 9376 tcp S"),
            "{text}"
        );
        assert!(
            b.host.asked.take().is_some(),
            "the kernel would drop its own address"
        );
        let port: u16 = text.split(' ').nth(1).unwrap().parse().unwrap();
        let back = Builder::new(BACKEND_V4, &format!("192.168.50.2:{port}")).tcp("SA", b"");
        let back = b.run(Hook::Pod, &back);
        let client = client.replace(':', " ");
        assert_eq!(
            describe(&back.frame),
            format!("192.168.50.1 30080 > {client} tcp SA")
        );
    }
}

#[test]
fn s67_partial_checksum_is_left_to_tc() {
    let (mut a, mut b) = nodes("dsr-partial");
    let mut sent = Builder::new(CLIENT_V4, NODE_PORT_V4).tcp("S", b"");
    let sum: u32 = sent[26..34]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = sum + 6 + (sent.len() as u32 - 34);
    let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
    sent[50..52].copy_from_slice(&folded.to_be_bytes());
    let frame = encapsulated(&sent, BACKEND_V4);
    for (node, frame) in [(&mut a, &sent), (&mut b, &frame)] {
        let outcome = node.run(Hook::External, frame);
        assert_eq!(
            (outcome.action, outcome.reason),
            ("pass", Reason::PartialChecksum)
        );
        assert_eq!(outcome.frame, *frame);
        assert!(node.host.connections.is_empty());
    }
}

/// Encapsulated packets with random bytes, cut or extended: host and kernel agree.
#[test]
fn mutated_encapsulated_packets_have_the_same_outcome() {
    const FRAMES: usize = 3000;
    let mut state = state(2);
    // No node port, which every address would have.
    for frontend in state.frontends.values_mut() {
        frontend.flags = FrontendFlags::default();
    }
    let mut b = Node::new("dsr-mutate", state);
    let v4 = Builder::new(CLIENT_V4, BALANCER);
    let v6 = Builder::new(CLIENT_V6, "[fd50::2]:30080");
    let answer = b.run(
        Hook::External,
        &encapsulated(&v6.udp(b"question"), BACKEND_V6),
    );
    let error = v6.unreachable(&v6.reversed().udp(&answer.frame));
    let seeds = [
        encapsulated(&v4.tcp("S", b""), BACKEND_V4),
        encapsulated(&v4.udp(b"data"), BACKEND_V4),
        encapsulated(&v6.tcp("A", b"data"), BACKEND_V6),
        encapsulated(&fragments(&v6.udp(&[b'x'; 100]))[0], BACKEND_V6),
        encapsulated(&error, BACKEND_V6),
        v4.tcp("S", b""),
    ];
    for frame in mutations(&seeds, 180, 54..174).take(FRAMES) {
        b.run(Hook::External, &frame);
    }
}
