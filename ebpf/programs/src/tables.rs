//! The tables of the walk: maps and helpers.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
        BPF_NOEXIST, bpf_fib_lookup, xdp_md,
    },
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_fib_lookup as fib_lookup, bpf_get_current_ancestor_cgroup_id, bpf_get_prandom_u32,
            bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_xdp_get_buff_len,
        },
    },
    maps::{PerCpuArray, lpm_trie::Key},
};
use headgate_abi::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry, CtState,
    DatapathConfig, Event, EventSite, Fate, FlowKey, FragmentEntry, FragmentKey, FrontendEntry,
    FrontendKey, LINKS as LINKS_LEN, LinkEntry, MemberKey, MonitorEntry, Protocol, RangeKey,
    Reason, SERVICE_RANGES as SERVICE_RANGES_LEN, ServiceEntry, SourceEntry, Takeover, Traffic,
    seconds,
};
use headgate_datapath::{
    Added, Family, NextHop, Parsed, Route, RouteQuery, RouteResult, Tables, follow,
};

use crate::maps::{
    ADDRESSES, AFFINITY, AFFINITY_MEMBERS, BACKEND_TRAFFIC, BACKENDS, CONNTRACK, EVENTS, FRAGMENTS,
    FRONTENDS, LEFT_CGROUPS, LINKS, LOCAL_BACKENDS, MONITOR, PAUSED_BACKENDS, SERVICE_RANGES,
    SERVICE_TRAFFIC, SERVICES, SLOTS, SOURCE_RANGES, SOURCES, TAKEOVER, XDP_DEVICES, add_atomic,
    config, helpers,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const EEXIST: i32 = -17;
/// Every host accepts this many bytes (RFC 791), and hardly any link less.
const MIN_MTU_V4: u16 = 576;
/// RFC 8200.
const MIN_MTU_V6: u16 = 1280;

/// The hook of a program, as far as routing depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// XDP on this device: packets can leave by it, and by those in `XDP_DEVICES`.
    Xdp { ifindex: u32 },
    /// TC on this device. `segment` is the payload of each segment of a GSO frame, in bytes; else
    /// 0.
    Tc { ifindex: u32, segment: u32 },
    /// A socket hook: routes nothing.
    Socket,
}

/// Maps and helpers of one run of a program. Without `DSR`, DSR code is not compiled.
pub(crate) struct BpfTables<const DSR: bool> {
    context: *mut c_void,
    site: Site,
    fib: *mut bpf_fib_lookup,
    now_s: u32,
}

impl<const DSR: bool> BpfTables<DSR> {
    #[inline(always)]
    pub(crate) fn new<C: EbpfContext>(context: &C, site: Site, fib: *mut bpf_fib_lookup) -> Self {
        // SAFETY: the helpers have no preconditions.
        let now_ns = unsafe {
            match helpers().coarse_clock {
                0 => bpf_ktime_get_ns(),
                _ => bpf_ktime_get_coarse_ns(),
            }
        };
        Self {
            context: context.as_ptr(),
            site,
            fib,
            now_s: seconds(now_ns),
        }
    }
}

impl<const DSR: bool> BpfTables<DSR> {
    /// Index of the device that the packet is on; 0 at a socket.
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        match self.site {
            Site::Xdp { ifindex } | Site::Tc { ifindex, .. } => ifindex,
            Site::Socket => 0,
        }
    }
}

impl<const DSR: bool> BpfTables<DSR> {
    /// Whether XDP can send this frame to another device. Few drivers send one that is in several buffers, so TC does.
    #[inline(always)]
    fn is_in_reach(&self, ifindex: u32) -> bool {
        let frame: *mut xdp_md = self.context.cast();
        // SAFETY: this is XDP, so the context is of that type.
        let has_one_buffer = unsafe {
            helpers().xdp_frags == 0
                || bpf_xdp_get_buff_len(frame) as u32 == (*frame).data_end - (*frame).data
        };
        has_one_buffer && XDP_DEVICES.get_ifindex(ifindex).is_some()
    }
}

impl<const DSR: bool> Tables for BpfTables<DSR> {
    #[inline(always)]
    fn now_s(&self) -> u32 {
        self.now_s
    }

    #[inline(always)]
    fn config(&self) -> &DatapathConfig {
        config()
    }

    #[inline(always)]
    fn has_dsr(&self) -> bool {
        DSR
    }

    #[inline(always)]
    fn address(&self, address: &Addr) -> Option<AddressEntry> {
        // SAFETY: see `frontend`; here the entry is one word.
        unsafe { ADDRESSES.get(address).copied() }
    }

