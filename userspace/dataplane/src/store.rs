//! The maps that the agent writes, behind two traits: in the kernel, or in memory for tests.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{
        HashMap, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues,
        lpm_trie::{self, LpmTrie},
    },
    util::nr_cpus,
};
use headgate_abi::{
    Addr, AddressEntry, BackendEntry, BackendKey, CtEntry, FlowKey, FrontendEntry, FrontendKey,
    MemberKey, RangeKey, ServiceEntry, ServiceLabel, SocketEntry, SocketKey, Takeover, Traffic,
    names,
};
use ipnet::IpNet;

use crate::{
    array::{ReadWrite, SharedArray},
    entries::Entries,
    error::Error,
    maps::{Maps, total},
    sockets::{self, Connected},
};

/// `BPF_NOEXIST` of bpf(2).
const NOEXIST: u64 = 1;
/// `BPF_EXIST` of bpf(2).
const EXIST: u64 = 2;

/// The entries of a map, one after the other. Entries that change meanwhile may be old, new or missing.
pub(crate) type Scan<K, V> = Box<dyn Iterator<Item = Result<(K, V), Error>> + Send>;

/// A map from keys to values.
pub(crate) trait HashStore<K, V>: Send {
    /// Returns the value of a key, if there is one.
    fn get(&self, key: &K) -> Result<Option<V>, Error>;
    /// Adds or replaces an entry. A full map is [`Error::NoRoom`].
    fn put(&mut self, key: &K, value: V) -> Result<(), Error>;
    /// Adds an entry, unless the key has one.
    fn add(&mut self, key: &K, value: V) -> Result<(), Error>;
    /// Replaces the value of an entry, if it is there.
    fn replace(&mut self, key: &K, value: V) -> Result<(), Error>;
    /// Removes an entry. A missing one is as wanted: it was evicted, or removed by hand.
    fn remove(&mut self, key: &K) -> Result<(), Error>;
    /// Reads all entries.
    fn scan(&self) -> Result<Scan<K, V>, Error>;
}

/// The source ranges of Services, by service id.
pub(crate) trait RangeStore: Send {
    /// Adds a range. A full map is [`Error::NoRoom`].
    fn put(&mut self, service: u32, range: &IpNet) -> Result<(), Error>;
    /// Removes a range, if it exists.
    fn remove(&mut self, service: u32, range: &IpNet) -> Result<(), Error>;
    /// Reads all ranges.
    fn read(&self) -> Result<Vec<(u32, IpNet)>, Error>;
}

/// A map from indexes to elements.
pub(crate) trait ArrayStore<T>: Send {
    /// Returns the number of elements.
    fn len(&self) -> u32;
    /// Returns the element at `index`; `None` beyond the end.
    fn get(&self, index: u32) -> Option<T>;
    /// Replaces the element at `index`. An index beyond the end is [`Error::Full`].
    fn set(&mut self, index: u32, element: T) -> Result<(), Error>;
}

/// Ends these UDP sockets; returns their number.
pub(crate) type DestroyUdp = Box<dyn FnMut(&BTreeSet<Connected>) -> io::Result<usize> + Send>;

/// The maps that the agent writes, and those that it sweeps.
#[allow(missing_debug_implementations, reason = "the stores have none")]
pub struct AgentMaps {
    pub(crate) addresses: Box<dyn HashStore<Addr, AddressEntry>>,
    pub(crate) frontends: Box<dyn HashStore<FrontendKey, FrontendEntry>>,
    pub(crate) services: Box<dyn ArrayStore<ServiceEntry>>,
    pub(crate) labels: Box<dyn ArrayStore<ServiceLabel>>,
    pub(crate) slots: Box<dyn ArrayStore<u32>>,
    pub(crate) backends: Box<dyn ArrayStore<BackendEntry>>,
    pub(crate) local_backends: Box<dyn HashStore<BackendKey, u32>>,
    pub(crate) source_ranges: Box<dyn RangeStore>,
    pub(crate) members: Box<dyn HashStore<MemberKey, u32>>,
    pub(crate) connections: Box<dyn HashStore<FlowKey, CtEntry>>,
    pub(crate) takeover: Box<dyn ArrayStore<Takeover>>,
    pub(crate) sockets: Box<dyn HashStore<SocketKey, SocketEntry>>,
    pub(crate) service_traffic: Box<dyn ArrayStore<Traffic>>,
    pub(crate) backend_traffic: Box<dyn ArrayStore<Traffic>>,
    pub(crate) destroy_udp: DestroyUdp,
    pub(crate) capacities: Capacities,
}

