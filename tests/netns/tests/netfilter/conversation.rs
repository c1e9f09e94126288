//! Random connections and flows, as the node sees them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use fastrand::Rng;
use headgate_abi::{FlowKey, Protocol};
use headgate_netns::rules::Family;
use headgate_packets::{Builder, describe};

/// The ports of the frontends, and of the backends.
pub(crate) const PORTS: [u16; 2] = [80, 9376];

/// Returns the client, the frontend and the backend of a family.
pub(crate) fn addresses(family: Family) -> [IpAddr; 3] {
    match family {
        Family::V4 => [[10, 244, 9, 2], [10, 96, 0, 10], [10, 244, 1, 2]]
            .map(|address| Ipv4Addr::from(address).into()),
        Family::V6 => [(0xfd44, 9, 2), (0xfd96, 0, 0x10), (0xfd44, 1, 2)]
            .map(|(first, second, last)| Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last).into()),
    }
}

/// An end of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Client,
    Backend,
}

/// What a conversation contains that may explain a difference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Event {
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
pub(crate) struct Conversation {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    frames: [Builder; 2],
    sent: [u32; 2],
    received: [u32; 2],
    has_closed: [bool; 2],
    pub(crate) events: BTreeSet<Event>,
    /// What they send one after the other.
    pub(crate) script: Vec<(End, Vec<u8>)>,
    /// What they send when the kernel calls a flow a stream: some seconds later.
    pub(crate) late: Vec<(End, Vec<u8>)>,
}

impl Conversation {
    pub(crate) fn random(port: u16, rng: &mut Rng) -> Self {
        let family = if rng.bool() { Family::V4 } else { Family::V6 };
        let protocol = match rng.u8(..4) {
            0 => Protocol::UDP,
            _ => Protocol::TCP,
        };
        let mut one = Self::new(family, protocol, port);
        match protocol {
            Protocol::TCP => one.connection(rng),
            _ => {
                one.script = one.datagrams(rng, End::Client);
                let first = if rng.bool() {
                    End::Client
                } else {
                    End::Backend
                };
                one.late = one.datagrams(rng, first);
                one.late.truncate(rng.usize(..4));
            }
        }
        one
    }

    /// A conversation without any packet.
    pub(crate) fn new(family: Family, protocol: Protocol, port: u16) -> Self {
        let [client, frontend, backend] = addresses(family);
        let client = SocketAddr::new(client, port);
        let [frontend, backend] = [(frontend, PORTS[0]), (backend, PORTS[1])].map(SocketAddr::from);
        let frames = [(client, frontend), (backend, client)]
            .map(|(from, to)| Builder::new(&from.to_string(), &to.to_string()));
        Self {
            family,
            protocol,
            frames,
            sent: [0; 2],
            received: [0; 2],
            has_closed: [false; 2],
            events: BTreeSet::new(),
            script: Vec::new(),
            late: Vec::new(),
        }
    }

    /// The flow of the client's packets.
    pub(crate) fn flow(&self) -> FlowKey {
        self.frames[0].flow(self.protocol)
    }

    pub(crate) fn describe(&self) -> String {
        let lines = { self.script.iter().chain(&self.late) }
            .map(|(end, frame)| format!("{end:?} {}\n", describe(frame)));
        lines.collect()
    }

    /// Some datagrams of both ends.
    fn datagrams(&self, rng: &mut Rng, first: End) -> Vec<(End, Vec<u8>)> {
        let rest = rng.usize(..4);
        // Half of them have no answer.
        let is_answered = rng.bool();
        let rest = (0..rest).map(|_| match is_answered && rng.bool() {
            true => End::Backend,
            false => End::Client,
        });
        let ends = [first].into_iter().chain(rest);
        ends.map(|end| (end, self.frames[end as usize].udp(b"x")))
            .collect()
    }

    fn connection(&mut self, rng: &mut Rng) {
        let opening = [(End::Client, "S"), (End::Backend, "SA"), (End::Client, "A")];
        // Some do not come to the end of the handshake.
        let steps = if rng.u8(..8) == 0 { rng.usize(1..3) } else { 3 };
        for (end, flags) in &opening[..steps] {
            self.send(*end, flags, 0);
        }
        if steps == 3 {
            for _ in 0..rng.u8(..12) {
                if self.step(rng) {
                    break;
                }
            }
        }
    }

    /// Sends a segment that the other end receives.
    pub(crate) fn send(&mut self, end: End, flags: &'static str, len: usize) {
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