    #[inline(always)]
    fn is_in_service_range(&self, address: &Addr) -> bool {
        for index in 0..SERVICE_RANGES_LEN {
            let Some(range) = SERVICE_RANGES.get(index).filter(|range| range.is_used()) else {
                return false;
            };
            if range.contains(address) {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendEntry> {
        // SAFETY: the entry stays mapped and is copied at once. The kernel reuses elements of a
        // preallocated hash at once, so if the agent deletes this one and adds another within these
        // nanoseconds, the copy is another frontend's, or mixed: one new connection may then go to a
        // backend of the wrong Service, and stays there. Elements that are not preallocated would be
        // reused as fast since Linux 6.1.
        unsafe { FRONTENDS.get(key).copied() }
    }

    #[inline(always)]
    fn service(&self, id: u32) -> Option<ServiceEntry> {
        let entry = SERVICES.get_ptr(id)?;
        // SAFETY: the entry is aligned and stays mapped. Volatile, because the agent may store a
        // new table at any time and the word must be read once.
        Some(unsafe { entry.read_volatile() })
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<BackendEntry> {
        BACKENDS.get(id).copied()
    }

    #[inline(always)]
    fn local_backend(&self, key: &BackendKey) -> Option<u32> {
        // SAFETY: see `frontend`; here the entry is one word.
        unsafe { LOCAL_BACKENDS.get(key).copied() }
    }

    #[inline(always)]
    fn is_paused(&self, sender: &BackendKey) -> bool {
        // SAFETY: the value is not read.
        unsafe { PAUSED_BACKENDS.get(sender).is_some() }
    }

    #[inline(always)]
    fn admits(&self, service: u32, client: &Addr) -> bool {
        let address = *client;
        let key = Key::new(RangeKey::BITS, RangeKey { service, address });
        SOURCE_RANGES.get(&key).is_some()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        // SAFETY: the entry stays mapped and is copied at once. One that is mixed with its successor
        // names a backend, which must be eligible for the service.
        unsafe { AFFINITY.get(key).copied() }
    }

    #[inline(always)]
    fn put_affinity(&mut self, key: &AffinityKey, entry: &AffinityEntry) {
        let _forgotten = AFFINITY.insert(key, entry, 0);
    }

    #[inline(always)]
    fn is_member(&self, key: &MemberKey) -> bool {
        // SAFETY: the value is not read.
        unsafe { AFFINITY_MEMBERS.get(key).is_some() }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        // SAFETY: the entry stays mapped and is copied at once; for one that is reused meanwhile see
        // `connection`.
        unsafe { FRAGMENTS.get(key).copied() }
    }

    #[inline(always)]
    fn add_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        FRAGMENTS.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn put_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) {
        let _forgotten = FRAGMENTS.insert(key, entry, 0);
    }

    #[inline(always)]
    fn link(&self) -> LinkEntry {
        let ifindex = self.ifindex();
        let unknown = LinkEntry {
            ifindex,
            // As old as can be.
            seen_s: self.now_s.wrapping_sub(u32::MAX / 4),
            ..LinkEntry::default()
        };
        match LINKS.get_ptr(ifindex % LINKS_LEN) {
            // SAFETY: the entry stays mapped. One that another CPU writes meanwhile may be mixed with its
            // successor: the frame goes to TC, or the address was this machine's within a second.
            Some(entry) => match unsafe { *entry } {
                entry if entry.ifindex == ifindex => entry,
                _ => unknown,
            },
            None => unknown,
        }
    }

    #[inline(always)]
    fn put_link(&mut self, entry: &LinkEntry) {
        if let Some(place) = LINKS.get_ptr_mut(entry.ifindex % LINKS_LEN) {
            // SAFETY: see `link`.
            unsafe { *place = *entry }
        }
    }

    #[inline(always)]
    fn connection(&self, flow: &FlowKey) -> Option<CtEntry> {
        // SAFETY: the entry stays mapped. One that is evicted while it is copied may be mixed with its
        // successor. That takes an eviction and a reuse within nanoseconds, and costs one packet
        // sent to a wrong receiver, which refuses it; the next look-up misses.
        unsafe { CONNTRACK.get(flow).copied() }
    }

    /// In place, without a second lookup.
    #[inline(always)]
    fn observe(&mut self, parsed: &Parsed, entry: &mut CtEntry) -> bool {
        let flow = &parsed.flow;
        let Some(live) = CONNTRACK.get_ptr_mut(flow) else {
            return false;
        };
        // SAFETY: see `connection`.
        *entry = unsafe { *live };
        if follow(entry, parsed) {
            // SAFETY: see `touch_connection`. Packets of one direction are mostly on one CPU.
            unsafe {
                (*live).end = entry.end;
                (*live).acknowledged = entry.acknowledged;
            }
        }
        true
    }

    #[inline(always)]
    fn put_numbers(&mut self, flow: &FlowKey, entry: &CtEntry) {
        if let Some(live) = CONNTRACK.get_ptr_mut(flow) {
            // SAFETY: see `touch_connection`.
            unsafe {
                (*live).end = entry.end;
                (*live).acknowledged = entry.acknowledged;
                (*live).claimed = entry.claimed;
            }
        }
    }

    #[inline(always)]
    fn add_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Added {
        match CONNTRACK.insert(flow, entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => Added::Yes,
            Err(EEXIST) => Added::Exists,
            Err(_) => Added::Full,
        }
    }

    #[inline(always)]
    fn put_connection(&mut self, flow: &FlowKey, entry: &CtEntry) -> Result<(), Reason> {
        match CONNTRACK.insert(flow, entry, 0) {
            Ok(()) => Ok(()),
            Err(_) => Err(Reason::ConntrackFull),
        }
    }

    #[inline(always)]
    fn touch_connection(&mut self, flow: &FlowKey, state: CtState, seen_s: u32) -> bool {
        let Some(entry) = CONNTRACK.get_ptr_mut(flow) else {
            return false;
        };
        // SAFETY: see `connection`. Two CPUs may write at once; each value is one store, and either
        // order is a state that the connection was in.
        unsafe {
            (*entry).state = state;
            (*entry).seen_s = seen_s;
        }
        true
    }

    #[inline(always)]
    fn has_opted_out(&self) -> bool {
        /// Pods are at most this far below the root of the cgroups: six levels where a node is a container.
        const LEVELS: i32 = 8;
        for level in 1..=LEVELS {
            // SAFETY: the helper has no preconditions. Socket hooks run in the process.
            let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
            if cgroup == 0 {
                return false;
            }
            // SAFETY: the value is not read.
            if unsafe { LEFT_CGROUPS.get(cgroup).is_some() } {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn takeover(&self) -> Takeover {
        TAKEOVER.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Route {
        let (ifindex, total_len) = match self.site {
            Site::Xdp { ifindex } => (ifindex, query.total_len),
            Site::Tc { ifindex, segment } => (ifindex, len_on_wire(query, segment)),
            Site::Socket => return Route::STACK,
        };
        // SAFETY: at XDP and TC it points into the scratch, see `scratch`.
        let fib = unsafe { &mut *self.fib };
        // SAFETY: a C struct of integers, for which zero is a value.
        *fib = unsafe { core::mem::zeroed() };
        fib.l4_protocol = query.protocol.0;
        fib.sport = query.source_port.word();
        fib.dport = query.destination_port.word();
        fib.__bindgen_anon_1.tot_len = total_len;
        fib.ifindex = ifindex;
        match query.family {
            Family::V4 => {
                fib.family = AF_INET;
                fib.__bindgen_anon_2.tos = query.tos;
                fib.__bindgen_anon_3.ipv4_src = query.source.v4_word();
                fib.__bindgen_anon_4.ipv4_dst = query.destination.v4_word();
            }
            Family::V6 => {
                fib.family = AF_INET6;
                fib.__bindgen_anon_3.ipv6_src = query.source.words();
                fib.__bindgen_anon_4.ipv6_dst = query.destination.words();
            }
        }
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: the context is the program's own, the struct is initialized and of that size.
        let code = unsafe { fib_lookup(self.context, fib, size, 0) };
        let is_xdp = matches!(self.site, Site::Xdp { .. });
        let result = match code as u32 {
            BPF_FIB_LKUP_RET_SUCCESS
                if is_xdp && fib.ifindex != ifindex && !self.is_in_reach(fib.ifindex) =>
            {
                RouteResult::NotHere
            }
            BPF_FIB_LKUP_RET_SUCCESS => RouteResult::NextHop,
            BPF_FIB_LKUP_RET_NO_NEIGH if is_xdp => RouteResult::NotHere,
            BPF_FIB_LKUP_RET_NO_NEIGH => RouteResult::Neighbour,
            BPF_FIB_LKUP_RET_FRAG_NEEDED => RouteResult::TooBig,
            BPF_FIB_LKUP_RET_BLACKHOLE
            | BPF_FIB_LKUP_RET_UNREACHABLE
            | BPF_FIB_LKUP_RET_PROHIBIT => RouteResult::Unreachable,
            _ => RouteResult::Stack,
        };
        let next_hop = NextHop {
            ifindex: fib.ifindex,
            destination: fib.dmac,
            source: fib.smac,
        };
        // SAFETY: every member of the union is an integer.
        let mtu = match unsafe { fib.__bindgen_anon_1.mtu_result } {
            // Before Linux 5.12 the kernel does not return the MTU. The minimum of the family fits
            // every link.
            unchanged if unchanged == total_len => match query.family {
                Family::V4 => MIN_MTU_V4,
                Family::V6 => MIN_MTU_V6,
            },
            mtu => mtu,
        };
        Route {
            result,
            next_hop,
            mtu,
        }
    }

    #[inline(always)]
    fn source(&self, ifindex: u32) -> Option<SourceEntry> {
        // SAFETY: see `frontend`. The agent replaces an entry as a whole.
        unsafe { SOURCES.get(ifindex).copied() }
    }

    #[inline(always)]
    fn count(&self, service: u32, backend: u32, bytes: u32, opens: bool) {
        for (map, index) in [(&SERVICE_TRAFFIC, service), (&BACKEND_TRAFFIC, backend)] {
            match self.site {
                Site::Socket => count_connection(map, index),
                Site::Xdp { .. } | Site::Tc { .. } => add_traffic(map, index, bytes, opens),
            }
        }
    }

    #[inline(always)]
    fn emit(&self, reason: Reason, flow: &FlowKey, entry: &CtEntry) {
        let Some(monitor) = MONITOR.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: the entry stays mapped; the monitor replaces whole words.
        let MonitorEntry { until_s, share, .. } = unsafe { *monitor };
        // SAFETY: the helper has no preconditions.
        if until_s <= self.now_s || unsafe { bpf_get_prandom_u32() } > share {
            return;
        }
        let Some(mut record) = EVENTS.reserve::<Event>(0) else {
            // SAFETY: it points into a map, shared by all CPUs.
            unsafe { add_atomic(&raw mut (*monitor).lost, 1) };
            return;
        };
        let (site, ifindex) = match self.site {
            Site::Xdp { ifindex } => (EventSite::XDP, ifindex),
            Site::Tc { ifindex, .. } => (EventSite::TC, ifindex),
            Site::Socket => (EventSite::SOCKET, 0),
        };
        let is_forwarded = reason.fate() == Fate::Forward;
        let entry = if is_forwarded {
            *entry
        } else {
            CtEntry::default()
        };
        record.write(Event {
            // SAFETY: the helper has no preconditions.
            time_ns: unsafe { bpf_ktime_get_ns() },
            flow: *flow,
            source: entry.source,
            destination: entry.destination,
            source_port: entry.source_port,
            destination_port: entry.destination_port,
            service: entry.service,
            backend: entry.backend,
            ifindex,
            pid: match self.site {
                Site::Socket => (bpf_get_current_pid_tgid() >> 32) as u32,
                Site::Xdp { .. } | Site::Tc { .. } => 0,
            },
            reason: reason as u8,
            site,
            zero: [0; 2],
        });
        record.submit(0);
    }
}

/// Returns the length of a packet of TC on the wire. With zero the kernel checks the length itself;
/// it knows all but the outer headers that are to come.
#[inline(always)]
fn len_on_wire(query: &RouteQuery, segment: u32) -> u16 {
    const UDP_HEADERS_V4: u16 = 20 + 8;
    const UDP_HEADERS_V6: u16 = 40 + 8;
    match (query.outer_len, segment, query.inner_protocol) {
        (0, _, _) => 0,
        (_, 0, _) => query.total_len,
        // Re-segmented, see `SkbPacket::grow`.
        (_, _, Protocol::TCP) => 0,
        (outer_len, _, _) => {
            let headers = match query.family {
                Family::V4 => UDP_HEADERS_V4,
                Family::V6 => UDP_HEADERS_V6,
            };
            (segment as u16).saturating_add(headers + outer_len)
        }
    }
}

#[inline(always)]
fn add_traffic(map: &PerCpuArray<Traffic>, index: u32, bytes: u32, opens: bool) {
    if let Some(traffic) = map.get_ptr_mut(index) {
        // SAFETY: as in `count_reason`.
        unsafe {
            (*traffic).connections += u64::from(opens);
            (*traffic).packets += u64::from(bytes != 0);
            (*traffic).bytes += u64::from(bytes);
        }
    }
}

/// Counts a connection at a socket hook.
#[inline(always)]
fn count_connection(map: &PerCpuArray<Traffic>, index: u32) {
    if let Some(traffic) = map.get_ptr_mut(index) {
        // SAFETY: it points into a map.
        unsafe { add_atomic(&raw mut (*traffic).connections, 1) }
    }
}