/// Entries that the hash maps hold.
pub(crate) struct Capacities {
    pub(crate) addresses: u32,
    pub(crate) frontends: u32,
    pub(crate) source_ranges: u32,
    pub(crate) members: u32,
}

impl Capacities {
    fn of(folder: &Path) -> Self {
        // Without the right to read it, the first failing write shows the limit.
        let of =
            |name| MapInfo::from_pin(folder.join(name)).map_or(u32::MAX, |info| info.max_entries());
        Self {
            addresses: of(names::ADDRESSES),
            frontends: of(names::FRONTENDS),
            source_ranges: of(names::SOURCE_RANGES),
            members: of(names::AFFINITY_MEMBERS),
        }
    }
}

impl From<Maps<ReadWrite>> for AgentMaps {
    fn from(maps: Maps<ReadWrite>) -> Self {
        let folder = &maps.folder;
        Self {
            addresses: KernelHash::boxed(folder, names::ADDRESSES, maps.addresses),
            frontends: KernelHash::boxed(folder, names::FRONTENDS, maps.frontends),
            services: KernelArray::boxed(names::SERVICES, maps.services),
            labels: KernelArray::boxed(names::SERVICE_LABELS, maps.labels),
            slots: KernelArray::boxed(names::SLOTS, maps.slots),
            backends: KernelArray::boxed(names::BACKENDS, maps.backends),
            local_backends: KernelHash::boxed(folder, names::LOCAL_BACKENDS, maps.local_backends),
            source_ranges: Box::new(KernelRanges(maps.source_ranges)),
            members: KernelHash::boxed(folder, names::AFFINITY_MEMBERS, maps.members),
            connections: KernelHash::boxed(folder, names::CONNTRACK, maps.connections),
            takeover: KernelArray::boxed(names::TAKEOVER, maps.takeover),
            sockets: KernelHash::boxed(folder, names::SOCKETS, maps.sockets),
            service_traffic: Box::new(KernelTraffic {
                name: names::SERVICE_TRAFFIC,
                map: maps.service_traffic,
            }),
            backend_traffic: Box::new(KernelTraffic {
                name: names::BACKEND_TRAFFIC,
                map: maps.backend_traffic,
            }),
            destroy_udp: Box::new(sockets::destroy_udp),
            capacities: Capacities::of(folder),
        }
    }
}

/// A hash map of the kernel.
struct KernelHash<K, V> {
    folder: PathBuf,
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod + Send, V: Pod + Send> KernelHash<K, V> {
    fn boxed(
        folder: &Path,
        name: &'static str,
        map: HashMap<MapData, K, V>,
    ) -> Box<dyn HashStore<K, V>> {
        let folder = folder.to_owned();
        Box::new(Self { folder, name, map })
    }
}

impl<K: Pod + Send, V: Pod + Send> HashStore<K, V> for KernelHash<K, V> {
    fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(Error::map(self.name, source)),
        }
    }

    fn put(&mut self, key: &K, value: V) -> Result<(), Error> {
        let result = self.map.insert(key, value, 0);
        result.map_err(|source| insertion_error(self.name, source))
    }

    fn add(&mut self, key: &K, value: V) -> Result<(), Error> {
        match self.map.insert(key, value, NOEXIST) {
            Err(source) if error_number(&source) == Some(libc::EEXIST) => Ok(()),
            result => result.map_err(|source| insertion_error(self.name, source)),
        }
    }

    fn replace(&mut self, key: &K, value: V) -> Result<(), Error> {
        match self.map.insert(key, value, EXIST) {
            Err(source) if error_number(&source) == Some(libc::ENOENT) => Ok(()),
            result => result.map_err(|source| insertion_error(self.name, source)),
        }
    }

    fn remove(&mut self, key: &K) -> Result<(), Error> {
        removed(self.name, self.map.remove(key))
    }

    fn scan(&self) -> Result<Scan<K, V>, Error> {
        Ok(Box::new(Entries::of(&self.folder, self.name)?))
    }
}

