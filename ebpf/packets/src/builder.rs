//! Builds and checks frames.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep,
    SlicedPacket, TransportSlice, icmpv4, icmpv6,
};
use headgate_abi::{FlowKey, Port, Protocol};

const ETHERNET_HEADER: usize = 14;
/// Number of the first byte after SYN, of both ends.
const FIRST: u32 = 1001;

/// Builds frames between two addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Builder {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Number of the first byte after SYN that each end of a TCP connection sends: that of the next
    /// segment, and its acknowledgment.
    pub numbers: (u32, u32),
}

impl Builder {
    /// Frames from `source` to `destination`, as `address:port`.
    pub fn new(source: &str, destination: &str) -> Self {
        Self {
            source: source.parse().expect("a socket address"),
            destination: destination.parse().expect("a socket address"),
            hop_limit: 64,
            numbers: (FIRST, FIRST),
        }
    }

    /// Frames in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            numbers: (self.numbers.1, self.numbers.0),
            ..self
        }
    }

    /// The flow of these frames.
    pub fn flow(&self, protocol: Protocol) -> FlowKey {
        FlowKey {
            source: self.source.ip().into(),
            destination: self.destination.ip().into(),
            source_port: Port::new(self.source.port()),
            destination_port: Port::new(self.destination.port()),
            protocol,
            zero: [0; 3],
        }
    }

    fn network(&self) -> PacketBuilderStep<IpHeaders> {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                link.ipv4(source.octets(), destination.octets(), self.hop_limit)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                link.ipv6(source.octets(), destination.octets(), self.hop_limit)
            }
            _ => panic!("two families in one packet"),
        }
    }

    /// Frames of a connection that has sent `sent` bytes and received `received`; a FIN counts as one.
    #[must_use]
    pub fn after(self, sent: u32, received: u32) -> Self {
        Self {
            numbers: (FIRST.wrapping_add(sent), FIRST.wrapping_add(received)),
            ..self
        }
    }

    /// A TCP segment with these flags, out of `SAFR`.
    pub fn tcp(&self, flags: &str, payload: &[u8]) -> Vec<u8> {
        let step = self.network();
        let (next, acknowledgment) = self.numbers;
        let sequence = next.wrapping_sub(u32::from(flags.contains('S')));
        let mut step = step.tcp(self.source.port(), self.destination.port(), sequence, 4096);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(acknowledgment),
                'F' => step.fin(),
                'R' => step.rst(),
                other => panic!("no flag {other}"),
            };
        }
        let mut frame = Vec::new();
        step.write(&mut frame, payload).expect("writing to memory");
        frame
    }

    /// A UDP datagram.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let step = self.network();
        let step = step.udp(self.source.port(), self.destination.port());
        let mut frame = Vec::new();
        step.write(&mut frame, payload).expect("writing to memory");
        frame
    }

    /// A "port unreachable" from source to destination that quotes `offending`, a frame.
    pub fn unreachable(&self, offending: &[u8]) -> Vec<u8> {
        let quoted = &offending[ETHERNET_HEADER..];
        let quoted = &quoted[..quoted.len().min(128)];
        let step = self.network();
        let mut frame = Vec::new();
        match self.source {
            SocketAddr::V4(_) => step
                .icmpv4(Icmpv4Type::DestinationUnreachable(
                    icmpv4::DestUnreachableHeader::Port,
                ))
                .write(&mut frame, quoted),
            SocketAddr::V6(_) => step
                .icmpv6(Icmpv6Type::DestinationUnreachable(
                    icmpv6::DestUnreachableCode::Port,
                ))
                .write(&mut frame, quoted),
        }
        .expect("writing to memory");
        frame
    }

    /// An echo request.
    pub fn echo(&self) -> Vec<u8> {
        let header = IcmpEchoHeader { id: 1, seq: 1 };
        let step = self.network();
        let mut frame = Vec::new();
        match self.source {
            SocketAddr::V4(_) => step
                .icmpv4(Icmpv4Type::EchoRequest(header))
                .write(&mut frame, b"ping"),
            SocketAddr::V6(_) => step
                .icmpv6(Icmpv6Type::EchoRequest(header))
                .write(&mut frame, b"ping"),
        }
        .expect("writing to memory");
        frame
    }
}

