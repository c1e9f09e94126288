//! Configuration that is fixed when the programs are loaded.

use crate::{Addr, Family, Port};

/// Number of cgroups whose sockets are left to the packet path.
pub const LEFT_CGROUPS: u32 = 1 << 12;

/// Which sockets of pods are left to the packet path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct PodSockets(pub u8);

impl PodSockets {
    /// None: all are balanced.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(1);
    /// Those of the cgroups in the map `LEFT_CGROUPS`.
    pub const OPTED_OUT: Self = Self(2);
}

/// Read-only global of every program. The verifier knows the values and removes the code of
/// features that are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct DatapathConfig {
    /// Source of IPv4 packets to backends on other nodes; unspecified if the node has no such
    /// address.
    pub snat_v4: Addr,
    /// The same for IPv6.
    pub snat_v6: Addr,
    /// Cookie of the node's network namespace: only it has node ports on loopback. 0 stands for the
    /// kernel's first namespace, whose cookie the programs read themselves.
    pub host_netns_cookie: u64,
    /// Seed of flow hashes, the same on every node of a cluster.
    pub seed: u32,
    /// First source port for SNAT.
    pub snat_port_first: Port,
    /// Last source port for SNAT.
    pub snat_port_last: Port,
    /// UDP port of encapsulated packets between nodes (DSR); 0 if DSR is off.
    pub dsr_port: Port,
    /// 1 if new connections to backends on other nodes are encapsulated, 0 if they get SNAT.
    pub forwards_by_dsr: u8,
    /// Which sockets of pods are left to the packet path, so that processes beside them see the Service's address.
    pub leaves_pods: PodSockets,
    /// 1 if replies of pods are routed here, with the source that the client knows, because rules of the node route
    /// packets of pods by their source; 0 if the kernel routes them.
    pub routes_replies: u8,
    /// Always zero.
    pub zero: [u8; 3],
    /// Lifetimes of connections without a packet.
    pub timeouts: Timeouts,
}

/// Seconds that a connection lives without a packet, where the operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Timeouts {
    /// TCP: established.
    pub tcp_established_s: u32,
    /// TCP: one end sent FIN.
    pub tcp_close_wait_s: u32,
    /// UDP: no reply yet.
    pub udp_s: u32,
    /// UDP: both directions were seen.
    pub udp_stream_s: u32,
}

impl Timeouts {
    /// The defaults of kube-proxy; for UDP those of `nf_conntrack`, which it leaves as they are.
    pub const DEFAULT: Self = Self {
        tcp_established_s: 24 * 3600,
        tcp_close_wait_s: 3600,
        udp_s: 30,
        udp_stream_s: 120,
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl DatapathConfig {
    /// Returns the address that this node sends from.
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

/// Read-only global of every program: which optional helpers the kernel has, each 1 or 0. The
/// verifier knows the values, and so accepts an unknown helper behind a 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct KernelHelpers {
    /// `bpf_ktime_get_coarse_ns` (Linux 5.11).
    pub coarse_clock: u32,
    /// `bpf_set_retval` at socket hooks (Linux 5.18).
    pub set_retval: u32,
    /// `bpf_xdp_get_buff_len`, and with it frames in several buffers at XDP (Linux 5.18).
    pub xdp_frags: u32,
}
