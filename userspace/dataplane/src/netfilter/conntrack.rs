//! Connections that the kernel tracks (`nf_conntrack_netlink`).

use std::{io, net::IpAddr};

use headgate_abi::{Addr, CtEntry, CtState, DatapathConfig, FlowKey, Port, Protocol};
use headgate_datapath::{mirrored, timeout_s};
use netlink_packet_core::DefaultNla;

use super::{HEADER, attribute, find, list, message, nested, open, removed};
use crate::netlink::RawMessage;

const CTNETLINK: u16 = 1;
/// Commands (`IPCTNL_MSG_CT_…`).
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;

/// Attributes of a connection (`CTA_…`).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const NAT_SOURCE: u16 = 6;
const TIMEOUT: u16 = 7;
const NAT_DESTINATION: u16 = 13;
const ZONE: u16 = 18;
const STATUS_MASK: u16 = 26;
/// Of a tuple (`CTA_TUPLE_…`, `CTA_IP_…`, `CTA_PROTO_…`).
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4: [u16; 2] = [1, 2];
const IP_V6: [u16; 2] = [3, 4];
const PROTOCOL_NUMBER: u16 = 1;
const PORTS: [u16; 2] = [2, 3];
/// Of a TCP connection (`CTA_PROTOINFO_TCP…`).
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS: [u16; 2] = [4, 5];
/// Of a translation (`CTA_NAT_…`, `CTA_PROTONAT_…`).
const NAT_V4: [u16; 2] = [1, 2];
const NAT_PROTOCOL: u16 = 3;
const NAT_V6: [u16; 2] = [4, 5];
const NAT_PORTS: [u16; 2] = [1, 2];

/// Bits of the status (`IPS_…`).
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const HAS_DNAT: u32 = 1 << 5;

/// `IP_CT_TCP_FLAG_BE_LIBERAL`: no packet is invalid for its sequence number.
const LIBERAL: u8 = 8;

/// A connection that the kernel tracks, and translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelConnection {
    /// The client's packets before translation.
    pub original: FlowKey,
    /// The replies before translation.
    pub reply: FlowKey,
    /// Its state.
    pub state: CtState,
    /// Seconds until the kernel forgets it, without a packet; 0 if the kernel does not say it.
    pub timeout_s: u32,
}

impl KernelConnection {
    /// Returns the translation of the client's packets, as an entry of our own table has it.
    pub fn entry(&self, service: u32, backend: u32, seen_s: u32) -> CtEntry {
        CtEntry {
            source: self.reply.destination,
            destination: self.reply.source,
            source_port: self.reply.destination_port,
            destination_port: self.reply.source_port,
            service,
            backend,
            seen_s,
            state: self.state,
            ..CtEntry::default()
        }
    }

    /// Returns the connection that an entry of our own table for the client's packets stands for, as long as the entry
    /// would live from now on.
    pub fn of(config: &DatapathConfig, flow: &FlowKey, entry: &CtEntry) -> Self {
        Self {
            original: *flow,
            reply: mirrored(flow, entry).0,
            state: entry.state,
            timeout_s: timeout_s(config, flow.protocol, entry.state),
        }
    }
}

/// Returns the TCP and UDP connections whose destination the kernel translates, in this thread's network
/// namespace, without those of other conntrack zones.
///
/// # Errors
///
/// If the kernel refuses the list: `CAP_NET_ADMIN` is missing. A kernel without connection tracking has none.
pub fn translated() -> io::Result<Vec<KernelConnection>> {
    // Kernels before 5.19 ignore the filter.
    let filter = [STATUS, STATUS_MASK].map(|kind| attribute(kind, HAS_DNAT.to_be_bytes()));
    let list = list(message(CTNETLINK, GET, 0, &filter))?;
    Ok(list.iter().filter_map(connection).collect())
}

