//! Every map. `headgate_abi::names` has owners and meanings; the loader replaces the sizes given
//! here.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup},
    macros::map,
    maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use headgate_abi::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry,
    DatapathConfig, FlowKey, FragmentEntry, FragmentKey, FrontendEntry, FrontendKey, KernelHelpers,
    LinkEntry, ListenerKey, MemberKey, MonitorEntry, PodSockets, RangeKey, Reason, ServiceEntry,
    ServiceLabel, ServiceRange, SocketEntry, SocketKey, SourceEntry, Takeover, Timeouts, Traffic,
    names::TEXT_SIZE,
};
use headgate_datapath::Memory;

#[map]
pub(crate) static ADDRESSES: HashMap<Addr, AddressEntry> = HashMap::with_max_entries(1 << 16, 0);

#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, FrontendEntry> =
    HashMap::with_max_entries(1 << 16, 0);

#[map]
pub(crate) static SERVICES: Array<ServiceEntry> = Array::with_max_entries(1 << 16, BPF_F_MMAPABLE);

#[map]
pub(crate) static SERVICE_LABELS: Array<ServiceLabel> =
    Array::with_max_entries(1 << 16, BPF_F_MMAPABLE);

#[map]
pub(crate) static SLOTS: Array<u32> = Array::with_max_entries(1 << 20, BPF_F_MMAPABLE);

#[map]
pub(crate) static BACKENDS: Array<BackendEntry> = Array::with_max_entries(1 << 17, BPF_F_MMAPABLE);

#[map]
pub(crate) static LOCAL_BACKENDS: HashMap<BackendKey, u32> =
    HashMap::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static PAUSED_BACKENDS: HashMap<BackendKey, u32> =
    HashMap::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static SOURCE_RANGES: LpmTrie<RangeKey, u32> =
    LpmTrie::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static AFFINITY_MEMBERS: HashMap<MemberKey, u32> =
    HashMap::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, AffinityEntry> =
    LruHashMap::with_max_entries(1 << 16, 0);

#[map]
pub(crate) static CONNTRACK: LruHashMap<FlowKey, CtEntry> =
    LruHashMap::with_max_entries(1 << 18, 0);

#[map]
pub(crate) static SOCKETS: HashMap<SocketKey, SocketEntry> = HashMap::with_max_entries(1 << 16, 0);

#[map]
pub(crate) static LEFT_CGROUPS: HashMap<u64, u32> =
    HashMap::with_max_entries(headgate_abi::LEFT_CGROUPS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static TAKEOVER: Array<Takeover> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> =
    LruHashMap::with_max_entries(1 << 14, 0);

#[map]
pub(crate) static LINKS: Array<LinkEntry> = Array::with_max_entries(headgate_abi::LINKS, 0);

#[map]
pub(crate) static SOURCES: HashMap<u32, SourceEntry> =
    HashMap::with_max_entries(headgate_abi::SOURCES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static XDP_DEVICES: DevMapHash =
    DevMapHash::with_max_entries(headgate_abi::XDP_DEVICES, 0);

#[map]
pub(crate) static SERVICE_RANGES: Array<ServiceRange> =
    Array::with_max_entries(headgate_abi::SERVICE_RANGES, BPF_F_MMAPABLE);

#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(1 << 10, 0);

#[map]
pub(crate) static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

#[map]
pub(crate) static SERVICE_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1 << 16, 0);

#[map]
pub(crate) static BACKEND_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1 << 17, 0);

#[map]
pub(crate) static MONITOR: Array<MonitorEntry> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

#[map]
pub(crate) static LOADED: Array<DatapathConfig> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static REPORT: HashMap<u32, [u8; TEXT_SIZE]> = HashMap::with_max_entries(1, 0);

#[map]
pub(crate) static LAYOUT: HashMap<u32, [u8; TEXT_SIZE]> = HashMap::with_max_entries(1, 0);

/// Memory that does not fit on the stack, which has 512 bytes for everything.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) walk: Memory,
    pub(crate) fib: bpf_fib_lookup,
    /// Bytes that a helper is about to write into a packet.
    pub(crate) bytes: [u8; 64],
}

/// One for each CPU; its contents between two runs do not matter.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's scratch; `None` only for the verifier.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: only XDP and TC programs ask, once a run. The kernel runs them with bottom halves
    // disabled, so on one CPU one run ends before the next begins.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Replaced by the loader; the verifier knows its value.
#[unsafe(no_mangle)]
static CONFIG: DatapathConfig = DatapathConfig {
    snat_v4: headgate_abi::Addr::from_words([0; 4]),
    snat_v6: headgate_abi::Addr::from_words([0; 4]),
    host_netns_cookie: 0,
    seed: 0,
    snat_port_first: headgate_abi::Port::new(0),
    snat_port_last: headgate_abi::Port::new(0),
    dsr_port: headgate_abi::Port::new(0),
    forwards_by_dsr: 0,
    leaves_pods: PodSockets::NONE,
    routes_replies: 0,
    zero: [0; 3],
    timeouts: Timeouts::DEFAULT,
};

/// Returns the configuration. The black box keeps the compiler from using the value above.
#[inline(always)]
pub(crate) fn config() -> &'static DatapathConfig {
    core::hint::black_box(&CONFIG)
}

/// Whether DSR is on. Programs ask this first and have the code with and without DSR apart, so that
/// the verifier removes the half that is off and does not walk it.
#[inline(always)]
pub(crate) fn has_dsr() -> bool {
    config().has_dsr()
}

/// Replaced by the loader; the verifier knows its value.
#[unsafe(no_mangle)]
static HELPERS: KernelHelpers = KernelHelpers {
    coarse_clock: 0,
    set_retval: 0,
    xdp_frags: 0,
};

/// Returns the optional helpers of the kernel; see [`config`].
#[inline(always)]
pub(crate) fn helpers() -> &'static KernelHelpers {
    core::hint::black_box(&HELPERS)
}

/// Counts one packet under `reason`. For XDP and TC.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the entry is this CPU's, and no other XDP or TC program runs on it meanwhile. A
        // socket hook that this run interrupts adds in one instruction.
        unsafe { *count += 1 }
    }
}

/// Counts one socket under `reason`. For socket hooks: they run in process context, where the
/// programs of a packet may interrupt them.
#[inline(always)]
pub(crate) fn count_socket(reason: Reason) {
    if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: it points to an entry of a map.
        unsafe { add_atomic(count, 1) }
    }
}

/// Adds to a counter in one instruction. Rust has no atomic addition for this target.
///
/// # Safety
///
/// `counter` points into a map value, at a multiple of eight bytes.
#[inline(always)]
pub(crate) unsafe fn add_atomic(counter: *mut u64, by: u64) {
    // SAFETY: the instruction writes the counter, which stays mapped.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {by}",
            counter = in(reg) counter,
            by = in(reg) by,
            options(nostack)
        );
    }
}
