//! Programs that nothing attaches: what the benchmarks compare the others with.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{bytes::read, maps::CONNTRACK};

/// Does nothing.
#[xdp]
fn hg_baseline_pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The least that a load balancer must do for an IPv4 packet, written by hand: read addresses and
/// ports and look them up in the connection table.
#[xdp]
fn hg_baseline_lookup(context: XdpContext) -> u32 {
    const ADDRESSES: usize = 26;
    const PORTS: usize = 34;
    let data = context.data();
    if data + PORTS + 4 > context.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the packet reaches at least to the end of the ports.
    let (source, destination, [a, b, c, d]) = unsafe {
        (
            read(data + ADDRESSES),
            read(data + ADDRESSES + 4),
            read::<4>(data + PORTS),
        )
    };
    let flow = headgate_abi::FlowKey {
        source: headgate_abi::Addr::from_v4_word(u32::from_ne_bytes(source)),
        destination: headgate_abi::Addr::from_v4_word(u32::from_ne_bytes(destination)),
        source_port: headgate_abi::Port::from_word(u16::from_ne_bytes([a, b])),
        destination_port: headgate_abi::Port::from_word(u16::from_ne_bytes([c, d])),
        protocol: headgate_abi::Protocol::TCP,
        zero: [0; 3],
    };
    match CONNTRACK.get_ptr(flow) {
        Some(_) => xdp_action::XDP_TX,
        None => xdp_action::XDP_PASS,
    }
}
