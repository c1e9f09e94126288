//! Programs that are never attached: benchmarks compare the others with them.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use headgate_abi::{Addr, FlowKey, Port, Protocol};

use crate::{bytes::read, maps::CONNTRACK};

/// Does nothing.
#[xdp(frags)]
fn hg_baseline_pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Does nothing, at TC.
#[classifier]
fn hg_tc_baseline_pass(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The minimum of a load balancer for an IPv4 packet, written by hand: reads addresses and ports,
/// and looks them up in the connection table.
#[inline(always)]
fn is_known(data: usize, data_end: usize) -> bool {
    const ADDRESSES: usize = 26;
    const PORTS: usize = 34;
    if data + PORTS + 4 > data_end {
        return false;
    }
    // SAFETY: the packet reaches at least to the end of the ports.
    let (source, destination, [a, b, c, d]) = unsafe {
        (
            read(data + ADDRESSES),
            read(data + ADDRESSES + 4),
            read::<4>(data + PORTS),
        )
    };
    let flow = FlowKey {
        source: Addr::from_v4_word(u32::from_ne_bytes(source)),
        destination: Addr::from_v4_word(u32::from_ne_bytes(destination)),
        source_port: Port::from_word(u16::from_ne_bytes([a, b])),
        destination_port: Port::from_word(u16::from_ne_bytes([c, d])),
        protocol: Protocol::TCP,
        zero: [0; 3],
    };
    CONNTRACK.get_ptr(flow).is_some()
}

/// One look-up at XDP.
// All XDP programs are in one section, which the loader renames for older kernels.
#[xdp(frags)]
fn hg_baseline_lookup(context: XdpContext) -> u32 {
    match is_known(context.data(), context.data_end()) {
        true => xdp_action::XDP_TX,
        false => xdp_action::XDP_PASS,
    }
}

/// One look-up at TC.
#[classifier]
fn hg_tc_baseline_lookup(context: TcContext) -> i32 {
    match is_known(context.data(), context.data_end()) {
        true => TC_ACT_OK,
        false => TC_ACT_UNSPEC,
    }
}
