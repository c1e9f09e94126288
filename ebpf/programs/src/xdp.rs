//! XDP on external devices.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    macros::xdp,
    programs::XdpContext,
};
use headgate_abi::Reason;
use headgate_datapath::{Family, Hook, L3, Packet, Receiver, Verdict, walk};

use crate::{
    bytes::{locate, read, write},
    maps::{XDP_DEVICES, count_reason, has_dsr, helpers, scratch},
    tables::{BpfTables, Site},
};

/// A frame that begins between `data` and `data_end`. A jumbo frame continues in further buffers, which no step
/// of the walk reads.
struct XdpPacket<'a> {
    context: &'a XdpContext,
}

impl XdpPacket<'_> {
    /// Length of the first buffer in bytes.
    #[inline(always)]
    fn first_len(&self) -> u32 {
        (self.context.data_end() - self.context.data()) as u32
    }

    /// The address of `len` readable and writable bytes at `offset`.
    #[inline(always)]
    fn at(&self, offset: u32, len: usize) -> Option<usize> {
        locate(self.context.data(), self.context.data_end(), offset, len)
    }
}

impl Packet for XdpPacket<'_> {
    const IS_BEFORE_TC: bool = true;
    const HAS_LINK: bool = true;

    #[inline(always)]
    fn len(&self) -> u32 {
        match helpers().xdp_frags {
            0 => self.first_len(),
            // SAFETY: the context is the program's own.
            _ => unsafe { bpf_xdp_get_buff_len(self.context.ctx) as u32 },
        }
    }

    #[inline(always)]
    fn len_by(&self, claimed: u32) -> u32 {
        match self.first_len() {
            len if len >= claimed => len,
            _ => self.len(),
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], Reason> {
        match self.at(offset, N) {
            // SAFETY: `at` checked that N bytes are there.
            Some(start) => Ok(unsafe { read(start) }),
            None => Err(Reason::Malformed),
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), Reason> {
        match self.at(offset, N) {
            // SAFETY: `at` checked that N bytes are there.
            Some(start) => unsafe { write(start, bytes) },
            None => return Err(Reason::RewriteFailed),
        }
        Ok(())
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Result<(), Reason> {
        let delta = len as i32 - self.len() as i32;
        // SAFETY: the context is the program's own; every later access reloads the pointers.
        match unsafe { bpf_xdp_adjust_tail(self.context.ctx, delta) } {
            0 => Ok(()),
            _ => Err(Reason::NoTailroom),
        }
    }

    #[inline(always)]
    fn grow(&mut self, _family: Family, len: u32, _is_stream: bool) -> Result<(), Reason> {
        // SAFETY: the context is the program's own; every later access reloads the pointers.
        if unsafe { bpf_xdp_adjust_head(self.context.ctx, -(len as i32)) } != 0 {
            return Err(Reason::NoHeadroom);
        }
        let link: [u8; L3 as usize] = self.load(len)?;
        self.store(0, &link)
    }

    #[inline(always)]
    fn shrink(&mut self, len: u32) -> Result<(), Reason> {
        let link: [u8; L3 as usize] = self.load(0)?;
        // SAFETY: as above.
        if unsafe { bpf_xdp_adjust_head(self.context.ctx, len as i32) } != 0 {
            return Err(Reason::RewriteFailed);
        }
        self.store(0, &link)
    }

    #[inline(always)]
    fn receiver(&self) -> Receiver {
        Receiver::Other
    }
}

// VERIFIER: inlined into the function that the macro makes. A stack frame of its own would exceed
// the stack of older kernels (Linux 6.1): 512 bytes for all frames, each rounded up to 32.
#[xdp(frags)]
#[inline(always)]
fn hg_xdp_external(context: XdpContext) -> u32 {
    match has_dsr() {
        true => run::<true>(&context),
        false => run::<false>(&context),
    }
}

#[inline(always)]
fn run<const DSR: bool>(context: &XdpContext) -> u32 {
    let ifindex = context.ingress_ifindex() as u32;
    let Some(scratch) = scratch() else {
        return xdp_action::XDP_PASS;
    };
    let mut tables = BpfTables::<DSR>::new(context, Site::Xdp { ifindex }, &raw mut scratch.fib);
    let mut packet = XdpPacket { context };
    let outcome = walk(Hook::External, &mut packet, &mut tables, &mut scratch.walk);
    count_reason(outcome.reason);
    #[cfg(feature = "trace")]
    aya_log_ebpf::trace!(
        context,
        "xdp: device {}, reason {}",
        ifindex,
        outcome.reason as u8
    );
    match outcome.verdict {
        Verdict::Pass | Verdict::RedirectNeighbour => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer => xdp_action::XDP_TX,
        Verdict::Redirect if outcome.ifindex == ifindex => xdp_action::XDP_TX,
        // The frame is translated: if the device is gone by now, it is lost.
        Verdict::Redirect => {
            let dropped = u64::from(xdp_action::XDP_DROP);
            let result = XDP_DEVICES.redirect(outcome.ifindex, dropped);
            result.unwrap_or_else(|action| action)
        }
    }
}
