//! Optional features of the kernel, and the cost of their absence. `tests/vm` tries old and new kernels.

use aya::{
    programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported, is_program_supported},
};
use headgate_abi::KernelHelpers;

use crate::sys;

/// The oldest kernel that runs the programs: major and minor version.
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// A feature of newer kernels that older ones can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// TC programs with links (TCX).
    Tcx,
    /// `bpf_set_retval` at socket hooks.
    SetRetval,
    /// XDP programs for frames in several buffers.
    XdpFrags,
    /// `SO_NETNS_COOKIE`.
    NetnsCookie,
    /// `bpf_fib_lookup` returns the MTU.
    RouteMtu,
    /// `bpf_ktime_get_coarse_ns`.
    CoarseClock,
    /// Programs that look up sockets.
    SocketLookup,
}

impl Feature {
    /// All features, the newest first.
    pub const ALL: [Self; 7] = [
        Self::Tcx,
        Self::SetRetval,
        Self::XdpFrags,
        Self::NetnsCookie,
        Self::RouteMtu,
        Self::CoarseClock,
        Self::SocketLookup,
    ];

    /// Returns the name of the feature, with the first kernel that has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "TCX (Linux 6.6)",
            Self::SetRetval => "bpf_set_retval (Linux 5.18)",
            Self::XdpFrags => "frames in several buffers at XDP (Linux 5.18)",
            Self::NetnsCookie => "SO_NETNS_COOKIE (Linux 5.14)",
            Self::RouteMtu => "MTU in bpf_fib_lookup (Linux 5.12)",
            Self::CoarseClock => "bpf_ktime_get_coarse_ns (Linux 5.11)",
            Self::SocketLookup => "socket look-up (Linux 5.9)",
        }
    }

    /// Returns what happens without the feature.
    pub fn cost(self) -> &'static str {
        match self {
            Self::Tcx => "programs of TC are filters of a clsact qdisc, which others may remove",
            Self::SetRetval => {
                "where a service refuses, connect fails with EPERM and not with ECONNREFUSED"
            }
            Self::XdpFrags => "devices with an MTU above one page have TC alone",
            Self::NetnsCookie => "the agent has to run in the kernel's first network namespace",
            Self::RouteMtu => {
                "senders of too large packets are asked to send 576 bytes, or 1280 over IPv6"
            }
            Self::CoarseClock => "reading the time takes longer, for each packet",
            Self::SocketLookup => "the L7 proxy gets no connections",
        }
    }

    /// Asks the kernel whether it has the feature.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to load the program that tries it.
    pub fn is_there(self) -> Result<bool, ProgramError> {
        match self {
            // A kernel without it does not know the query.
            Self::Tcx => Ok(SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()),
            Self::SetRetval => {
                is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
            }
            // Both came with the same changes of the kernel.
            Self::XdpFrags => {
                is_helper_supported(ProgramType::Xdp, BpfHelper::BPF_FUNC_xdp_get_buff_len)
            }
            Self::NetnsCookie => Ok(sys::netns_cookie().is_ok()),
            // Both came with the same change of the kernel.
            Self::RouteMtu => {
                is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_check_mtu)
            }
            Self::CoarseClock => is_helper_supported(
                ProgramType::SchedClassifier,
                BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
            ),
            Self::SocketLookup => is_program_supported(ProgramType::SkLookup),
        }
    }
}

/// Returns the helpers that programs may call. If the kernel does not answer, they do without.
pub(crate) fn helpers() -> KernelHelpers {
    let has = |feature: Feature| u32::from(feature.is_there().unwrap_or(false));
    KernelHelpers {
        coarse_clock: has(Feature::CoarseClock),
        set_retval: has(Feature::SetRetval),
        xdp_frags: has(Feature::XdpFrags),
    }
}
