//! Names of maps, programs and pins.

/// Default folder of the pins; it has a folder for each ABI version.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/headgate";

/// `Addr` → `AddressEntry`, hash. The agent writes.
pub const ADDRESSES: &str = "ADDRESSES";
/// `FrontendKey` → `FrontendEntry`, hash. The agent writes.
pub const FRONTENDS: &str = "FRONTENDS";
/// Service id → `ServiceEntry`, array. The agent writes.
pub const SERVICES: &str = "SERVICES";
/// Service id → `ServiceLabel`, array. The agent writes; no program reads.
pub const SERVICE_LABELS: &str = "SERVICE_LABELS";
/// Slot → backend id, array. The agent writes.
pub const SLOTS: &str = "SLOTS";
/// Backend id → `BackendEntry`, array. The agent writes.
pub const BACKENDS: &str = "BACKENDS";
/// `BackendKey` → backend id, hash: the backends of this node. The agent writes.
pub const LOCAL_BACKENDS: &str = "LOCAL_BACKENDS";
/// `BackendKey` → nothing, hash: the backends whose replies may be of a connection that is not copied yet. The agent
/// writes.
pub const PAUSED_BACKENDS: &str = "PAUSED_BACKENDS";
/// `RangeKey` → nothing, longest prefix. The agent writes.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
/// `MemberKey` → nothing, hash. The agent writes.
pub const AFFINITY_MEMBERS: &str = "AFFINITY_MEMBERS";
/// `AffinityKey` → `AffinityEntry`, LRU hash. Programs write.
pub const AFFINITY: &str = "AFFINITY";
/// Number of a cgroup → nothing, hash: pods whose sockets are left to the packet path. The agent writes.
pub const LEFT_CGROUPS: &str = "LEFT_CGROUPS";
/// `FlowKey` → `CtEntry`, LRU hash. Programs write, the agent sweeps.
pub const CONNTRACK: &str = "CONNTRACK";
/// `SocketKey` → `SocketEntry`, hash. Programs write, the agent sweeps.
pub const SOCKETS: &str = "SOCKETS";
/// 0 → `Takeover`, array. The agent and `cleanup` write.
pub const TAKEOVER: &str = "TAKEOVER";
/// `FragmentKey` → `FragmentEntry`, LRU hash. Programs write.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Device index modulo `LINKS` → `LinkEntry`, array. Programs write.
pub const LINKS: &str = "LINKS";
/// Device index → `SourceEntry`, hash. The agent writes.
pub const SOURCES: &str = "SOURCES";
/// Device index → the device, hash: what XDP sends to. The agent writes.
pub const XDP_DEVICES: &str = "XDP_DEVICES";
/// `ServiceRange`, array. The agent writes.
pub const SERVICE_RANGES: &str = "SERVICE_RANGES";
/// `ListenerKey` → socket, sock hash. The L7 proxy writes; the kernel removes closed sockets.
pub const LISTENERS: &str = "LISTENERS";
/// `Reason` → packets, per-CPU array. Programs write.
pub const REASONS: &str = "REASONS";
/// Service id → `Traffic`, per-CPU array. Programs write.
pub const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
/// Backend id → `Traffic`, per-CPU array. Programs write.
pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
/// 0 → `MonitorEntry`, array. The monitor writes.
pub const MONITOR: &str = "MONITOR";
/// `Event`, ring buffer. Programs write.
pub const EVENTS: &str = "EVENTS";
/// 0 → `DatapathConfig` of the programs, array. The agent writes; no program reads.
pub const LOADED: &str = "LOADED";
/// 0 → the agent's state, as text, hash. The agent writes; no program reads.
pub const REPORT: &str = "REPORT";
/// 0 → the layouts of all maps, as text, hash. The agent writes; an agent of another version reads, and no program.
pub const LAYOUT: &str = "LAYOUT";

/// Every map, in the order the CLI lists them.
pub const MAPS: [&str; 29] = [
    ADDRESSES,
    FRONTENDS,
    SERVICES,
    SERVICE_LABELS,
    SLOTS,
    BACKENDS,
    LOCAL_BACKENDS,
    PAUSED_BACKENDS,
    SOURCE_RANGES,
    AFFINITY_MEMBERS,
    AFFINITY,
    CONNTRACK,
    SOCKETS,
    LEFT_CGROUPS,
    TAKEOVER,
    FRAGMENTS,
    LINKS,
    SOURCES,
    XDP_DEVICES,
    SERVICE_RANGES,
    LISTENERS,
    REASONS,
    SERVICE_TRAFFIC,
    BACKEND_TRAFFIC,
    MONITOR,
    EVENTS,
    LOADED,
    REPORT,
    LAYOUT,
];

/// Size of the values of [`REPORT`] and [`LAYOUT`], in bytes; zeros follow the text.
pub const TEXT_SIZE: usize = 1 << 14;

/// The read-only global of type `DatapathConfig`.
pub const CONFIG: &str = "CONFIG";
/// The read-only global of type `KernelHelpers`.
pub const HELPERS: &str = "HELPERS";

/// XDP on external devices.
pub const XDP_EXTERNAL: &str = "hg_xdp_external";
/// TC ingress on external devices.
pub const TC_EXTERNAL: &str = "hg_tc_external";
/// TC ingress on pod-facing devices.
pub const TC_POD: &str = "hg_tc_pod";
/// TC egress on external and pod-facing devices.
pub const TC_EGRESS: &str = "hg_tc_egress";
/// TC ingress on external devices whose frames have no link header.
pub const TC_L3: &str = "hg_tc_l3";
/// TC egress on these devices.
pub const TC_L3_EGRESS: &str = "hg_tc_l3_egress";
/// Every TC program.
pub const TC: [&str; 5] = [TC_EXTERNAL, TC_POD, TC_EGRESS, TC_L3, TC_L3_EGRESS];
/// Socket look-up of the node's network namespace.
pub const SK_LOOKUP: &str = "hg_sk_lookup";
/// Socket hook that forgets closed sockets.
pub const SOCK_RELEASE: &str = "hg_sock_release";
/// Socket hooks that translate, each with the name of the cgroup attach type.
pub const SOCKET_HOOKS: [&str; 8] = [
    "hg_connect4",
    "hg_connect6",
    "hg_sendmsg4",
    "hg_sendmsg6",
    "hg_recvmsg4",
    "hg_recvmsg6",
    "hg_getpeername4",
    "hg_getpeername6",
];
