//! Makes packets: most are valid and for an existing frontend, some are changed, a few are noise.

use std::net::{IpAddr, SocketAddr};

use etherparse::Ipv4Header;
use fastrand::Rng;
use headgate_abi::{CtFlags, Takeover};
use headgate_datapath::Hook;
use headgate_packets::Builder;

use super::{
    state::{BACKEND_PORT, BACKENDS, FRONTENDS, PORTS, STATES},
    steps::{ROUTES, Step, input},
};
use crate::input::{mutate, noise, one};

/// Clients outside and inside the cluster, some not in the source ranges.
const CLIENTS: [&str; 5] = [
    "192.168.50.100",
    "198.51.100.7",
    "10.244.1.9",
    "fd50::100",
    "2001:db8::7",
];
/// Addresses with a special meaning.
const SPECIAL: [&str; 10] = [
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "::1",
    "::",
    "ff02::1",
    "::ffff:192.168.50.1",
    "::ffff:192.168.50.100",
    "::ffff:127.0.0.1",
];
/// Few ports, so that connections collide. The first is in every range for translated sources.
const CLIENT_PORTS: [u16; 4] = [10_000, 40_000, 40_001, BACKEND_PORT];
/// TCP flags.
const FLAGS: [&str; 9] = ["S", "S", "A", "SA", "FA", "R", "F", "", "SR"];
const LINK: usize = 14;

/// An input for the datapath on the host: any hook, any route, and time steps.
pub(crate) fn host(rng: &mut Rng) -> Vec<u8> {
    let state = rng.u8(..STATES);
    make(rng, state, |rng| match rng.u8(..16) {
        0 => Step::Wait(*one(rng, &[1, 31, 61, 121, 65_535])),
        1 | 2 => Step::Route(*one(rng, &ROUTES), *one(rng, &[0, 576, 1280, 1500])),
        3 => handover(rng),
        _ => {
            let hook = *one(
                rng,
                &[Hook::External, Hook::External, Hook::Pod, Hook::Egress],
            );
            packet(rng, hook)
        }
    })
}

/// An input for the kernel, with its own clock and without routes: only packets from outside, which XDP and
/// TC both get, or packets at every hook.
pub(crate) fn kernel(rng: &mut Rng) -> Vec<u8> {
    let hooks: &[Hook] = match rng.bool() {
        true => &[Hook::External],
        false => &[Hook::External, Hook::Pod, Hook::Egress],
    };
    // Programs are loaded for each state, which takes as long as thousands of packets.
    let state = match rng.u8(..128) {
        0 => rng.u8(..STATES),
        number => number % 2,
    };
    make(rng, state, |rng| match rng.u8(..16) {
        0 => handover(rng),
        _ => {
            let hook = *one(rng, hooks);
            packet(rng, hook)
        }
    })
}

/// Connections change hands: to the kernel, back, or to no backend.
fn handover(rng: &mut Rng) -> Step {
    let marks = [
        CtFlags::default(),
        CtFlags::KERNEL,
        CtFlags::PAUSED,
        CtFlags::REMOVED,
    ];
    match rng.bool() {
        true => Step::Mark(one(rng, &marks).bits()),
        false => Step::Takeover(Takeover(rng.u32(..3))),
    }
}

fn make(rng: &mut Rng, state: u8, step: impl Fn(&mut Rng) -> Step) -> Vec<u8> {
    let steps: Vec<Step> = (0..rng.usize(1..24)).map(|_| step(rng)).collect();
    let mut input = input(state, &steps);
    if rng.u8(..32) == 0 {
        mutate(rng, &mut input);
    }
    input
}

fn packet(rng: &mut Rng, hook: Hook) -> Step {
    let change = match rng.u8(..4) {
        0 => (rng.u16(..128), rng.u8(..)),
        _ => (0, 0),
    };
    match rng.u8(..8) {
        0..3 => Step::Reply {
            hook,
            flags: *one(rng, &[0x12, 0x10, 0x10, 0x11, 0x14, 0x02]),
            change,
        },
        3 => Step::Error {
            hook,
            kind: rng.u8(..),
            change,
        },
        _ => Step::Frame {
            hook,
            frame: frame(rng),
        },
    }
}

fn frame(rng: &mut Rng) -> Vec<u8> {
    if rng.u8(..32) == 0 {
        let len = rng.usize(..128);
        return noise(rng, len);
    }
    let mut frame = valid(rng);
    if rng.u8(..8) == 0 {
        fragment(rng, &mut frame);
    }
    if rng.u8(..8) == 0 {
        add_options(rng, &mut frame);
    }
    if rng.u8(..16) == 0 {
        // A VLAN tag.
        frame.splice(12..12, [0x81, 0, 0, 7]);
    }
    match rng.u8(..8) {
        // Ethernet padding.
        0 => frame.resize(frame.len().max(60), 0),
        1 | 2 => mutate(rng, &mut frame),
        _ => {}
    }
    frame
}

