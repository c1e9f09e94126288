//! Our connection tracking beside the kernel's: the same packets through kube-proxy's rules and through the walk, and the
//! state and lifetime of each connection at the end.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../common/mod.rs"]
mod common;
mod conversation;
mod kernel;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    thread,
    time::Duration,
};

use common::eventually;
use conversation::{Conversation, End, Event, PORTS, addresses};
use fastrand::Rng;
use headgate_abi::{
    AddressEntry, BackendEntry, CtState, DatapathConfig, FrontendFlags, FrontendKey, Location,
    Port, Protocol,
};
use headgate_datapath::{Hook, timeout_s};
use headgate_netns::rules::Family;
use headgate_packets::{Host, State};
use kernel::Kernel;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

const CONVERSATIONS: u16 = 2000;
const FIRST_PORT: u16 = 20_000;
/// The kernel calls a flow with answers a stream, 2 s after its first packet.
const STREAM: Duration = Duration::from_millis(2100);

fn host() -> Host {
    let mut state = State::default();
    let frontends = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        [Protocol::TCP, Protocol::UDP].map(|protocol| (addresses(family), protocol))
    });
    for (id, ([_, frontend, backend], protocol)) in (1..).zip(frontends) {
        let entry = BackendEntry {
            address: backend.into(),
            port: Port::new(PORTS[1]),
            protocol,
            location: Location::THIS_NODE,
        };
        state.backends.insert(id, entry);
        state.add_service(id, &[id], 0);
        let key = FrontendKey::new(frontend.into(), Port::new(PORTS[0]), protocol);
        state.add_frontend(key, id, FrontendFlags::default(), AddressEntry::SERVICE);
    }
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

/// Why a difference of states is meant; see the table in ARCHITECTURE.md.
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

const UDP: &str = "a flow with an answer has one lifetime, that of a stream";
const HALF: &str =
    "a half-closed connection has one lifetime, whether the FIN is acknowledged or not";
const LAST: &str =
    "a connection whose FINs are not both acknowledged has the lifetime of TIME_WAIT";
const UNACKNOWLEDGED: &str = "data without acknowledgment, or sent again, does not shorten a life";
const RESET: &str = "a reset that does not count does not shorten a life";
const CLOSED: &str = "a closed connection has the lifetime of TIME_WAIT, however it was closed";

/// Why a difference of the lifetimes of one state is meant: seconds of the kernel, and ours.
fn lifetime_reason(
    state: &str,
    protocol: Protocol,
    kernel: u32,
    ours: u32,
) -> Option<&'static str> {
    match (protocol, state, kernel, ours) {
        (Protocol::UDP, "established", 30, 120) => Some(UDP),
        (Protocol::TCP, "half-closed", 120, 3600) => Some(HALF),
        (Protocol::TCP, "closing", 30, 120) => Some(LAST),
        (Protocol::TCP, "established" | "half-closed", 300, _) => Some(UNACKNOWLEDGED),
        (Protocol::TCP, "established" | "half-closed", 10, _) => Some(RESET),
        (Protocol::TCP, "closed", 10, 120) => Some(CLOSED),
        _ => None,
    }
}

#[test]
fn s105_states_and_lifetimes_are_those_of_the_kernels_connection_tracking() {
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
    let mut send = |packet: &(End, Vec<u8>)| {
        kernel.send(packet);
        let hook = match packet.0 {
            End::Client => Hook::External,
            End::Backend => Hook::Egress,
        };
        host.run_tc(hook, &packet.1);
    };
    let all = || conversations.iter().map(|(_, one)| one);
    all().flat_map(|one| &one.script).for_each(&mut send);
    thread::sleep(STREAM);
    all().flat_map(|one| &one.late).for_each(&mut send);
    for (port, family) in [(8, Family::V4), (9, Family::V6)] {
        let mut last = Conversation::new(family, Protocol::TCP, port);
        last.send(End::Client, "S", 0);
        kernel.send(&last.script[0]);
    }
    eventually("the last packets are tracked", || {
        let tracked = kernel.tracked();
        tracked.contains_key(&8) && tracked.contains_key(&9)
    });
    let tracked = kernel.tracked();
    let config = DatapathConfig::default();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut same: HashMap<(Family, Protocol, &str, u32), usize> = HashMap::new();
    for (port, conversation) in &conversations {
        let Conversation {
            family, protocol, ..
        } = *conversation;
        let theirs = tracked.get(port);
        let ours = host.connections.get(&conversation.flow());
        let states = [theirs.map(|one| one.state), ours.map(|entry| entry.state)];
        let names = states.map(name);
        let lifetimes = [
            theirs.map(|one| one.lifetime_s),
            ours.map(|entry| timeout_s(&config, protocol, entry.state)),
        ]
        .map(Option::unwrap_or_default);
        let reason = match (names, lifetimes) {
            ([theirs, ours], _) if theirs != ours => reason(theirs, ours, &conversation.events),
            ([state, _], [theirs, ours]) if theirs != ours => {
                lifetime_reason(state, protocol, theirs, ours)
            }
            ([state, _], [lifetime, _]) => {
                *same.entry((family, protocol, state, lifetime)).or_default() += 1;
                continue;
            }
        };
        let reason = reason
            .unwrap_or_else(|| panic!("{names:?}, {lifetimes:?}:\n{}", conversation.describe()));
        // What the kernel still knows is not forgotten here.
        assert!(
            lifetimes[0] <= lifetimes[1] || reason == SYN,
            "{names:?}, {lifetimes:?}"
        );
        *reasons.entry(reason).or_default() += 1;
    }
    println!(
        "{CONVERSATIONS} connections, the same: {same:#?}\ndifferent for a reason: {reasons:#?}"
    );
    assert_eq!(
        reasons.keys().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([
            SYN,
            PORT,
            NUMBER,
            FIN,
            UDP,
            HALF,
            LAST,
            UNACKNOWLEDGED,
            RESET,
            CLOSED
        ])
    );
    for family in [Family::V4, Family::V6] {
        for (protocol, state, lifetime_s) in [
            (Protocol::TCP, "new", 120),
            (Protocol::TCP, "answered", 60),
            (Protocol::TCP, "established", 86_400),
            (Protocol::TCP, "half-closed", 3600),
            (Protocol::TCP, "closed", 120),
            (Protocol::UDP, "new", 30),
            (Protocol::UDP, "established", 120),
        ] {
            let found = (family, protocol, state, lifetime_s);
            assert!(same.contains_key(&found), "{found:?}");
        }
    }
}