/// Returns `source > destination protocol`, with the ports, flags or type of the transport header.
pub fn describe(frame: &[u8]) -> String {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return "unreadable".into();
    };
    let (source, destination): (IpAddr, IpAddr) = match &packet.net {
        Some(NetSlice::Ipv4(v4)) => (
            v4.header().source_addr().into(),
            v4.header().destination_addr().into(),
        ),
        Some(NetSlice::Ipv6(v6)) => (
            v6.header().source_addr().into(),
            v6.header().destination_addr().into(),
        ),
        _ => return "not IP".into(),
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags: String = [
                (tcp.syn(), 'S'),
                (tcp.ack(), 'A'),
                (tcp.fin(), 'F'),
                (tcp.rst(), 'R'),
            ]
            .into_iter()
            .filter_map(|(set, letter)| set.then_some(letter))
            .collect();
            format!(
                "{source} {} > {destination} {} tcp {flags}",
                tcp.source_port(),
                tcp.destination_port()
            )
        }
        Some(TransportSlice::Udp(udp)) => format!(
            "{source} {} > {destination} {} udp {}",
            udp.source_port(),
            udp.destination_port(),
            udp.length()
        ),
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("{source} > {destination} {:?}", icmp.icmp_type())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!("{source} > {destination} {:?}", icmp.icmp_type())
        }
        _ => format!("{source} > {destination}"),
    }
}

/// Whether the checksums of the outer headers are right, as a receiver computes them.
pub fn is_checksum_right(frame: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return false;
    };
    let header_is_right = match &packet.net {
        Some(NetSlice::Ipv4(v4)) => {
            v4.header().header_checksum() == v4.header().to_header().calc_header_checksum()
        }
        _ => true,
    };
    let sums_to_zero = |pseudo: Vec<u8>, segment: &[u8]| {
        let mut bytes = pseudo;
        bytes.extend(segment);
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        let sum: u64 = bytes
            .chunks_exact(2)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        sum.is_multiple_of(0xffff)
    };
    let (pseudo, segment) = match &packet.net {
        Some(NetSlice::Ipv4(v4)) => {
            let segment = v4.payload().payload;
            let mut pseudo = v4.header().source().to_vec();
            pseudo.extend(v4.header().destination());
            pseudo.extend([0, v4.header().protocol().0]);
            pseudo.extend((segment.len() as u16).to_be_bytes());
            if v4.header().protocol().0 == 1 {
                pseudo.clear();
            }
            (pseudo, segment)
        }
        Some(NetSlice::Ipv6(v6)) => {
            let segment = v6.payload().payload;
            let mut pseudo = v6.header().source().to_vec();
            pseudo.extend(v6.header().destination());
            pseudo.extend((segment.len() as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, v6.header().next_header().0]);
            (pseudo, segment)
        }
        _ => return false,
    };
    let is_udp_without = matches!(&packet.transport,
        Some(TransportSlice::Udp(udp)) if udp.checksum() == 0);
    header_is_right && (is_udp_without || sums_to_zero(pseudo, segment))
}

/// Returns frames with random bytes before `reach`, some cut or extended to a length in `lengths`:
/// the same frames in every run.
pub fn mutations(
    seeds: &[Vec<u8>],
    reach: usize,
    lengths: Range<usize>,
) -> impl Iterator<Item = Vec<u8>> {
    // A linear congruential generator (Knuth, MMIX).
    let mut random: u64 = 1;
    let mut next = move |bound: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    std::iter::repeat_with(move || {
        let mut frame = seeds[next(seeds.len())].clone();
        for _ in 0..next(4) {
            let at = next(frame.len().min(reach));
            frame[at] = next(256) as u8;
        }
        if next(8) == 0 {
            // TC test runs take nothing shorter than link and network header.
            frame.resize(lengths.start + next(lengths.len()), 0);
        }
        frame
    })
}
