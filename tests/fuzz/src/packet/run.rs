//! Runs the steps of an input.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Result;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use headgate_abi::{CtEntry, CtFlags, Reason, Takeover, Traffic};
use headgate_datapath::{Hook, NextHop, Route};
use headgate_packets::{Builder, Host, Outcome, Replica, State, describe};
use headgate_prog::Kernel;

use super::{
    check::check,
    state::{STATES, state},
    steps::{Step, steps},
};
use crate::Runner;

/// The next hop of frames that the datapath redirects.
pub(crate) const NEXT: NextHop = NextHop {
    ifindex: 7,
    destination: [2, 0, 0, 0, 7, 1],
    source: [2, 0, 0, 0, 7, 2],
};
/// Ids of services are below this.
const SERVICES: u32 = 13;

/// Runs inputs on the host.
pub(crate) fn host() -> Result<Runner> {
    let states: Vec<State> = (0..STATES).map(state).collect();
    Ok(Box::new(move |input| {
        let (number, steps) = steps(input);
        let mut host = Host::new(states[usize::from(number % STATES)].clone());
        let mut last = Vec::new();
        let mut count = 0;
        for step in &steps {
            match step {
                Step::Wait(seconds) => host.now_s = host.now_s.wrapping_add((*seconds).into()),
                Step::Route(result, mtu) => {
                    host.route = Route {
                        result: *result,
                        next_hop: NEXT,
                        mtu: *mtu,
                    };
                }
                Step::Mark(marks) => {
                    let entries = host.connections.values_mut();
                    entries.for_each(|entry| mark(entry, *marks));
                }
                Step::Takeover(takeover) => host.state.takeover = *takeover,
                _ => {
                    let Some((hook, frame)) = frame(step, &last) else {
                        continue;
                    };
                    let outcome = host.run(hook, &frame);
                    check(hook, &frame, &outcome, &host);
                    count += 1;
                    remember(&mut last, hook, outcome);
                }
            }
        }
        count
    }))
}

/// Runs inputs on the host and in the kernel.
pub(crate) fn kernel() -> Result<Runner> {
    // Most inputs use these two states.
    let first = (0..2).map(|number| Ok((number, Kernels::new(number)?)));
    let mut kernels = first.collect::<Result<BTreeMap<u8, Kernels>>>()?;
    Ok(Box::new(move |input| {
        let (number, steps) = steps(input);
        let number = number % STATES;
        let kernels = kernels
            .entry(number)
            .or_insert_with(|| Kernels::new(number).expect("programs that load"));
        kernels.compare(number, &steps).expect("programs that run")
    }))
}

/// The programs of a state. XDP runs packets from outside, TC runs all.
struct Kernels {
    xdp: Kernel,
    tc: Kernel,
}

impl Kernels {
    fn new(number: u8) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("fuzz-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let state = state(number);
        Ok(Self {
            xdp: Kernel::new(&format!("{name}-xdp"), &state)?,
            tc: Kernel::new(&format!("{name}-tc"), &state)?,
        })
    }

    fn mark(&mut self, marks: u8) -> Result<()> {
        for kernel in [&mut self.xdp, &mut self.tc] {
            let connections = &mut kernel.maps.connections;
            let flows = connections.keys().collect::<Result<Vec<_>, _>>()?;
            for flow in flows {
                let mut entry = connections.get(&flow, 0)?;
                mark(&mut entry, marks);
                connections.insert(flow, entry, 0)?;
            }
        }
        Ok(())
    }

    fn take_over(&mut self, takeover: Takeover) {
        for kernel in [&self.xdp, &self.tc] {
            assert!(kernel.maps.takeover.set(0, takeover));
        }
    }

    fn compare(&mut self, number: u8, steps: &[Step]) -> Result<u64> {
        self.xdp.forget()?;
        self.tc.forget()?;
        let before = (traffic(&self.xdp)?, traffic(&self.tc)?);
        let mut host = Host::new(state(number));
        let is_external = |step: &Step| match step {
            Step::Frame { hook, .. } | Step::Reply { hook, .. } | Step::Error { hook, .. } => {
                *hook == Hook::External
            }
            Step::Wait(_) | Step::Route(..) | Step::Mark(_) | Step::Takeover(_) => true,
        };
        let has_xdp = steps.iter().all(is_external);
        // TC accepts partial checksums, so after one of these its state differs from the host's.
        let mut has_tc = true;
        let (mut last, mut count) = (Vec::new(), 0);
        self.take_over(Takeover::DONE);
        for step in steps {
            match step {
                Step::Mark(marks) => {
                    let entries = host.connections.values_mut();
                    entries.for_each(|entry| mark(entry, *marks));
                    self.mark(*marks)?;
                }
                Step::Takeover(takeover) => {
                    host.state.takeover = *takeover;
                    self.take_over(*takeover);
                }
                _ => {}
            }
            let Some((hook, frame)) = frame(step, &last) else {
                continue;
            };
            if !is_buffer(&frame) {
                continue;
            }
            let expected = host.run(hook, &frame);
            count += 1;
            has_tc &= !expected.is_left_to_tc();
            if has_xdp {
                same("XDP", &frame, &self.xdp.run_xdp(&frame), &expected);
            }
            if has_tc {
                same("TC", &frame, &self.tc.run_tc(hook, &frame), &expected);
            }
            remember(&mut last, hook, expected);
        }
        let connections = host.connections.len();
        let expected: BTreeMap<u32, Traffic> = host.traffic.into_inner().into_iter().collect();
        let kernels = [(has_xdp, &self.xdp, before.0), (has_tc, &self.tc, before.1)];
        for (_, kernel, before) in kernels.into_iter().filter(|(is_compared, ..)| *is_compared) {
            assert_eq!(kernel.connections(), connections, "connection entries");
            for ((id, before), (_, after)) in before.iter().zip(traffic(kernel)?) {
                let counted = Traffic {
                    connections: after.connections - before.connections,
                    packets: after.packets - before.packets,
                    bytes: after.bytes - before.bytes,
                };
                assert_eq!(
                    counted,
                    expected.get(id).copied().unwrap_or_default(),
                    "traffic of {id}"
                );
            }
        }
        Ok(count)
    }
}

