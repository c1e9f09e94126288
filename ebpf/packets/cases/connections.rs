//! Life of connections, segment by segment: what may end one, and what the node itself opened.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, CtEntry, CtFlags, CtState, DatapathConfig, FrontendFlags,
    FrontendKey, FrontendKind, Location, Port, Protocol, Reason, Takeover,
};
use headgate_datapath::Hook;
use headgate_packets::{Builder, Host, Outcome, Replica, State, describe};

use super::load;

/// Client, frontend, and backend of one connection.
type Path = [&'static str; 3];
const LOCAL: Path = [
    "198.51.100.7:12000",
    "192.168.50.1:30080",
    "10.244.1.2:9376",
];
const LOCAL_V6: Path = ["[fd50::100]:12000", "[fd50::1]:30080", "[fd44:1::2]:9376"];
/// The backend sees the node's address, and the client's port: it is in the range for SNAT.
const REMOTE: Path = [
    "198.51.100.7:12000",
    "192.168.50.1:30081",
    "10.244.2.2:9376",
];
const NODE: &str = "192.168.50.1:12000";
/// What a sender that is not on the path does not know.
const RANDOM: [u32; 4] = [0x0100_0001, 0x1234_5678, 0x8765_4321, 0xfff0_0000];

fn socket(text: &str) -> (Addr, Port) {
    let socket: std::net::SocketAddr = text.parse().unwrap();
    (Addr::from(socket.ip()), Port::new(socket.port()))
}

fn state() -> State {
    let mut state = State {
        config: DatapathConfig {
            snat_v4: socket(LOCAL[1]).0,
            snat_v6: socket(LOCAL_V6[1]).0,
            snat_port_first: Port::new(10_000),
            snat_port_last: Port::new(29_999),
            seed: 7,
            ..DatapathConfig::default()
        },
        ..State::default()
    };
    for (id, [_, frontend, backend]) in (1..).zip([LOCAL, LOCAL_V6, REMOTE]) {
        for (id, protocol) in [(id, Protocol::TCP), (id + 10, Protocol::UDP)] {
            let ((address, port), (backend, backend_port)) = (socket(frontend), socket(backend));
            let entry = BackendEntry {
                address: backend,
                port: backend_port,
                protocol,
                location: match id % 10 {
                    3 => Location::OTHER_NODE,
                    _ => Location::THIS_NODE,
                },
            };
            state.backends.insert(id, entry);
            state.add_service(id, &[id], 0);
            let key = FrontendKey::new(address, port, protocol);
            let of_node = FrontendFlags::of_kind(FrontendKind::NodePort);
            state.add_frontend(key, id, of_node, AddressEntry::NODE);
        }
    }
    let service = FrontendKey::new(socket("203.0.113.10:0").0, Port::new(80), Protocol::TCP);
    let none = FrontendFlags::default();
    state.add_frontend(service, 1, none, AddressEntry::SERVICE);
    state
}

/// The host, and the kernel if there is one.
struct Walks {
    host: Host,
    kernel: Option<Box<dyn Replica>>,
}

impl Walks {
    fn new(name: &str) -> Self {
        Self::with(name, state())
    }

    fn with(name: &str, state: State) -> Self {
        Self {
            kernel: load(name, &state),
            host: Host::new(state),
        }
    }

    /// Runs a frame from outside, or at another hook, on both.
    fn run(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let (expected, actual) = match hook {
            Hook::External => (
                self.host.run(hook, frame),
                self.kernel.as_mut().map(|kernel| kernel.run_xdp(frame)),
            ),
            _ => (
                self.host.run_tc(hook, frame),
                self.kernel
                    .as_mut()
                    .map(|kernel| kernel.run_tc(hook, frame)),
            ),
        };
        if let Some(actual) = actual {
            let text = |one: &Outcome| (one.action, one.reason, describe(&one.frame));
            assert_eq!(text(&actual), text(&expected), "kernel and host differ");
            assert_eq!(actual.frame, expected.frame);
        }
        expected
    }

    /// The client sends a frame.
    fn send(&mut self, frame: &[u8]) -> Outcome {
        self.run(Hook::External, frame)
    }

    /// A backend answers: one of this node through its device, one of another from outside.
    fn answer(&mut self, path: Path, frame: &[u8]) -> Outcome {
        match path {
            REMOTE => self.run(Hook::External, frame),
            _ => self.run(Hook::Egress, frame),
        }
    }

    /// Opens a connection.
    fn open(&mut self, path: Path) -> [Builder; 2] {
        let [client, backend] = ends(path);
        self.send(&client.tcp("S", b""));
        self.answer(path, &backend.tcp("SA", b""));
        self.send(&client.tcp("A", b""));
        assert_eq!(self.state(path), CtState::ESTABLISHED);
        [client, backend]
    }

    fn entry(&self, path: Path) -> CtEntry {
        self.host.connections[&Builder::new(path[0], path[1]).flow(Protocol::TCP)]
    }

    fn state(&self, path: Path) -> CtState {
        self.entry(path).state
    }

    /// Whether data passes in both directions.
    fn assert_works(&mut self, path: Path) {
        let [client, backend] = ends(path);
        let there = self.send(&client.tcp("A", b"question"));
        assert_eq!(there.reason, Reason::ToBackend);
        let back = self.answer(path, &backend.after(0, 8).tcp("A", b"answer"));
        assert_eq!(back.reason, Reason::ToClient);
    }
}

/// What the client sends, and what the backend sends.
fn ends(path: Path) -> [Builder; 2] {
    let [client, frontend, backend] = path;
    let seen = match path {
        REMOTE => NODE,
        _ => client,
    };
    [Builder::new(client, frontend), Builder::new(backend, seen)]
}

/// The end of a connection, but with numbers that are random, and other ones for the other end.
fn spoofed(end: Builder, is_client: bool, number: u32) -> Builder {
    let number = if is_client { number } else { !number };
    Builder {
        numbers: (number, number.rotate_left(7)),
        ..end
    }
}

/// The port of the client as the backend sees it.
fn source_port(outcome: &Outcome) -> String {
    let text = describe(&outcome.frame);
    text.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn s95_segment_with_a_random_number_changes_nothing() {
    for (name, path) in [("s95", LOCAL), ("s95v6", LOCAL_V6), ("s95snat", REMOTE)] {
        let mut walks = Walks::new(name);
        let [client, backend] = walks.open(path);
        let before = walks.entry(path);
        walks.host.now_s += 100;
        for number in RANDOM {
            for flags in ["R", "RA", "FA", "F", "S", "SA", "A"] {
                for (is_client, end) in [(true, client), (false, backend)] {
                    let frame = spoofed(end, is_client, number).tcp(flags, b"");
                    match is_client {
                        true => walks.send(&frame),
                        false => walks.answer(path, &frame),
                    };
                    let entry = walks.entry(path);
                    let (state, seen_s) = (entry.state, entry.seen_s);
                    assert_eq!(state, CtState::ESTABLISHED, "{flags} {is_client}");
                    assert_eq!(seen_s, before.seen_s, "{flags} {is_client}");
                    assert_eq!(entry.destination, before.destination);
                }
            }
        }
        walks.assert_works(path);
        // The real end counts.
        walks.send(&client.after(8, 6).tcp("R", b""));
        assert_eq!(walks.state(path), CtState::CLOSED);
    }
}

/// Also while the connection opens, and after one end has closed it.
#[test]
fn s95_opening_and_closing_connections_keep_their_state_too() {
    let [client, backend] = ends(LOCAL);
    let steps: [(bool, Vec<u8>, CtState); 5] = [
        (true, client.tcp("S", b""), CtState::NEW),
        (false, backend.tcp("SA", b""), CtState::ANSWERED),
        (true, client.tcp("A", b""), CtState::ESTABLISHED),
        (true, client.tcp("FA", b""), CtState::CLIENT_CLOSED),
        (false, backend.after(0, 1).tcp("FA", b""), CtState::CLOSING),
    ];
    let mut walks = Walks::new("s95o");
    for (is_client, frame, expected) in steps {
        match is_client {
            true => walks.send(&frame),
            false => walks.answer(LOCAL, &frame),
        };
        assert_eq!(walks.state(LOCAL), expected);
        for number in RANDOM {
            for flags in ["R", "RA", "FA", "SA", "A", "S"] {
                for (is_client, end) in [(true, client), (false, backend)] {
                    let frame = spoofed(end, is_client, number).tcp(flags, b"");
                    match is_client {
                        true => walks.send(&frame),
                        false => walks.answer(LOCAL, &frame),
                    };
                    assert_eq!(walks.state(LOCAL), expected, "{flags} {number} {is_client}");
                }
            }
        }
    }
    walks.send(&client.after(1, 1).tcp("A", b""));
    assert_eq!(walks.state(LOCAL), CtState::CLOSED);
}

#[test]
fn s96_reset_with_a_random_number_gives_no_connection_away() {
    let mut walks = Walks::new("s96");
    let [client, backend] = walks.open(REMOTE);
    for number in RANDOM {
        for mut end in [client, backend] {
            end.numbers = (number, number);
            walks.send(&end.tcp("R", b""));
        }
        let other = Builder::new("198.51.100.66:12000", REMOTE[1]);
        let sent = walks.send(&other.tcp("S", b""));
        assert_ne!(source_port(&sent), "12000", "{}", describe(&sent.frame));
    }
    let answer = walks.answer(REMOTE, &backend.tcp("A", b"secret"));
    assert_eq!(
        describe(&answer.frame),
        "192.168.50.1 30081 > 198.51.100.7 12000 tcp A"
    );
}

/// A source port is available as soon as neither end can send any more, and not before.
#[test]
fn s97_source_port_is_available_after_the_end_of_both() {
    let [client, backend] = ends(REMOTE);
    let (ask, data) = (
        client.tcp("A", b"question"),
        backend.after(0, 8).tcp("A", b"answer"),
    );
    let closed = [
        client.after(8, 6).tcp("FA", b""),
        backend.after(6, 9).tcp("FA", b""),
        client.after(9, 7).tcp("A", b""),
    ];
    let closed_by_backend = [
        backend.after(6, 8).tcp("FA", b""),
        client.after(8, 7).tcp("FA", b""),
        backend.after(7, 9).tcp("A", b""),
    ];
    // Both send FIN before they get the other's.
    let closed_at_once = [
        client.after(8, 6).tcp("FA", b""),
        backend.after(6, 8).tcp("FA", b""),
        client.after(9, 7).tcp("A", b""),
        backend.after(7, 9).tcp("A", b""),
    ];
    let in_flight = client.after(20, 6).tcp("R", b"");
    let cases: [(&str, &[Vec<u8>], bool); 12] = [
        ("nothing", &[], false),
        ("FIN of the client", &closed[..1], false),
        ("FIN of the backend", &closed_by_backend[..1], false),
        ("both FINs, the last not acknowledged", &closed[..2], false),
        ("both, by the client first", &closed, true),
        ("both, by the backend first", &closed_by_backend, true),
        ("both at once", &closed_at_once, true),
        (
            "both at once, one not acknowledged",
            &closed_at_once[..3],
            false,
        ),
        (
            "RST of the client",
            &[client.after(8, 6).tcp("RA", b"")],
            true,
        ),
        (
            "RST of the backend",
            &[
                client.after(8, 6).tcp("A", b""),
                backend.after(6, 8).tcp("R", b""),
            ],
            true,
        ),
        (
            "RST of the client that may be refused: data before it is not acknowledged",
            &[client.after(8, 6).tcp("A", b"not yet read"), in_flight],
            false,
        ),
        (
            "RST of the backend that may be refused",
            &[
                backend.after(6, 8).tcp("A", b"more"),
                backend.after(10, 8).tcp("RA", b""),
            ],
            false,
        ),
    ];
    let mut walks = Walks::new("s97");
    for (number, (what, frames, is_available)) in cases.into_iter().enumerate() {
        // Each with a client of its own port: the frames are of one connection.
        let mut host = Host::new(state());
        std::mem::swap(&mut walks.host, &mut host);
        if number > 0 {
            walks.kernel = load(&format!("s97-{number}"), &state());
        }
        walks.open(REMOTE);
        for frame in [&ask, &data].into_iter().chain(frames) {
            walks.send(frame);
        }
        let next = Builder::new("198.51.100.66:12000", REMOTE[1]).tcp("S", b"");
        let port = source_port(&walks.send(&next));
        assert_eq!(port == "12000", is_available, "{what}: {port}");
    }
}

/// A reset that the backend refuses, as it has not received the data before.
#[test]
fn s97_refused_reset_gives_no_connection_away() {
    const REST_S: u32 = 120;
    let mut walks = Walks::new("s97r");
    let [client, backend] = walks.open(REMOTE);
    let data = client.tcp("A", b"question");
    walks.send(&data);
    walks.send(&client.after(8, 0).tcp("R", b""));
    // Its data comes, and is acknowledged.
    walks.send(&backend.tcp("A", b""));
    walks.send(&data);
    walks.answer(REMOTE, &backend.after(0, 8).tcp("A", b""));
    let other = Builder::new("198.51.100.66:12000", REMOTE[1]).tcp("S", b"");
    assert_ne!(source_port(&walks.send(&other)), "12000");
    assert_eq!(walks.state(REMOTE), CtState::ESTABLISHED);
    assert_eq!(walks.entry(REMOTE).seen_s, walks.host.now_s);
    // Without another segment, it lives as long as a closed one.
    walks.send(&client.after(8, 0).tcp("A", b"more"));
    walks.send(&client.after(12, 0).tcp("R", b""));
    walks.host.now_s += REST_S + 1;
    let syn = walks.host.run(Hook::External, &client.tcp("S", b""));
    assert_eq!(syn.reason, Reason::ToBackend);
    assert_eq!(walks.state(REMOTE), CtState::NEW);
}

/// One number may be found by trying all, in steps of what is accepted. It does not help to find the other.
#[test]
fn s95_one_known_number_does_not_move_the_other() {
    let mut host = Host::new(state());
    let [client, backend] = ends(LOCAL);
    for (hook, frame) in [
        (Hook::External, client.tcp("S", b"")),
        (Hook::Egress, backend.tcp("SA", b"")),
        (Hook::External, client.tcp("A", b"")),
        (Hook::External, client.tcp("A", b"question")),
    ] {
        host.run(hook, &frame);
    }
    let key = client.flow(Protocol::TCP);
    let before = host.connections[&key];
    let sequence = 0x8765_4321u32;
    for acknowledged in (0..=u32::MAX).step_by(1 << 16) {
        let mut spoofed = client;
        spoofed.numbers = (sequence, acknowledged.max(1));
        host.run(Hook::External, &spoofed.tcp("A", b""));
        spoofed.numbers.0 = sequence.wrapping_sub(acknowledged);
        host.run(Hook::External, &spoofed.tcp("R", b""));
    }
    let after = host.connections[&key];
    assert_eq!((after.state, after.end), (before.state, before.end));
}

/// As many connections, one after the other, as there are ports, twice.
#[test]
fn s97_short_connections_do_not_run_out_of_ports() {
    let mut state = state();
    state.config.snat_port_last = Port::new(10_003);
    let mut host = Host::new(state);
    for number in 0..40_000u32 {
        let port = 32_768 + number % 20_000;
        let client = Builder::new(&format!("198.51.100.7:{port}"), REMOTE[1]);
        let sent = host.run(Hook::External, &client.tcp("S", b""));
        assert_eq!(sent.reason, Reason::ToBackend, "connection {number}");
        let backend = Builder::new(REMOTE[2], &format!("192.168.50.1:{}", source_port(&sent)));
        for frame in [
            backend.tcp("SA", b""),
            client.tcp("FA", b""),
            backend.after(0, 1).tcp("FA", b""),
            client.after(1, 1).tcp("A", b""),
        ] {
            host.run(Hook::External, &frame);
        }
    }
}

#[test]
fn s98_icmp_error_counts_only_about_a_segment_in_flight() {
    for (name, path) in [("s98", LOCAL), ("s98v6", LOCAL_V6), ("s98snat", REMOTE)] {
        let mut walks = Walks::new(name);
        let [client, backend] = ends(path);
        let router = |to: Builder, quoted: &[u8]| {
            let from = match path {
                LOCAL_V6 => "[2001:db8::9]:0",
                _ => "192.0.2.9:0",
            };
            Builder::new(from, &to.source.to_string()).unreachable(quoted)
        };
        // About the SYN, before an answer.
        let syn = walks.send(&client.tcp("S", b"")).frame;
        let seen = ends(path)[1].reversed();
        let error = walks.answer(path, &router(seen, &syn));
        assert_eq!(error.reason, Reason::IcmpError);
        walks.answer(path, &backend.tcp("SA", b""));
        walks.send(&client.tcp("A", b""));
        let before = walks.entry(path);
        walks.host.now_s += 100;
        let data = walks.send(&client.tcp("A", b"question")).frame;
        let touched = walks.entry(path);
        walks.host.now_s += 100;
        for number in RANDOM {
            let mut spoofed = seen;
            spoofed.numbers = (number, number);
            let quoted = spoofed.tcp("A", b"question");
            let error = walks.answer(path, &router(seen, &quoted));
            assert_eq!((error.action, error.reason), ("drop", Reason::StaleError));
        }
        let error = walks.answer(path, &router(seen, &data));
        assert_eq!(error.reason, Reason::IcmpError);
        let after = walks.entry(path);
        assert_eq!(
            (after.state, before.state),
            (CtState::ESTABLISHED, CtState::ESTABLISHED)
        );
        assert_eq!(after.seen_s, touched.seen_s, "it keeps no connection alive");
    }
}

#[test]
fn s99_half_closed_connection_lives_an_hour() {
    const HOUR: u32 = 3600;
    let [client, backend] = ends(LOCAL);
    let fin_of_client = (Hook::External, client.tcp("FA", b""));
    let fin_of_backend = (Hook::Egress, backend.tcp("FA", b""));
    for (hook, fin) in [fin_of_client, fin_of_backend] {
        for (pause, is_alive) in [(128, true), (HOUR, true), (HOUR + 1, false)] {
            let mut walks = Walks {
                host: Host::new(state()),
                kernel: None,
            };
            walks.open(LOCAL);
            walks.run(hook, &fin);
            walks.host.now_s += pause;
            let answer = walks.answer(LOCAL, &backend.after(0, 1).tcp("A", b"answer"));
            assert_eq!(answer.reason == Reason::ToClient, is_alive, "{pause} s");
        }
    }
}

#[test]
fn s101_lifetimes_are_the_configured_ones() {
    let ask = Builder::new(LOCAL[0], LOCAL[1]).udp(b"question");
    let answer = Builder::new(LOCAL[2], LOCAL[0]).udp(b"answer");
    let [client, backend] = ends(LOCAL);
    let mut state = state();
    let timeouts = &mut state.config.timeouts;
    timeouts.tcp_established_s = 50;
    timeouts.tcp_close_wait_s = 40;
    timeouts.udp_s = 20;
    timeouts.udp_stream_s = 10;
    let tcp: Vec<(Hook, Vec<u8>)> = vec![
        (Hook::External, client.tcp("S", b"")),
        (Hook::Egress, backend.tcp("SA", b"")),
        (Hook::External, client.tcp("A", b"")),
    ];
    let half: Vec<_> = tcp
        .iter()
        .cloned()
        .chain([(Hook::External, client.tcp("FA", b""))])
        .collect();
    let reply = backend.tcp("A", b"data");
    for (frames, reply, lifetime) in [
        (vec![(Hook::External, ask.clone())], &answer, 20),
        (
            vec![(Hook::External, ask), (Hook::Egress, answer.clone())],
            &answer,
            10,
        ),
        (tcp, &reply, 50),
        (half, &reply, 40),
    ] {
        for (pause, is_alive) in [(lifetime, true), (lifetime + 1, false)] {
            let mut host = Host::new(state.clone());
            for (hook, frame) in &frames {
                host.run(*hook, frame);
            }
            host.now_s += pause;
            let outcome = host.run(Hook::Egress, reply);
            assert_eq!(
                outcome.reason == Reason::ToClient,
                is_alive,
                "{pause} of {lifetime} s"
            );
        }
    }
}

/// The agent marks connections of removed backends, in whatever state.
#[test]
fn s100_syn_opens_a_new_connection_once_the_backend_is_removed() {
    let [client, backend] = ends(LOCAL);
    let opening = [
        (Hook::External, client.tcp("S", b"")),
        (Hook::Egress, backend.tcp("SA", b"")),
        (Hook::External, client.tcp("A", b"")),
        (Hook::External, client.tcp("FA", b"")),
    ];
    for (steps, is_removed) in (1..=4).flat_map(|steps| [(steps, false), (steps, true)]) {
        let mut host = Host::new(state());
        for (hook, frame) in &opening[..steps] {
            host.run(*hook, frame);
        }
        host.state.add_service(1, &[4], 0);
        host.state.backends.insert(
            4,
            BackendEntry {
                address: socket("10.244.1.3:0").0,
                ..host.state.backends[&1]
            },
        );
        if is_removed {
            for entry in host.connections.values_mut() {
                entry.flags = entry.flags.union(CtFlags::REMOVED);
            }
            let data = describe(&host.run_tc(Hook::External, &client.tcp("A", b"x")).frame);
            assert!(
                data.contains("10.244.1.2"),
                "it continues until a SYN: {data}"
            );
        }
        let again = Builder {
            numbers: (5_000_000, 0),
            ..client
        };
        let sent = describe(&host.run_tc(Hook::External, &again.tcp("S", b"")).frame);
        let wanted = if is_removed {
            "10.244.1.3"
        } else {
            "10.244.1.2"
        };
        assert!(sent.contains(wanted), "{sent}");
        // What the removed backend still sends is not mixed into it.
        let late = host.run_tc(Hook::Egress, &backend.tcp("A", b"late"));
        assert_eq!(late.reason == Reason::ToClient, !is_removed, "{steps}");
    }
}

/// Packets that were lost before this node, and packets that it did not see at all.
#[test]
fn s104_numbers_are_found_again_after_a_gap() {
    const MUCH: u32 = 3_000_000;
    let step = |is_client: bool, sent: u32, received: u32, flags: &'static str| {
        (is_client, sent, received, flags)
    };
    for (what, steps, expected) in [
        (
            "an upload jumps, the answers do not",
            vec![
                step(true, MUCH, 0, "A"),
                step(false, 0, MUCH, "A"),
                step(true, MUCH, 0, "FA"),
            ],
            CtState::CLIENT_CLOSED,
        ),
        (
            "both directions jump",
            vec![
                step(true, MUCH, MUCH, "A"),
                step(false, MUCH, MUCH, "A"),
                step(true, MUCH, MUCH, "A"),
                step(true, MUCH, MUCH, "FA"),
            ],
            CtState::CLIENT_CLOSED,
        ),
        (
            "a segment in flight that the other end has not acknowledged",
            vec![
                step(true, MUCH, MUCH, "A"),
                step(false, MUCH, MUCH - 500_000, "A"),
                step(true, MUCH + 1000, MUCH, "A"),
                step(false, MUCH, MUCH + 1000, "RA"),
            ],
            CtState::CLOSED,
        ),
        (
            "RST at the number that the other end asks for",
            vec![
                step(true, 0, 0, "A"),
                step(false, 0, 0, "A"),
                step(true, 0, 0, "R"),
            ],
            CtState::CLOSED,
        ),
    ] {
        let mut walks = Walks {
            host: Host::new(state()),
            kernel: None,
        };
        let [client, backend] = walks.open(LOCAL);
        for (is_client, sent, received, flags) in steps {
            match is_client {
                true => walks.send(&client.after(sent, received).tcp(flags, b"")),
                false => walks.answer(LOCAL, &backend.after(sent, received).tcp(flags, b"")),
            };
        }
        assert_eq!(walks.state(LOCAL), expected, "{what}");
    }
}

/// The client was rebooted. A backend that has lost the connection too opens a new one, with the same
/// entry; one that has it resets it through the client.
#[test]
fn s104_connection_that_both_ends_lost_opens_again() {
    let mut walks = Walks::new("s104");
    let [client, backend] = walks.open(LOCAL);
    let mut again = client;
    again.numbers = (70_000_001, 90_000_001);
    let sent = walks.run(Hook::Pod, &again.tcp("S", b""));
    assert_eq!(sent.reason, Reason::ToBackend);
    assert_eq!(walks.state(LOCAL), CtState::ESTABLISHED);
    let mut answer = backend;
    answer.numbers = (90_000_001, 70_000_001);
    walks.answer(LOCAL, &answer.tcp("SA", b""));
    assert_eq!(walks.state(LOCAL), CtState::ANSWERED);
    walks.send(&again.tcp("A", b""));
    assert_eq!(walks.state(LOCAL), CtState::ESTABLISHED);
    walks.send(&again.after(0, 0).tcp("R", b""));
    assert_eq!(walks.state(LOCAL), CtState::ESTABLISHED, "of the old one");
    walks.send(&again.tcp("R", b""));
    assert_eq!(walks.state(LOCAL), CtState::CLOSED);
    // Refused, because nothing listens any more.
    let mut walks = Walks::new("s104r");
    walks.open(LOCAL);
    walks.run(Hook::Pod, &again.tcp("S", b""));
    let mut refusal = backend;
    refusal.numbers = (0, 70_000_001);
    walks.answer(LOCAL, &refusal.tcp("RA", b""));
    assert_eq!(walks.state(LOCAL), CtState::CLOSED);
}

/// Sent from a node port, or the port of a load balancer on the node's address.
#[test]
fn s102_answers_to_what_the_node_opened_are_left_to_the_kernel() {
    for (name, from, to) in [
        ("s102", LOCAL[1], "198.51.100.9:5060"),
        ("s102v6", LOCAL_V6[1], "[2001:db8::9]:5060"),
    ] {
        let mut walks = Walks::new(name);
        let own = Builder::new(from, to);
        let theirs = own.reversed();
        let left = |walks: &mut Walks, hook, frame: Vec<u8>| {
            let outcome = walks.run(hook, &frame);
            let reason = match hook {
                Hook::Egress => Reason::NotOurs,
                _ => Reason::KernelConnection,
            };
            assert_eq!((outcome.action, outcome.reason), ("pass", reason));
            assert_eq!(outcome.frame, frame);
        };
        let exchanges = [
            (own.udp(b"question"), theirs.udp(b"answer")),
            (own.tcp("S", b""), theirs.tcp("SA", b"")),
            (own.tcp("A", b"request"), theirs.tcp("A", b"answer")),
        ];
        for (sent, answer) in exchanges {
            left(&mut walks, Hook::Egress, sent.clone());
            for hook in [Hook::External, Hook::Pod] {
                left(&mut walks, hook, answer.clone());
                // An error about it is the kernel's too.
                left(&mut walks, hook, theirs.unreachable(&sent));
            }
        }
        assert_eq!(walks.host.connections.len(), 2, "one for each protocol");
        // Spoofed segments of the other end do not end it.
        for flags in ["R", "FA", "S"] {
            left(&mut walks, Hook::External, theirs.tcp(flags, b""));
        }
        // Others reach the Service as before.
        let client = Builder::new(&to.replace("5060", "5061"), from);
        for frame in [client.udp(b"x"), client.tcp("S", b"")] {
            assert_eq!(walks.send(&frame).reason, Reason::ToBackend);
        }
        // After the end, so does this one.
        left(&mut walks, Hook::Egress, own.tcp("R", b""));
        let opened = walks.send(&theirs.tcp("S", b""));
        assert_eq!(opened.reason, Reason::ToBackend);
    }
}

/// Lifetimes of the node's own flows, and what is no flow of the node.
#[test]
fn s102_only_what_the_node_opened_is_noted() {
    let own = Builder::new(LOCAL[1], "198.51.100.9:5060");
    let theirs = own.reversed();
    let balanced = |host: &mut Host| {
        let ways = [theirs.udp(b"x"), theirs.tcp("A", b"x")];
        ways.map(|frame| host.run(Hook::External, &frame).reason == Reason::ToBackend)
    };
    let mut host = Host::new(state());
    for frame in [own.udp(b"x"), own.tcp("A", b"x")] {
        host.run(Hook::Egress, &frame);
    }
    host.now_s += 30;
    assert_eq!(balanced(&mut host), [false, false]);
    host.now_s += 1;
    assert_eq!(balanced(&mut host), [true, false], "no datagram for 30 s");
    // Our answer to a client that is refused, and a reply of a connection through the Service.
    let mut host = Host::new(state());
    host.run(Hook::Egress, &own.tcp("RA", b""));
    assert_eq!(balanced(&mut host), [true, true]);
    let count = host.connections.len();
    for frame in [own.udp(b"x"), own.tcp("A", b"x")] {
        host.run(Hook::Egress, &frame);
    }
    assert_eq!(host.connections.len(), count);
    assert_eq!(balanced(&mut host), [true, true]);
    // A port without a frontend, an address of another machine, and one that only Services have.
    for from in ["192.168.50.1:22", "192.168.50.2:30080", "203.0.113.10:80"] {
        let other = Builder::new(from, "198.51.100.9:5060");
        for frame in [other.udp(b"x"), other.tcp("A", b"x")] {
            host.run(Hook::Egress, &frame);
        }
        assert_eq!(host.connections.len(), count, "{from}");
    }
    // While other rules are there, these are their replies.
    host.state.takeover = Takeover::BEGUN;
    let reply = Builder::new("203.0.113.10:80", "198.51.100.9:5060").tcp("A", b"x");
    host.run(Hook::Egress, &reply);
    assert_eq!(host.connections.len(), count + 1);
}

#[test]
fn s103_answer_or_reset_without_an_entry_opens_nothing() {
    let mut walks = Walks::new("s103");
    for flags in ["SA", "R", "RA"] {
        let node = Builder::new("198.51.100.9:80", LOCAL[1]).tcp(flags, b"");
        for hook in [Hook::External, Hook::Pod] {
            let outcome = walks.run(hook, &node);
            assert_eq!((outcome.action, outcome.reason), ("pass", Reason::NotOurs));
        }
        // Nothing but Services has this address.
        let service = Builder::new("198.51.100.9:80", "203.0.113.10:80").tcp(flags, b"");
        let outcome = walks.send(&service);
        let action = if flags == "SA" { "answer" } else { "drop" };
        assert_eq!(outcome.action, action, "{flags}");
    }
    assert!(walks.host.connections.is_empty());
}

#[test]
fn s186_what_may_be_of_a_connection_that_is_not_copied_yet_waits() {
    let mut state = state();
    state.takeover = Takeover::copying_until(u32::MAX / 2);
    let mut walks = Walks::with("s186", state);
    let outside = "198.51.100.9:5060";
    let from = |from| Builder::new(from, outside);
    let to_node = Builder::new(REMOTE[2], NODE);
    let to_frontend = Builder::new(outside, LOCAL[1]);
    // Replies of backends, to clients and to ports of SNAT, and what continues a connection.
    for (hook, frame) in [
        (Hook::Egress, from(LOCAL[2]).tcp("SA", b"")),
        (Hook::Egress, from(LOCAL[2]).tcp("A", b"x")),
        (
            Hook::Egress,
            Builder::new(LOCAL_V6[2], LOCAL_V6[0]).tcp("A", b"x"),
        ),
        (Hook::Pod, from(LOCAL[2]).tcp("A", b"x")),
        (
            Hook::Egress,
            Builder::new(REMOTE[2], "10.244.1.9:40000").tcp("SA", b""),
        ),
        (Hook::External, to_node.tcp("SA", b"")),
        (Hook::External, to_frontend.tcp("A", b"x")),
        (Hook::External, to_frontend.tcp("FA", b"")),
    ] {
        let outcome = walks.run(hook, &frame);
        let found = (outcome.action, outcome.reason);
        assert_eq!(
            found,
            ("drop", Reason::Paused),
            "{hook:?} {}",
            describe(&frame)
        );
    }
    // Other packets go their way, and none is noted as the node's own.
    let node = from(LOCAL[1]);
    for (hook, frame) in [
        (Hook::Egress, node.tcp("S", b"")),
        (Hook::Egress, node.udp(b"x")),
        (Hook::Egress, from(LOCAL[2]).udp(b"x")),
        (Hook::External, to_node.udp(b"x")),
        (Hook::Egress, from("10.244.1.2:40000").tcp("A", b"x")),
        (
            Hook::External,
            Builder::new(outside, "198.51.100.8:80").tcp("A", b"x"),
        ),
        // Connections of the node itself: no Service has this port of its address.
        (
            Hook::External,
            Builder::new(outside, "192.168.50.1:22").tcp("A", b"x"),
        ),
        (
            Hook::Egress,
            Builder::new("192.168.50.1:22", outside).tcp("A", b"x"),
        ),
        (
            Hook::Pod,
            Builder::new("10.244.1.9:12000", outside).tcp("A", b"x"),
        ),
    ] {
        let outcome = walks.run(hook, &frame);
        let found = (outcome.action, outcome.reason);
        assert_eq!(
            found,
            ("pass", Reason::NotOurs),
            "{hook:?} {}",
            describe(&frame)
        );
    }
    assert!(walks.host.connections.is_empty());
    // New connections are opened, and known ones continue.
    for (flags, data) in [("S", &b""[..]), ("A", b"x")] {
        let outcome = walks.run(Hook::External, &to_frontend.tcp(flags, data));
        assert_eq!(outcome.reason, Reason::ToBackend, "{flags}");
    }
    assert_eq!(
        walks.run(Hook::External, &to_frontend.udp(b"x")).reason,
        Reason::ToBackend
    );
}

#[test]
fn s186_an_agent_that_was_killed_lets_nothing_wait_for_long() {
    let reply = Builder::new(LOCAL[2], "198.51.100.9:5060").tcp("A", b"x");
    let mut state = state();
    for until in [0, 1, 5] {
        state.takeover = Takeover::copying_until(until);
        let mut walks = Walks::with(&format!("s186-{until}"), state.clone());
        assert_eq!(
            walks.run(Hook::Egress, &reply).reason,
            Reason::NotOurs,
            "{until}"
        );
    }
}
