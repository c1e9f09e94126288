//! TC on external and pod-facing devices.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT,
        TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    macros::classifier,
    programs::TcContext,
};
use headgate_abi::Reason;
use headgate_datapath::{Family, Hook, L3, Packet, Receiver, Sum, Verdict, walk};

use crate::{
    bytes::{locate, read, write},
    maps::{count_reason, has_dsr, scratch},
    tables::{BpfTables, Site},
};

/// `if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;

/// A frame in a socket buffer. Reads are direct; writes use helpers, because with direct writes the
/// kernel copies the head of every buffer that the program sees.
struct SkbPacket<'a, const HAS_LINK: bool> {
    context: &'a TcContext,
    /// Memory that helpers copy from.
    staging: &'a mut [u8; 64],
}

/// The furthest header byte that the walk reads, but for ICMPv6 errors with, and about a packet with,
/// many extension headers.
const HEADERS: u32 = 256;
/// The same of an encapsulated packet.
const HEADERS_INSIDE: u32 = HEADERS + 52;

impl<const HAS_LINK: bool> SkbPacket<'_, HAS_LINK> {
    /// Bytes of the link header that the buffer lacks.
    const MISSING: u32 = if HAS_LINK { 0 } else { L3 };
}

impl<const HAS_LINK: bool> Packet for SkbPacket<'_, HAS_LINK> {
    const IS_BEFORE_TC: bool = false;
    const HAS_LINK: bool = HAS_LINK;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.context.len() + Self::MISSING
    }

    #[inline(always)]
    fn ethertype(&self) -> Result<u16, Reason> {
        if HAS_LINK {
            const ETHERTYPE: u32 = 12;
            return Ok(u16::from_be_bytes(self.load(ETHERTYPE)?));
        }
        // SAFETY: the kernel hands us a valid buffer. The field is in network order.
        Ok(u16::from_be(
            unsafe { (*self.context.skb.skb).protocol } as u16
        ))
    }

    #[inline(always)]
    fn set_link(&mut self, destination: &[u8; 6], source: &[u8; 6]) -> Result<(), Reason> {
        if !HAS_LINK {
            add_link(self.context)?;
        }
        let [a, b, c, d, e, f] = *destination;
        let [g, h, i, j, k, l] = *source;
        let addresses = [a, b, c, d, e, f, g, h, i, j, k, l];
        SkbPacket::<true> {
            context: self.context,
            staging: self.staging,
        }
        .store(0, &addresses)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], Reason> {
        match locate(
            self.context.data(),
            self.context.data_end(),
            offset.wrapping_sub(Self::MISSING),
            N,
        ) {
            // SAFETY: `locate` found N bytes there.
            Some(start) => Ok(unsafe { read(start) }),
            None => Err(Reason::Malformed),
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), Reason> {
        const { assert!(N <= 64) }
        let skb = self.context.skb.skb;
        let staged = self.staging.as_mut_ptr();
        // SAFETY: the staging area holds N bytes; the buffer is the program's own.
        let result = unsafe {
            write(staged as usize, bytes);
            bpf_skb_store_bytes(
                skb,
                offset.wrapping_sub(Self::MISSING),
                staged.cast(),
                N as u32,
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(Reason::RewriteFailed),
        }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Result<(), Reason> {
        // SAFETY: the buffer is the program's own; every later access reloads the pointers.
        match unsafe {
            bpf_skb_change_tail(self.context.skb.skb, len.wrapping_sub(Self::MISSING), 0)
        } {
            0 => Ok(()),
            _ => Err(Reason::RewriteFailed),
        }
    }

    #[inline(always)]
    fn grow(&mut self, family: Family, len: u32, is_stream: bool) -> Result<(), Reason> {
        let skb = self.context.skb.skb;
        // SAFETY: the kernel hands us a valid buffer.
        let segment = unsafe { (*skb).gso_size };
        let network = match family {
            Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
            Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        };
        // The kernel shortens segments of a stream by the outer headers, so that they still fit the
        // MTU. Datagrams must keep their length, and tiny segments fit anyway.
        let segments = match is_stream && segment > 2 * len {
            true => 0,
            false => BPF_F_ADJ_ROOM_FIXED_GSO,
        };
        let flags = u64::from(network | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | segments);
        // SAFETY: the buffer is the program's own; every later access reloads the pointers.
        match unsafe { bpf_skb_adjust_room(skb, len as i32, BPF_ADJ_ROOM_MAC, flags) } {
            0 => Ok(()),
            _ => Err(Reason::RewriteFailed),
        }
    }

    #[inline(always)]
    fn shrink(&mut self, len: u32) -> Result<(), Reason> {
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        let skb = self.context.skb.skb;
        // SAFETY: as above.
        match unsafe { bpf_skb_adjust_room(skb, -(len as i32), BPF_ADJ_ROOM_MAC, flags) } {
            0 => Ok(()),
            _ => Err(Reason::RewriteFailed),
        }
    }

    #[inline(always)]
    fn receiver(&self) -> Receiver {
        // SAFETY: the kernel hands us a valid buffer.
        match unsafe { (*self.context.skb.skb).pkt_type } {
            PACKET_HOST => Receiver::Host,
            PACKET_BROADCAST | PACKET_MULTICAST => Receiver::Group,
            _ => Receiver::Other,
        }
    }

    #[inline(always)]
    fn adjust_checksum(
        &mut self,
        offset: u32,
        addresses: Sum,
        ports: Sum,
        is_udp: bool,
    ) -> Result<(), Reason> {
        let skb = self.context.skb.skb;
        let offset = offset.wrapping_sub(Self::MISSING);
        let mangled = if is_udp {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        let pseudo = mangled | u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the buffer is the program's own; a size of zero in the flags means that the last
        // argument is a difference.
        let failed = unsafe {
            bpf_l4_csum_replace(skb, offset, 0, u64::from(addresses.fold32()), pseudo)
                | bpf_l4_csum_replace(skb, offset, 0, u64::from(ports.fold32()), mangled)
        };
        match failed {
            0 => Ok(()),
            _ => Err(Reason::RewriteFailed),
        }
    }
}

/// Gives a frame without link header one without addresses, as devices that have link headers need it.
#[inline(always)]
fn add_link(context: &TcContext) -> Result<(), Reason> {
    let skb = context.skb.skb;
    // SAFETY: the kernel hands us a valid buffer; every later access reloads the pointers.
    let failed = unsafe {
        let [hi, lo] = ((*skb).protocol as u16).to_ne_bytes();
        let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, hi, lo];
        bpf_skb_change_head(skb, L3, 0) | bpf_skb_store_bytes(skb, 0, header.as_ptr().cast(), L3, 0)
    };
    match failed {
        0 => Ok(()),
        _ => Err(Reason::RewriteFailed),
    }
}

#[inline(always)]
fn run<const HAS_LINK: bool>(context: &TcContext, hook: Hook) -> i32 {
    // The kernel has removed the tag from the frame. A tag with an id belongs to another network.
    const VLAN_ID: u32 = 0xfff;
    // SAFETY: the kernel hands us a valid buffer.
    if unsafe { (*context.skb.skb).vlan_tci } & VLAN_ID != 0 {
        count_reason(Reason::NotIp);
        return TC_ACT_UNSPEC;
    }
    match has_dsr() {
        true => run_with::<true, HAS_LINK>(context, hook),
        false => run_with::<false, HAS_LINK>(context, hook),
    }
}

#[inline(always)]
fn run_with<const DSR: bool, const HAS_LINK: bool>(context: &TcContext, hook: Hook) -> i32 {
    // SAFETY: the kernel hands us a valid buffer.
    let (ifindex, segment) = unsafe { ((*context.skb.skb).ifindex, (*context.skb.skb).gso_size) };
    let headers = match hook == Hook::External && DSR {
        true => HEADERS_INSIDE,
        false => HEADERS,
    };
    let linear = (context.data_end() - context.data()) as u32;
    if linear < headers && linear < context.len() {
        // SAFETY: the buffer is the program's own. If the call fails, loads fail.
        unsafe { bpf_skb_pull_data(context.skb.skb, context.len().min(headers)) };
    }
    let Some(scratch) = scratch() else {
        return TC_ACT_UNSPEC;
    };
    let mut tables =
        BpfTables::<DSR>::new(context, Site::Tc { ifindex, segment }, &raw mut scratch.fib);
    let staging = &mut scratch.bytes;
    let mut packet = SkbPacket::<HAS_LINK> { context, staging };
    let outcome = walk(hook, &mut packet, &mut tables, &mut scratch.walk);
    count_reason(outcome.reason);
    #[cfg(feature = "trace")]
    aya_log_ebpf::trace!(
        context,
        "tc: device {}, reason {}",
        ifindex,
        outcome.reason as u8
    );
    match outcome.verdict {
        // Other programs on the device run after this one.
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
        // SAFETY: the helpers only record the device.
        Verdict::Answer => unsafe { bpf_redirect(ifindex, 0) as i32 },
        // SAFETY: as above.
        Verdict::Redirect => unsafe { bpf_redirect(outcome.ifindex, 0) as i32 },
        Verdict::RedirectNeighbour => {
            if !HAS_LINK && add_link(context).is_err() {
                return TC_ACT_SHOT;
            }
            // SAFETY: as above; no parameters means that the kernel looks up the next hop.
            unsafe { bpf_redirect_neigh(outcome.ifindex, core::ptr::null_mut(), 0, 0) as i32 }
        }
    }
}

// VERIFIER: inlined into the functions that the macro makes, see `hg_xdp_external`.
#[classifier]
#[inline(always)]
fn hg_tc_external(context: TcContext) -> i32 {
    run::<true>(&context, Hook::External)
}

#[classifier]
#[inline(always)]
fn hg_tc_pod(context: TcContext) -> i32 {
    run::<true>(&context, Hook::Pod)
}

#[classifier]
#[inline(always)]
fn hg_tc_egress(context: TcContext) -> i32 {
    run::<true>(&context, Hook::Egress)
}

// Devices without link headers lead to other nodes and networks: WireGuard, IPIP, tun, ppp.
#[classifier]
#[inline(always)]
fn hg_tc_l3(context: TcContext) -> i32 {
    run::<false>(&context, Hook::External)
}

#[classifier]
#[inline(always)]
fn hg_tc_l3_egress(context: TcContext) -> i32 {
    run::<false>(&context, Hook::Egress)
}
