//! What is fixed when the programs are loaded.

use crate::{Addr, Family, Port};

/// Read-only global of every program. The verifier knows the values, so what is off costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct DatapathConfig {
    /// Source of IPv4 packets that we send to backends on other nodes; unspecified if there is none.
    pub snat_v4: Addr,
    /// The same for IPv6.
    pub snat_v6: Addr,
    /// Cookie of the node's network namespace: loopback node ports exist only there. 0 is the kernel's
    /// first namespace, whose cookie programs find out themselves.
    pub host_netns_cookie: u64,
    /// Seed of flow hashes, the same on every node of a cluster.
    pub seed: u32,
    /// First source port for SNAT.
    pub snat_port_first: Port,
    /// Last source port for SNAT.
    pub snat_port_last: Port,
    /// UDP port of encapsulated packets between nodes (DSR); 0 if none are sent or accepted.
    pub dsr_port: Port,
    /// 1 if new connections to backends on other nodes are encapsulated instead of SNAT, else 0.
    pub forwards_by_dsr: u8,
    /// Always zero.
    pub zero: [u8; 5],
}

impl DatapathConfig {
    /// The address that this node sends from.
    #[inline(always)]
    pub const fn node_address(&self, family: Family) -> Addr {
        match family {
            Family::V4 => self.snat_v4,
            Family::V6 => self.snat_v6,
        }
    }

    /// Whether packets are sent or accepted by DSR.
    #[inline(always)]
    pub const fn has_dsr(&self) -> bool {
        self.dsr_port.word() != 0
    }
}

/// Read-only global of every program: which optional helpers the kernel has, each 1 or 0. The verifier
/// knows the values, and so takes no offence at a helper that it does not know behind a 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct KernelHelpers {
    /// `bpf_ktime_get_coarse_ns` (Linux 5.11).
    pub coarse_clock: u32,
    /// `bpf_set_retval` at socket hooks (Linux 5.18).
    pub set_retval: u32,
}
