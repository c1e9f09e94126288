//! Our connection tracking beside the kernel's: the same segments through kube-proxy's rules and through the
//! walk, and the state of each connection at the end.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
};

use common::eventually;
use fastrand::Rng;
use headgate_abi::{
    AddressEntry, BackendEntry, CtState, FrontendFlags, FrontendKey, Location, Port, Protocol,
};
use headgate_datapath::Hook;
use headgate_dataplane::netfilter::translated;
use headgate_netns::{
    Netns,
    rules::{Service, load_nftables, nftables},
};
use headgate_packets::{Builder, Host, State, describe};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
    },
    unistd::Pid,
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 2);
const FRONTEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);
const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 2), 9376);
const ETHERNET_HEADER: usize = 14;
const CONVERSATIONS: u16 = 2000;
const FIRST_PORT: u16 = 20_000;

/// An end of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Client,
    Backend,
}

/// What a conversation contains that may explain a difference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// A segment with random numbers, with these flags.
    Spoofed(&'static str),
    /// A reset whose number lies in the window, but is not the next one.
    ResetInWindow,
    /// A segment that was lost before it came to the node.
    Lost,
    /// A reset by one of the ends.
    Reset,
}

/// Two ends of a connection, as the node sees them.
struct Conversation {
    frames: [Builder; 2],
    sent: [u32; 2],
    received: [u32; 2],
    has_closed: [bool; 2],
    events: BTreeSet<Event>,
    script: Vec<(End, Vec<u8>)>,
}

impl Conversation {
    fn random(port: u16, rng: &mut Rng) -> Self {
        let client = SocketAddrV4::new(CLIENT, port);
        let mut one = Self {
            frames: [
                Builder::new(&client.to_string(), &FRONTEND.to_string()),
                Builder::new(&BACKEND.to_string(), &client.to_string()),
            ],
            sent: [0; 2],
            received: [0; 2],
            has_closed: [false; 2],
            events: BTreeSet::new(),
            script: Vec::new(),
        };
        let opening = [(End::Client, "S"), (End::Backend, "SA"), (End::Client, "A")];
        // Some do not come to the end of the handshake.
        let steps = if rng.u8(..8) == 0 { rng.usize(1..3) } else { 3 };
        for (end, flags) in &opening[..steps] {
            one.send(*end, flags, 0);
        }
        if steps == 3 {
            for _ in 0..rng.u8(..12) {
                if one.step(rng) {
                    break;
                }
            }
        }
        one
    }

    /// Sends a segment that the other end receives.
    fn send(&mut self, end: End, flags: &'static str, len: usize) {
        let (own, other) = (end as usize, 1 - end as usize);
        let frame = self.frames[own].after(self.sent[own], self.received[own]);
        self.script.push((end, frame.tcp(flags, &vec![b'x'; len])));
        self.sent[own] += len as u32 + u32::from(flags.contains('F'));
        self.received[other] = self.sent[own];
    }

    /// Adds a segment that is not from the ends.
    fn spoof(&mut self, end: End, flags: &'static str, numbers: (u32, u32), event: Event) {
        let mut frame = self.frames[end as usize];
        frame.numbers = numbers;
        self.script.push((end, frame.tcp(flags, b"")));
        self.events.insert(event);
    }