fn connection(message: &RawMessage) -> Option<KernelConnection> {
    let attributes = message.body.get(HEADER..)?;
    let status = u32::from_be_bytes(find(attributes, STATUS)?.try_into().ok()?);
    if status & HAS_DNAT == 0 || find(attributes, ZONE).is_some() {
        return None;
    }
    let original = flow(&find(attributes, ORIGINAL)?)?;
    let state = match original.protocol {
        Protocol::TCP => tcp_state(attributes)?,
        _ if status & SEEN_REPLY == 0 => CtState::NEW,
        _ => CtState::ESTABLISHED,
    };
    let timeout_s = find(attributes, TIMEOUT).and_then(|bytes| bytes.try_into().ok());
    Some(KernelConnection {
        original,
        reply: flow(&find(attributes, REPLY)?)?,
        state,
        timeout_s: timeout_s.map_or(0, u32::from_be_bytes),
    })
}

/// Reads `enum tcp_conntrack`.
fn tcp_state(attributes: &[u8]) -> Option<CtState> {
    let info = find(attributes, PROTOCOL_INFO)?;
    let state = find(&find(&info, INFO_TCP)?, TCP_STATE)?;
    Some(match state.first()? {
        1 => CtState::NEW,
        2 => CtState::ANSWERED,
        3 => CtState::ESTABLISHED,
        // One end has sent FIN; the kernel does not say which.
        4..=5 => CtState::CLIENT_CLOSED,
        6 => CtState::CLOSING,
        _ => CtState::CLOSED,
    })
}

/// Reads a tuple; `None` if it is not of TCP or UDP.
fn flow(tuple: &[u8]) -> Option<FlowKey> {
    let (ip, protocol) = (find(tuple, TUPLE_IP)?, find(tuple, TUPLE_PROTOCOL)?);
    let number = Protocol(*find(&protocol, PROTOCOL_NUMBER)?.first()?);
    if !matches!(number, Protocol::TCP | Protocol::UDP) {
        return None;
    }
    let address = |side: usize| {
        let v4 = find(&ip, IP_V4[side]).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        let v6 = find(&ip, IP_V6[side]).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let address = v4.map(IpAddr::from).or_else(|| v6.map(IpAddr::from))?;
        Some(Addr::from(address))
    };
    let port = |side: usize| {
        let bytes = find(&protocol, PORTS[side])?;
        Some(Port::new(u16::from_be_bytes(bytes.try_into().ok()?)))
    };
    Some(FlowKey {
        source: address(0)?,
        destination: address(1)?,
        source_port: port(0)?,
        destination_port: port(1)?,
        protocol: number,
        zero: [0; 3],
    })
}