/// The source ranges in the kernel: a trie of prefixes that begin with the service id.
struct KernelRanges(LpmTrie<MapData, RangeKey, u32>);

impl RangeStore for KernelRanges {
    fn put(&mut self, service: u32, range: &IpNet) -> Result<(), Error> {
        let result = self.0.insert(&range_key(service, range), 0, 0);
        result.map_err(|source| insertion_error(names::SOURCE_RANGES, source))
    }

    fn remove(&mut self, service: u32, range: &IpNet) -> Result<(), Error> {
        let result = self.0.remove(&range_key(service, range));
        removed(names::SOURCE_RANGES, result)
    }

    fn read(&self) -> Result<Vec<(u32, IpNet)>, Error> {
        let mut ranges = Vec::new();
        for key in self.0.keys() {
            let key = key.map_err(|source| Error::map(names::SOURCE_RANGES, source))?;
            ranges.extend(range(&key));
        }
        Ok(ranges)
    }
}

/// An array of the kernel, mapped into memory.
struct KernelArray<T> {
    name: &'static str,
    array: SharedArray<T, ReadWrite>,
}

impl<T: Pod + Send> KernelArray<T> {
    fn boxed(name: &'static str, array: SharedArray<T, ReadWrite>) -> Box<dyn ArrayStore<T>> {
        Box::new(Self { name, array })
    }
}

impl<T: Pod + Send> ArrayStore<T> for KernelArray<T> {
    fn len(&self) -> u32 {
        self.array.len()
    }

    fn get(&self, index: u32) -> Option<T> {
        self.array.get(index)
    }

    fn set(&mut self, index: u32, element: T) -> Result<(), Error> {
        full_unless(self.array.set(index, element), self.name, self.len())
    }
}

/// Counters of the kernel, which has an array of them for each CPU.
struct KernelTraffic {
    name: &'static str,
    map: PerCpuArray<MapData, Traffic>,
}

impl ArrayStore<Traffic> for KernelTraffic {
    fn len(&self) -> u32 {
        self.map.len()
    }

    fn get(&self, index: u32) -> Option<Traffic> {
        total(&self.map, self.name, index).ok()
    }

    fn set(&mut self, index: u32, element: Traffic) -> Result<(), Error> {
        let failed = |source: MapError| Error::map(self.name, source);
        let cpus = nr_cpus().map_err(|(_, source)| failed(source.into()))?;
        let mut values = vec![Traffic::default(); cpus];
        if let Some(first) = values.first_mut() {
            *first = element;
        }
        let values = PerCpuValues::try_from(values).map_err(|source| failed(source.into()))?;
        self.map.set(index, values, 0).map_err(failed)
    }
}

pub(crate) fn full_unless(fits: bool, name: &'static str, capacity: u32) -> Result<(), Error> {
    match fits {
        true => Ok(()),
        false => Err(Error::Full { name, capacity }),
    }
}

fn error_number(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// The error of an insertion; that of a full map names the map alone.
pub(crate) fn insertion_error(name: &'static str, source: MapError) -> Error {
    match error_number(&source) {
        Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM) => Error::NoRoom { name },
        _ => Error::map(name, source),
    }
}

/// The result of a removal. A missing entry is as wanted: it was evicted, or removed by hand.
fn removed(name: &str, result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(source) if error_number(&source) == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(Error::map(name, source)),
    }
}

fn range_key(service: u32, range: &IpNet) -> lpm_trie::Key<RangeKey> {
    let address = Addr::from(range.network());
    lpm_trie::Key::new(
        bits_before(range.network()) + u32::from(range.prefix_len()),
        RangeKey { service, address },
    )
}

/// The service id and the range of a key; `None` if its prefix is invalid.
fn range(key: &lpm_trie::Key<RangeKey>) -> Option<(u32, IpNet)> {
    let RangeKey { service, address } = key.data();
    let address = IpAddr::from(address);
    let bits = key.prefix_len().saturating_sub(bits_before(address));
    let range = IpNet::new(address, u8::try_from(bits).ok()?).ok()?;
    Some((service, range))
}

fn bits_before(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => RangeKey::BITS_BEFORE_V4,
        IpAddr::V6(_) => RangeKey::BITS_BEFORE_V6,
    }
}
