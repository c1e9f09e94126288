//! What each map contains.

use crate::names;

/// Contents of a map.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// Name of the map.
    pub map: &'static str,
    /// Kind of the map.
    pub kind: &'static str,
    /// Type of its keys: of [`LAYOUTS`](crate::LAYOUTS), or an integer.
    pub key: &'static str,
    /// Type of its values.
    pub value: &'static str,
}

const fn contents(
    map: &'static str,
    kind: &'static str,
    key: &'static str,
    value: &'static str,
) -> Contents {
    Contents {
        map,
        kind,
        key,
        value,
    }
}

/// Every map. With [`LAYOUTS`](crate::LAYOUTS) it is what [`RECORDED_LAYOUTS`] has as text.
pub const CONTENTS: [Contents; names::MAPS.len()] = [
    contents(names::ADDRESSES, "hash", "Addr", "AddressEntry"),
    contents(names::FRONTENDS, "hash", "FrontendKey", "FrontendEntry"),
    contents(names::SERVICES, "array", "u32", "ServiceEntry"),
    contents(names::SERVICE_LABELS, "array", "u32", "ServiceLabel"),
    contents(names::SLOTS, "array", "u32", "u32"),
    contents(names::BACKENDS, "array", "u32", "BackendEntry"),
    contents(names::LOCAL_BACKENDS, "hash", "BackendKey", "u32"),
    contents(names::PAUSED_BACKENDS, "hash", "BackendKey", "u32"),
    contents(names::SOURCE_RANGES, "trie", "RangeKey", "u32"),
    contents(names::AFFINITY_MEMBERS, "hash", "MemberKey", "u32"),
    contents(names::AFFINITY, "lru-hash", "AffinityKey", "AffinityEntry"),
    contents(names::CONNTRACK, "lru-hash", "FlowKey", "CtEntry"),
    contents(names::SOCKETS, "hash", "SocketKey", "SocketEntry"),
    contents(names::LEFT_CGROUPS, "hash", "u64", "u32"),
    contents(names::TAKEOVER, "array", "u32", "Takeover"),
    contents(names::FRAGMENTS, "lru-hash", "FragmentKey", "FragmentEntry"),
    contents(names::LINKS, "array", "u32", "LinkEntry"),
    contents(names::SOURCES, "hash", "u32", "SourceEntry"),
    contents(names::XDP_DEVICES, "devices", "u32", "u32"),
    contents(names::SERVICE_RANGES, "array", "u32", "ServiceRange"),
    contents(names::LISTENERS, "sockets", "ListenerKey", "u32"),
    contents(names::REASONS, "per-cpu-array", "u32", "u64"),
    contents(names::SERVICE_TRAFFIC, "per-cpu-array", "u32", "Traffic"),
    contents(names::BACKEND_TRAFFIC, "per-cpu-array", "u32", "Traffic"),
    contents(names::MONITOR, "array", "u32", "MonitorEntry"),
    contents(names::EVENTS, "ring", "none", "Event"),
    contents(names::LOADED, "array", "u32", "DatapathConfig"),
    contents(names::REPORT, "hash", "u32", "text"),
    contents(names::LAYOUT, "hash", "u32", "text"),
];

/// The layouts of each version, as text. A line `map NAME KIND KEY VALUE` for each map; a line `type NAME SIZE`, then
/// names and offsets of fields, for each type. A file of a version that has been released never changes.
///
/// An agent writes the text of its version into the map [`names::LAYOUT`], from which an agent of any other version
/// converts the maps.
pub const RECORDED_LAYOUTS: [(u32, &str); 1] = [(3, include_str!("../layouts/v3.txt"))];