    /// Adds a random step; returns whether it ends the conversation.
    fn step(&mut self, rng: &mut Rng) -> bool {
        let end = if rng.bool() {
            End::Client
        } else {
            End::Backend
        };
        let own = end as usize;
        let len = rng.usize(1..200);
        match rng.u8(..20) {
            0..=6 if !self.has_closed[own] => self.send(end, "A", len),
            7 if !self.has_closed[own] => {
                self.sent[own] += len as u32;
                self.events.insert(Event::Lost);
            }
            8..=10 if !self.has_closed[own] => {
                self.send(end, "FA", 0);
                self.has_closed[own] = true;
            }
            11 if !self.has_closed[own] => {
                self.send(end, "R", 0);
                self.events.insert(Event::Reset);
                return true;
            }
            12..=14 => {
                let flags = ["R", "RA", "FA", "S", "SA", "A"][rng.usize(..6)];
                let numbers = (rng.u32(1..), rng.u32(1..));
                self.spoof(end, flags, numbers, Event::Spoofed(flags));
            }
            15 => {
                let (next, acknowledged) = self.frames[own]
                    .after(self.sent[own], self.received[own])
                    .numbers;
                let numbers = (next + rng.u32(1..2000), acknowledged);
                self.spoof(end, "R", numbers, Event::ResetInWindow);
            }
            _ => self.send(end, "A", 0),
        }
        false
    }
}

/// The namespace whose kernel tracks, and sockets that send whole packets from both sides of it.
struct Kernel {
    router: Netns,
    _ends: [Netns; 2],
    sockets: [OwnedFd; 2],
}

impl Kernel {
    fn new(prefix: &str) -> Self {
        let router = Netns::new(&format!("{prefix}r")).unwrap();
        let ends = [("clients", 9), ("pods", 1)].map(|(device, network)| {
            let end = Netns::new(&format!("{prefix}{network}")).unwrap();
            // Without neighbour discovery no packet waits, and overtakes another.
            let (near, far) = (format!("02::{network}:1"), format!("02::{network}:2"));
            let [near, far] = [near, far].map(|link| link.replace("::", ":00:00:00:"));
            let name = end.name();
            let commands = format!(
                "link add dev {device} address {near} type veth peer name eth0 address {far} netns {name}\n\
                 addr add 10.244.{network}.1/24 dev {device}\nlink set {device} up\n\
                 neigh add 10.244.{network}.2 lladdr {far} dev {device}"
            );
            router.batch(&commands).unwrap();
            let commands = format!(
                "addr add 10.244.{network}.2/24 dev eth0\nlink set eth0 up\n\
                 neigh add 10.244.{network}.1 lladdr {near} dev eth0\n\
                 route add default via 10.244.{network}.1"
            );
            end.batch(&commands).unwrap();
            // The kernels of the ends know nothing of these connections, and would reset them.
            load_nftables(
                &end,
                "add table ip hg\n\
                 add chain ip hg input { type filter hook input priority 0 ; policy drop ; }\n",
            )
            .unwrap();
            end
        });
        router.sysctl(&[("ipv4/ip_forward", "1")]).unwrap();
        let service = Service {
            name: "web".into(),
            address: *FRONTEND.ip(),
            port: FRONTEND.port(),
            protocol: "tcp",
            node_port: None,
            endpoints: vec![BACKEND],
        };
        load_nftables(&router, &nftables(&[service], [10, 244, 1, 1].into())).unwrap();
        let sockets = [&ends[0], &ends[1]].map(|end| {
            end.run(|| {
                let (family, kind) = (AddressFamily::Inet, SockType::Raw);
                socket(family, kind, SockFlag::empty(), SockProtocol::Raw).unwrap()
            })
        });
        Self {
            router,
            _ends: ends,
            sockets,
        }
    }

    fn send(&self, end: End, frame: &[u8]) {
        let packet = &frame[ETHERNET_HEADER..];
        let to = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap());
        let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
        let socket = self.sockets[end as usize].as_raw_fd();
        sendto(socket, packet, &to, MsgFlags::empty()).unwrap();
    }

    /// The states by the client's port.
    fn states(&self) -> HashMap<u16, CtState> {
        let list = self.router.run(|| translated().unwrap());
        let states = list.iter();
        states
            .map(|one| (one.original.source_port.number(), one.state))
            .collect()
    }
}

