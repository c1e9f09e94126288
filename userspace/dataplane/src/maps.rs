//! The pinned maps, which the agent writes and the CLI reads.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::maps::{
    HashMap, MapData, MapError, PerCpuArray,
    lpm_trie::{Key, LpmTrie},
};
use headgate_abi::{
    Addr, AddressEntry, AffinityEntry, AffinityKey, BackendEntry, BackendKey, CtEntry, FlowKey,
    FragmentEntry, FragmentKey, FrontendEntry, FrontendKey, MemberKey, RangeKey, Reason,
    ServiceEntry, ServiceLabel, ServiceRange, SocketEntry, SocketKey, SourceEntry, Takeover,
    Traffic, names,
};

use crate::{
    array::{Access, ReadOnly, ReadWrite, SharedArray},
    entries::Entries,
    error::Error,
    pin::{array, hash, open, per_cpu, pin_folder, typed},
};

/// Every map that userspace uses, open. They exist without an agent.
#[allow(
    missing_debug_implementations,
    reason = "aya's per-CPU arrays have none"
)]
pub struct Maps<A = ReadOnly> {
    /// Addresses of frontends.
    pub addresses: HashMap<MapData, Addr, AddressEntry>,
    /// Frontends.
    pub frontends: HashMap<MapData, FrontendKey, FrontendEntry>,
    /// Services by id.
    pub services: SharedArray<ServiceEntry, A>,
    /// Names of services by id.
    pub labels: SharedArray<ServiceLabel, A>,
    /// Backend ids by slot.
    pub slots: SharedArray<u32, A>,
    /// Backends by id.
    pub backends: SharedArray<BackendEntry, A>,
    /// Ids of this node's backends.
    pub local_backends: HashMap<MapData, BackendKey, u32>,
    /// Source ranges by service.
    pub source_ranges: LpmTrie<MapData, RangeKey, u32>,
    /// Ranges of Service addresses.
    pub service_ranges: SharedArray<ServiceRange, A>,
    /// Addresses that the node sends from, by device.
    pub sources: HashMap<MapData, u32, SourceEntry>,
    /// Backends of services with affinity.
    pub members: HashMap<MapData, MemberKey, u32>,
    /// Last backends of clients.
    pub affinities: HashMap<MapData, AffinityKey, AffinityEntry>,
    /// Connections.
    pub connections: HashMap<MapData, FlowKey, CtEntry>,
    /// Translated sockets.
    pub sockets: HashMap<MapData, SocketKey, SocketEntry>,
    /// Cgroups whose sockets are left to the packet path.
    pub left_cgroups: HashMap<MapData, u64, u32>,
    /// Which packets of unknown connections are left to the kernel: one element.
    pub takeover: SharedArray<Takeover, A>,
    reasons: PerCpuArray<MapData, u64>,
    pub(crate) service_traffic: PerCpuArray<MapData, Traffic>,
    pub(crate) backend_traffic: PerCpuArray<MapData, Traffic>,
    pub(crate) folder: PathBuf,
}

impl Maps {
    /// Opens the maps pinned below `pins`, to read them.
    ///
    /// # Errors
    ///
    /// If they are missing, or the kernel refuses access, or a pin is not a map of this version.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        Self::open_for(pins)
    }
}

impl Maps<ReadWrite> {
    /// Opens the maps pinned below `pins`, to write them.
    ///
    /// # Errors
    ///
    /// As [`Maps::open`].
    pub fn open_writable(pins: &Path) -> Result<Self, Error> {
        Self::open_for(pins)
    }
}

impl<A: Access> Maps<A> {
    fn open_for(pins: &Path) -> Result<Self, Error> {
        let folder = pin_folder(pins);
        Ok(Self {
            addresses: hash(&folder, names::ADDRESSES)?,
            frontends: hash(&folder, names::FRONTENDS)?,
            services: array(&folder, names::SERVICES)?,
            labels: array(&folder, names::SERVICE_LABELS)?,
            slots: array(&folder, names::SLOTS)?,
            backends: array(&folder, names::BACKENDS)?,
            local_backends: hash(&folder, names::LOCAL_BACKENDS)?,
            source_ranges: typed(&folder, names::SOURCE_RANGES)?,
            service_ranges: array(&folder, names::SERVICE_RANGES)?,
            sources: hash(&folder, names::SOURCES)?,
            members: hash(&folder, names::AFFINITY_MEMBERS)?,
            affinities: hash(&folder, names::AFFINITY)?,
            connections: hash(&folder, names::CONNTRACK)?,
            sockets: hash(&folder, names::SOCKETS)?,
            left_cgroups: hash(&folder, names::LEFT_CGROUPS)?,
            takeover: array(&folder, names::TAKEOVER)?,
            reasons: per_cpu(&folder, names::REASONS)?,
            service_traffic: per_cpu(&folder, names::SERVICE_TRAFFIC)?,
            backend_traffic: per_cpu(&folder, names::BACKEND_TRAFFIC)?,
            folder,
        })
    }

    /// Whether replies of a backend wait, because connections of former programs are copied.
    pub fn is_paused(&self, sender: &BackendKey) -> bool {
        let paused = hash::<BackendKey, u32>(&self.folder, names::PAUSED_BACKENDS);
        paused.is_ok_and(|paused| paused.get(sender, 0).is_ok())
    }

    /// Reads all connection entries, two for each connection.
    ///
    /// # Errors
    ///
    /// If the map cannot be opened. Each item may be an error of reading.
    pub fn all_connections(&self) -> Result<Entries<FlowKey, CtEntry>, Error> {
        Entries::of(&self.folder, names::CONNTRACK)
    }