fn family(flow: &FlowKey) -> u8 {
    match IpAddr::from(flow.destination) {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An address in one of two attributes, by its family.
fn address(kinds: [u16; 2], address: Addr) -> DefaultNla {
    match IpAddr::from(address) {
        IpAddr::V4(v4) => attribute(kinds[0], v4.octets()),
        IpAddr::V6(v6) => attribute(kinds[1], v6.octets()),
    }
}

fn port(kind: u16, port: Port) -> DefaultNla {
    attribute(kind, port.number().to_be_bytes())
}

fn tuple(kind: u16, flow: &FlowKey) -> DefaultNla {
    let ip = [
        address([IP_V4[0], IP_V6[0]], flow.source),
        address([IP_V4[1], IP_V6[1]], flow.destination),
    ];
    let protocol = [
        attribute(PROTOCOL_NUMBER, [flow.protocol.0]),
        port(PORTS[0], flow.source_port),
        port(PORTS[1], flow.destination_port),
    ];
    nested(
        kind,
        &[nested(TUPLE_IP, &ip), nested(TUPLE_PROTOCOL, &protocol)],
    )
}

/// Makes the kernel forget the connection of a flow. A missing one is as wanted.
///
/// # Errors
///
/// If the kernel refuses it: `CAP_NET_ADMIN` is missing.
pub fn delete(flow: &FlowKey) -> io::Result<()> {
    let order = message(CTNETLINK, DELETE, family(flow), &[tuple(ORIGINAL, flow)]);
    removed(open().and_then(|netlink| netlink.order(order)))
}

/// Makes the kernel track a connection, and translate it, as if its rules had done so with the first packet.
///
/// # Errors
///
/// `AlreadyExists` if the kernel tracks a connection with one of these flows; other errors if it refuses.
pub fn create(connection: &KernelConnection) -> io::Result<()> {
    let KernelConnection {
        original,
        reply,
        state,
        timeout_s,
    } = connection;
    let has_answer = *state != CtState::NEW;
    let answered = if has_answer { SEEN_REPLY | ASSURED } else { 0 };
    let translation = |kind: u16, to: Addr, to_port: Port| {
        let ports = NAT_PORTS.map(|kind| port(kind, to_port));
        nested(
            kind,
            &[
                address([NAT_V4[0], NAT_V6[0]], to),
                address([NAT_V4[1], NAT_V6[1]], to),
                nested(NAT_PROTOCOL, &ports),
            ],
        )
    };
    let mut attributes = vec![
        tuple(ORIGINAL, original),
        tuple(REPLY, &original.reversed()),
        attribute(STATUS, (CONFIRMED | answered).to_be_bytes()),
        attribute(TIMEOUT, timeout_s.to_be_bytes()),
        translation(NAT_DESTINATION, reply.source, reply.source_port),
        translation(NAT_SOURCE, reply.destination, reply.destination_port),
    ];
    if original.protocol == Protocol::TCP {
        let number = match *state {
            CtState::NEW => 1,
            CtState::ANSWERED => 2,
            CtState::ESTABLISHED => 3,
            CtState::CLOSING => 6,
            CtState::CLOSED => 7,
            // FIN_WAIT.
            _ => 4u8,
        };
        let mut info = vec![attribute(TCP_STATE, [number])];
        // The sequence numbers so far are unknown.
        info.extend(TCP_FLAGS.map(|kind| attribute(kind, [LIBERAL, LIBERAL])));
        attributes.push(nested(PROTOCOL_INFO, &[nested(INFO_TCP, &info)]));
    }
    let netlink = open()?;
    netlink.create(message(CTNETLINK, NEW, family(original), &attributes))
}

#[cfg(test)]
mod tests {
    use headgate_abi::{CtState, FlowKey, Port, Protocol};

    use super::super::bytes;
    use super::{
        INFO_TCP, ORIGINAL, PROTOCOL_INFO, REPLY, RawMessage, STATUS, TCP_STATE, TIMEOUT, ZONE,
        attribute, connection, nested, tuple,
    };

    fn flow(source: &str, destination: &str, ports: [u16; 2]) -> FlowKey {
        let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
        FlowKey {
            source: address(source),
            destination: address(destination),
            source_port: Port::new(ports[0]),
            destination_port: Port::new(ports[1]),
            protocol: Protocol::TCP,
            zero: [0; 3],
        }
    }

    #[test]
    fn translated_connections_are_read_as_they_are_written() {
        for [client, node, pod] in [
            ["192.0.2.9", "192.0.2.1", "10.244.1.2"],
            ["2001:db8::9", "2001:db8::1", "fd44::2"],
        ] {
            let original = flow(client, node, [40000, 30080]);
            let reply = flow(pod, node, [9376, 51000]);
            let info = nested(INFO_TCP, &[attribute(TCP_STATE, [3])]);
            let mut attributes = vec![
                tuple(ORIGINAL, &original),
                tuple(REPLY, &reply),
                attribute(STATUS, (32u32 | 2).to_be_bytes()),
                attribute(TIMEOUT, 86_399u32.to_be_bytes()),
                nested(PROTOCOL_INFO, &[info]),
            ];
            let message = |attributes: &[_]| {
                let mut body = vec![0; super::HEADER];
                body.extend(bytes(attributes));
                RawMessage { kind: 0x100, body }
            };
            let read = connection(&message(&attributes)).unwrap();
            assert_eq!((read.original, read.reply), (original, reply));
            assert_eq!((read.state, read.timeout_s), (CtState::ESTABLISHED, 86_399));
            attributes.push(attribute(ZONE, [0, 7]));
            assert_eq!(connection(&message(&attributes)), None);
        }
    }
}