fn host() -> Host {
    let mut state = State::default();
    let backend = BackendEntry {
        address: IpAddr::V4(*BACKEND.ip()).into(),
        port: Port::new(BACKEND.port()),
        protocol: Protocol::TCP,
        location: Location::THIS_NODE,
    };
    state.backends.insert(1, backend);
    state.add_service(1, &[1], 0);
    let key = FrontendKey::new(
        IpAddr::V4(*FRONTEND.ip()).into(),
        Port::new(FRONTEND.port()),
        Protocol::TCP,
    );
    state.add_frontend(key, 1, FrontendFlags::default(), AddressEntry::SERVICE);
    Host::new(state)
}

/// What both can say: the kernel does not say which end closed first.
fn name(state: Option<CtState>) -> &'static str {
    match state {
        None => "none",
        Some(CtState::CLIENT_CLOSED | CtState::BACKEND_CLOSED) => "half-closed",
        Some(state) => state.name(),
    }
}

const SYN: &str = "a SYN may open an ended connection again, which its ends may continue";
const PORT: &str = "a port is kept until both FINs are acknowledged";
const NUMBER: &str = "a reset counts only at the number that the other end expects next";
const FIN: &str = "a FIN counts only if the data before it was seen";

/// Why a difference is meant; see the table in ARCHITECTURE.md.
fn reason(kernel: &str, ours: &str, events: &BTreeSet<Event>) -> Option<&'static str> {
    let has = |event| events.contains(&event);
    match (kernel, ours) {
        _ if has(Event::Spoofed("S")) => Some(SYN),
        ("closed", "closing") => Some(PORT),
        ("closed", "established" | "half-closed")
            if events.iter().any(|event| *event != Event::Spoofed("A")) =>
        {
            Some(NUMBER)
        }
        ("half-closed", "established") | ("closing", "established" | "half-closed")
            if has(Event::Lost) =>
        {
            Some(FIN)
        }
        _ => None,
    }
}

#[test]
fn s105_states_are_those_of_the_kernels_connection_tracking() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: netfilter: namespaces need root");
        return;
    }
    let mut rng = Rng::with_seed(7);
    let kernel = Kernel::new("hgnf");
    let mut host = host();
    // Both ends send from one CPU, so that no packet overtakes another.
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let mut one = CpuSet::new();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap());
    one.set(first.unwrap()).unwrap();
    sched_setaffinity(this, &one).unwrap();
    let ports = FIRST_PORT..FIRST_PORT + CONVERSATIONS;
    let conversations: Vec<(u16, Conversation)> = ports
        .map(|port| (port, Conversation::random(port, &mut rng)))
        .collect();
    for (end, frame) in conversations.iter().flat_map(|(_, one)| &one.script) {
        kernel.send(*end, frame);
        let hook = match end {
            End::Client => Hook::External,
            End::Backend => Hook::Egress,
        };
        host.run_tc(hook, frame);
    }
    let last = Builder::new(
        &SocketAddrV4::new(CLIENT, 9).to_string(),
        &FRONTEND.to_string(),
    );
    kernel.send(End::Client, &last.tcp("S", b""));
    eventually("the last packet is tracked", || {
        kernel.states().contains_key(&9)
    });
    let states = kernel.states();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (port, conversation) in &conversations {
        let theirs = name(states.get(port).copied());
        let ours = name(
            host.connections
                .get(&conversation.frames[0].flow(Protocol::TCP))
                .map(|entry| entry.state),
        );
        if theirs != ours {
            let reason = reason(theirs, ours, &conversation.events);
            let script = || describe_all(&conversation.script);
            let reason = reason.unwrap_or_else(|| panic!("{theirs}, {ours}:\n{}", script()));
            *reasons.entry(reason).or_default() += 1;
        }
    }
    println!("{CONVERSATIONS} connections, different for a reason: {reasons:#?}");
    assert_eq!(
        reasons.keys().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([SYN, PORT, NUMBER, FIN])
    );
}

fn describe_all(script: &[(End, Vec<u8>)]) -> String {
    let lines = script
        .iter()
        .map(|(end, frame)| format!("{end:?} {}\n", describe(frame)));
    lines.collect()
}