    /// Reads all translated sockets.
    ///
    /// # Errors
    ///
    /// As [`Maps::all_connections`].
    pub fn all_sockets(&self) -> Result<Entries<SocketKey, SocketEntry>, Error> {
        Entries::of(&self.folder, names::SOCKETS)
    }

    /// Reads the last backends of all clients.
    ///
    /// # Errors
    ///
    /// As [`Maps::all_connections`].
    pub fn all_affinities(&self) -> Result<Entries<AffinityKey, AffinityEntry>, Error> {
        Entries::of(&self.folder, names::AFFINITY)
    }

    /// Returns whether the source ranges of a service admit a client.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn admits(&self, service: u32, client: Addr) -> Result<bool, Error> {
        let key = RangeKey {
            service,
            address: client,
        };
        match self.source_ranges.get(&Key::new(RangeKey::BITS, key), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(source) => Err(Error::map(names::SOURCE_RANGES, source)),
        }
    }

    /// Returns the usage of the maps that the agent writes. Entries beyond their capacity are not served.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn usage(&self, pins: &Path) -> Result<Vec<Usage>, Error> {
        let services = (1..self.services.len()).filter_map(|id| self.labels.get(id));
        let backends = (1..self.backends.len()).filter_map(|id| self.backends.get(id));
        let ranges = (1..self.services.len()).filter_map(|id| self.services.get(id));
        let services = services.filter(|label| !label.text().is_empty()).count();
        let backends = backends.filter(|entry| !entry.is_empty()).count();
        let slots = ranges.map(|entry| entry.slots().count as usize).sum();
        let folder = pin_folder(pins);
        [
            (names::ADDRESSES, self.addresses.keys().count()),
            (names::FRONTENDS, self.frontends.keys().count()),
            (names::SERVICES, services),
            (names::BACKENDS, backends),
            (names::LOCAL_BACKENDS, self.local_backends.keys().count()),
            (names::SLOTS, slots),
            (names::SOURCE_RANGES, self.source_ranges.keys().count()),
            (names::AFFINITY_MEMBERS, self.members.keys().count()),
            (names::LEFT_CGROUPS, self.left_cgroups.keys().count()),
        ]
        .into_iter()
        .map(|(name, entries)| usage(&folder, name, entries))
        .collect()
    }

    /// Returns the usage of the maps that programs write. They replace their oldest entries by new ones, so full
    /// maps are normal. Counting reads all entries.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn usage_of_caches(&self, pins: &Path) -> Result<Vec<Usage>, Error> {
        let folder = pin_folder(pins);
        let fragments: Entries<FragmentKey, FragmentEntry> =
            Entries::of(&folder, names::FRAGMENTS)?;
        [
            (names::AFFINITY, count(self.all_affinities()?)?),
            (names::CONNTRACK, count(self.all_connections()?)?),
            (names::SOCKETS, count(self.all_sockets()?)?),
            (names::FRAGMENTS, count(fragments)?),
        ]
        .into_iter()
        .map(|(name, entries)| usage(&folder, name, entries))
        .collect()
    }

    /// Returns the number of packets for each reason, the sum of all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, Error> {
        Reason::ALL
            .iter()
            .map(|reason| {
                let counts = self.reasons.get(&(*reason as u32), 0);
                let counts = counts.map_err(|source| Error::map(names::REASONS, source))?;
                Ok((*reason, counts.iter().sum()))
            })
            .collect()
    }

    /// Returns the traffic of a service, the sum of all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read, or has no such id.
    pub fn service_traffic(&self, id: u32) -> Result<Traffic, Error> {
        total(&self.service_traffic, names::SERVICE_TRAFFIC, id)
    }

    /// Returns the traffic of a backend, the sum of all CPUs.
    ///
    /// # Errors
    ///
    /// As [`Maps::service_traffic`].
    pub fn backend_traffic(&self, id: u32) -> Result<Traffic, Error> {
        total(&self.backend_traffic, names::BACKEND_TRAFFIC, id)
    }
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Name of the map.
    pub name: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Capacity, in entries.
    pub capacity: u32,
    /// Memory in the kernel, in bytes; 0 if unknown.
    pub bytes: u64,
}

impl Usage {
    /// Returns the usage in percent of the capacity, rounded down.
    pub fn percent(&self) -> u64 {
        self.entries * 100 / u64::from(self.capacity.max(1))
    }
}

fn count<T>(mut entries: impl Iterator<Item = Result<T, Error>>) -> Result<usize, Error> {
    entries.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

fn usage(folder: &Path, name: &'static str, entries: usize) -> Result<Usage, Error> {
    let data = open(folder, name)?;
    Ok(Usage {
        name,
        entries: entries as u64,
        capacity: capacity(&data, name)?,
        bytes: memory(&data).unwrap_or(0),
    })
}

/// Returns the most entries of a map.
pub(crate) fn capacity(map: &MapData, name: &str) -> Result<u32, Error> {
    let info = map.info().map_err(|source| Error::map(name, source))?;
    Ok(info.max_entries())
}

/// Returns the memory of a map in bytes (`memlock` of proc_pid_fdinfo(5)).
pub(crate) fn memory(map: &MapData) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

pub(crate) fn total(
    map: &PerCpuArray<MapData, Traffic>,
    name: &str,
    id: u32,
) -> Result<Traffic, Error> {
    let parts = map.get(&id, 0).map_err(|source| Error::map(name, source))?;
    Ok(parts.iter().fold(Traffic::default(), |sum, part| Traffic {
        connections: sum.connections + part.connections,
        packets: sum.packets + part.packets,
        bytes: sum.bytes + part.bytes,
    }))
}
