//! What is optional in a kernel, and what its absence costs. `tests/vm` tries it on old and new ones.

use aya::{
    programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported, is_program_supported},
};
use headgate_abi::KernelHelpers;

use crate::sys;

/// The oldest kernel that runs the programs.
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Something that newer kernels have and older ones do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// TC programs with links.
    Tcx,
    /// `bpf_set_retval` at socket hooks.
    SetRetval,
    /// `SO_NETNS_COOKIE`.
    NetnsCookie,
    /// `bpf_fib_lookup` tells the MTU.
    RouteMtu,
    /// `bpf_ktime_get_coarse_ns`.
    CoarseClock,
    /// Programs that look up sockets.
    SocketLookup,
}

impl Feature {
    /// All, the newest first.
    pub const ALL: [Self; 6] = [
        Self::Tcx,
        Self::SetRetval,
        Self::NetnsCookie,
        Self::RouteMtu,
        Self::CoarseClock,
        Self::SocketLookup,
    ];

    /// Its name, and the kernel that has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "TCX (Linux 6.6)",
            Self::SetRetval => "bpf_set_retval (Linux 5.18)",
            Self::NetnsCookie => "SO_NETNS_COOKIE (Linux 5.14)",
            Self::RouteMtu => "MTU in bpf_fib_lookup (Linux 5.12)",
            Self::CoarseClock => "bpf_ktime_get_coarse_ns (Linux 5.11)",
            Self::SocketLookup => "socket look-up (Linux 5.9)",
        }
    }

    /// What happens without it.
    pub fn cost(self) -> &'static str {
        match self {
            Self::Tcx => "programs of TC are filters of a clsact qdisc, which others may remove",
            Self::SetRetval => {
                "where a service refuses, connect fails with EPERM and not with ECONNREFUSED"
            }
            Self::NetnsCookie => "the agent has to run in the kernel's first network namespace",
            Self::RouteMtu => {
                "senders of too large packets are told to send 576 bytes, or 1280 over IPv6"
            }
            Self::CoarseClock => "reading the time takes longer, for each packet",
            Self::SocketLookup => "the L7 proxy gets no connections",
        }
    }

    /// Asks the kernel.
    pub fn is_there(self) -> Result<bool, ProgramError> {
        match self {
            // A kernel without it does not know the question.
            Self::Tcx => Ok(SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()),
            Self::SetRetval => {
                is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
            }
            Self::NetnsCookie => Ok(sys::netns_cookie().is_ok()),
            // The same change brought both.
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

/// What the programs are told. A helper that cannot be asked about is done without.
pub(crate) fn helpers() -> KernelHelpers {
    let has = |feature: Feature| u32::from(feature.is_there().unwrap_or(false));
    KernelHelpers {
        coarse_clock: has(Feature::CoarseClock),
        set_retval: has(Feature::SetRetval),
    }
}
