//! XDP on external devices.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail},
    macros::xdp,
    programs::XdpContext,
};
use headgate_abi::Reason;
use headgate_datapath::{Hook, Packet, Verdict, walk};

use crate::{
    maps::{count_reason, scratch},
    tables::{BpfTables, Site},
};

/// A frame between `data` and `data_end`.
struct XdpPacket<'a> {
    context: &'a XdpContext,
}

/// VERIFIER: offsets into a packet must be bounded by a constant before they are added to the
/// pointer. No header we look at starts further in.
const MAX_OFFSET: usize = 0xff;

impl XdpPacket<'_> {
    /// The address of `len` readable and writable bytes at `offset`.
    #[inline(always)]
    fn at(&self, offset: u32, len: usize) -> Option<usize> {
        let start = self.context.data() + (offset as usize & MAX_OFFSET);
        if start + len > self.context.data_end() {
            return None;
        }
        Some(start)
    }
}

impl Packet for XdpPacket<'_> {
    const LEAVES_PARTIAL_CHECKSUMS: bool = true;

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.context.data_end() - self.context.data()) as u32
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], Reason> {
        match self.at(offset, N) {
            // SAFETY: `at` checked that N bytes are there.
            Some(start) => Ok(unsafe { (start as *const [u8; N]).read_unaligned() }),
            None => Err(Reason::Malformed),
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), Reason> {
        match self.at(offset, N) {
            // SAFETY: `at` checked that N bytes are there.
            Some(start) => unsafe { (start as *mut [u8; N]).write_unaligned(*bytes) },
            None => return Err(Reason::RewriteFailed),
        }
        Ok(())
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Result<(), Reason> {
        let delta = len as i32 - self.len() as i32;
        // SAFETY: the context is the program's own; every later access loads the pointers anew.
        match unsafe { bpf_xdp_adjust_tail(self.context.ctx, delta) } {
            0 => Ok(()),
            _ => Err(Reason::RewriteFailed),
        }
    }
}

#[xdp]
fn hg_xdp_external(context: XdpContext) -> u32 {
    let ifindex = context.ingress_ifindex() as u32;
    let Some(scratch) = scratch() else {
        return xdp_action::XDP_PASS;
    };
    let mut tables = BpfTables::new(&context, Site::Xdp { ifindex }, &raw mut scratch.fib);
    let mut packet = XdpPacket { context: &context };
    let outcome = walk(Hook::External, &mut packet, &mut tables, &mut scratch.notes);
    count_reason(outcome.reason);
    match outcome.verdict {
        Verdict::Pass | Verdict::RedirectNeighbour { .. } => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer => xdp_action::XDP_TX,
        Verdict::Redirect { ifindex: to } if to == ifindex => xdp_action::XDP_TX,
        // SAFETY: the helper only records the device.
        Verdict::Redirect { ifindex: to } => unsafe { bpf_redirect(to, 0) as u32 },
    }
}