fn valid(rng: &mut Rng) -> Vec<u8> {
    let is_v6 = rng.bool();
    let address = |rng: &mut Rng, of: &[&str]| -> IpAddr {
        loop {
            let address: IpAddr = one(rng, of).parse().expect("an address");
            if address.is_ipv6() == is_v6 {
                return address;
            }
        }
    };
    let source = match rng.u8(..16) {
        0 => address(rng, &SPECIAL),
        1 => address(rng, &FRONTENDS),
        2 | 3 => address(rng, &BACKENDS),
        _ => address(rng, &CLIENTS),
    };
    let destination = match rng.u8(..16) {
        0 => address(rng, &SPECIAL),
        1 => address(rng, &BACKENDS),
        2 => address(rng, &CLIENTS),
        _ => address(rng, &FRONTENDS),
    };
    let port = match rng.u8(..8) {
        0 => BACKEND_PORT,
        1 => *one(rng, &CLIENT_PORTS),
        _ => *one(rng, &PORTS),
    };
    let builder = Builder {
        source: SocketAddr::new(source, *one(rng, &CLIENT_PORTS)),
        destination: SocketAddr::new(destination, port),
        hop_limit: *one(rng, &[64, 64, 64, 255, 2, 1, 0]),
        // Near what the other segments have, or random, as one who is not on the path guesses.
        numbers: match rng.u8(..4) {
            0 => (rng.u32(..), rng.u32(..)),
            _ => (1001 + rng.u32(..3), 1001 + rng.u32(..3)),
        },
    };
    // From the port of a frontend, as the node itself may send.
    let builder = match rng.u8(..8) {
        0 => builder.reversed(),
        _ => builder,
    };
    let len = *one(rng, &[0, 0, 1, 2, 7, 100, 1200]);
    let payload = noise(rng, len);
    match rng.u8(..16) {
        0 => builder.echo(),
        1 => {
            let quoted = valid(rng);
            // If the quoted packet is of the other family, the quote is invalid.
            builder.unreachable(&quoted)
        }
        2..8 => {
            let mut frame = builder.udp(&payload);
            if rng.u8(..8) == 0 {
                let checksum = if is_v6 { 60 } else { 40 };
                frame[checksum..checksum + 2].fill(0);
            }
            frame
        }
        _ => builder.tcp(one::<&str>(rng, &FLAGS), &payload),
    }
}

/// Turns the frame into a fragment with one of two ids.
fn fragment(rng: &mut Rng, frame: &mut Vec<u8>) {
    let (offset, more) = *one(rng, &[(0u16, 1u16), (0, 1), (1, 0), (8, 1), (0x1fff, 0)]);
    let id = rng.u8(..2);
    if frame[LINK] >> 4 == 4 {
        let field = (offset | more << 13).to_be_bytes();
        frame.splice(LINK + 4..LINK + 8, [0, id, field[0], field[1]]);
        repair_v4(frame);
    } else {
        let field = (offset << 3 | more).to_be_bytes();
        let header = [frame[LINK + 6], 0, field[0], field[1], 0, 0, 0, id];
        let len = u16::from_be_bytes([frame[LINK + 4], frame[LINK + 5]]) + 8;
        frame.splice(LINK + 4..LINK + 6, len.to_be_bytes());
        frame[LINK + 6] = 44;
        frame.splice(LINK + 40..LINK + 40, header);
    }
}

/// Adds IPv4 options or an IPv6 extension header without effect.
fn add_options(rng: &mut Rng, frame: &mut Vec<u8>) {
    if frame[LINK] >> 4 == 4 {
        let words = rng.u8(1..=10);
        frame[LINK] += words;
        let len = u16::from_be_bytes([frame[LINK + 2], frame[LINK + 3]]) + u16::from(words) * 4;
        frame.splice(LINK + 2..LINK + 4, len.to_be_bytes());
        frame.splice(LINK + 20..LINK + 20, vec![1; usize::from(words) * 4]);
        repair_v4(frame);
    } else {
        let next = frame[LINK + 6];
        let len = u16::from_be_bytes([frame[LINK + 4], frame[LINK + 5]]) + 8;
        frame.splice(LINK + 4..LINK + 6, len.to_be_bytes());
        frame[LINK + 6] = *one(rng, &[0, 43, 60]);
        frame.splice(LINK + 40..LINK + 40, [next, 0, 1, 4, 0, 0, 0, 0]);
    }
}

fn repair_v4(frame: &mut Vec<u8>) {
    let Ok((header, _)) = Ipv4Header::from_slice(&frame[LINK..]) else {
        return;
    };
    let checksum = header.calc_header_checksum().to_be_bytes();
    frame.splice(LINK + 10..LINK + 12, checksum);
}
