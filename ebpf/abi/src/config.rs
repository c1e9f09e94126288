//! What is fixed when the programs are loaded.

use crate::{Addr, Port};

/// Read-only global of every program. The verifier knows the values, so what is off costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DatapathConfig {
    /// Source of IPv4 packets that we send to backends on other nodes; unspecified if there is none.
    pub snat_v4: Addr,
    /// The same for IPv6.
    pub snat_v6: Addr,
    /// Cookie of the node's network namespace: loopback node ports exist only there.
    pub host_netns_cookie: u64,
    /// Seed of flow hashes, the same on every node of a cluster.
    pub seed: u32,
    /// First source port for SNAT.
    pub snat_port_first: Port,
    /// Last source port for SNAT.
    pub snat_port_last: Port,
}