/// Gives an entry marks of the agent, instead of those that it has. The agent marks no flow of the node.
fn mark(entry: &mut CtEntry, marks: u8) {
    const MARKS: CtFlags = CtFlags::REMOVED
        .union(CtFlags::KERNEL)
        .union(CtFlags::PAUSED);
    if !entry.flags.contains(CtFlags::OWN) {
        let marks = CtFlags::from_bits_truncate(marks).intersection(MARKS);
        entry.flags = entry.flags.difference(MARKS).union(marks);
    }
}

/// Whether the kernel makes a socket buffer of the frame in a test run: it wants the whole network header.
fn is_buffer(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    frame.len() >= least
}

fn traffic(kernel: &Kernel) -> Result<Vec<(u32, Traffic)>> {
    let services = 0..SERVICES;
    services
        .map(|id| Ok((id, kernel.maps.service_traffic(id)?)))
        .collect()
}

fn same(name: &str, frame: &[u8], actual: &Outcome, expected: &Outcome) {
    assert_eq!(
        (actual.action, actual.reason, &actual.frame),
        (expected.action, expected.reason, &expected.frame),
        "{name} (left) and host (right) differ for {}",
        describe(frame)
    );
}

/// Keeps a frame that gets replies: one that was forwarded, or that the node has sent.
fn remember(last: &mut Vec<u8>, hook: Hook, outcome: Outcome) {
    let is_sent = hook == Hook::Egress && outcome.reason == Reason::NotOurs;
    if is_sent || matches!(outcome.reason, Reason::ToBackend | Reason::ToClient) {
        *last = outcome.frame;
    }
}

/// The frame of a step, if there can be one.
fn frame(step: &Step, last: &[u8]) -> Option<(Hook, Vec<u8>)> {
    let changed = |mut frame: Vec<u8>, change: &(u16, u8)| {
        if let Some(byte) = frame.get_mut(usize::from(change.0)) {
            *byte ^= change.1;
        }
        frame
    };
    match step {
        Step::Frame { hook, frame } => Some((*hook, frame.clone())),
        Step::Reply {
            hook,
            flags,
            change,
        } => {
            let (builder, is_tcp) = answering(last)?;
            let letters = [(2, 'S'), (16, 'A'), (1, 'F'), (4, 'R')];
            let set = letters.iter().filter(|(bit, _)| flags & bit != 0);
            let flags: String = set.map(|(_, letter)| letter).collect();
            let frame = match is_tcp {
                true => builder.tcp(&flags, b"reply"),
                false => builder.udp(b"reply"),
            };
            Some((*hook, changed(frame, change)))
        }
        Step::Error { hook, kind, change } => {
            let (mut builder, _) = answering(last)?;
            // The error comes from a router on the path, or from the other end.
            if kind & 1 == 0 {
                let router = match builder.source {
                    SocketAddr::V4(_) => IpAddr::from([192, 0, 2, 9]),
                    SocketAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]),
                };
                builder.source.set_ip(router);
            }
            Some((*hook, changed(builder.unreachable(last), change)))
        }
        Step::Wait(_) | Step::Route(..) | Step::Mark(_) | Step::Takeover(_) => None,
    }
}

/// A builder for replies to a packet, and whether the packet is TCP.
fn answering(frame: &[u8]) -> Option<(Builder, bool)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match &packet.net {
        Some(NetSlice::Ipv4(v4)) => (
            v4.header().source_addr().into(),
            v4.header().destination_addr().into(),
        ),
        Some(NetSlice::Ipv6(v6)) => (
            v6.header().source_addr().into(),
            v6.header().destination_addr().into(),
        ),
        _ => return None,
    };
    let (from, to, is_tcp, numbers) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let len = tcp.payload().len() as u32;
            let controls = u32::from(tcp.syn()) + u32::from(tcp.fin());
            let received = tcp.sequence_number().wrapping_add(len + controls);
            let numbers = (tcp.acknowledgment_number(), received);
            (tcp.source_port(), tcp.destination_port(), true, numbers)
        }
        Some(TransportSlice::Udp(udp)) => {
            (udp.source_port(), udp.destination_port(), false, (0, 0))
        }
        _ => return None,
    };
    let builder = Builder {
        source: SocketAddr::new(destination, to),
        destination: SocketAddr::new(source, from),
        hop_limit: 64,
        numbers,
    };
    Some((builder, is_tcp))
}
