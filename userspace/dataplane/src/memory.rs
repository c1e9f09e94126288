//! The maps that the agent writes, in memory: for tests, which need neither root nor a kernel.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use headgate_abi::{
    Addr, AddressEntry, BackendEntry, BackendKey, CtEntry, FlowKey, FrontendEntry, FrontendKey,
    MemberKey, ServiceEntry, ServiceLabel, SocketEntry, SocketKey, Takeover, Traffic, names,
};
use ipnet::IpNet;

use crate::{
    error::Error,
    load::MapSizes,
    sockets::Connected,
    store::{AgentMaps, ArrayStore, Capacities, HashStore, RangeStore, Scan, full_unless},
};

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A function that runs after each write.
type Observer = Arc<Mutex<Option<Box<dyn FnMut() + Send>>>>;

fn report(observer: &Observer) {
    if let Some(observer) = &mut *lock(observer) {
        observer();
    }
}

/// Maps in memory. Clones share their entries, as all that open a map of the kernel do.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "the observer has none")]
pub struct MemoryMaps {
    /// See [`crate::Maps`].
    pub addresses: MemoryHash<Addr, AddressEntry>,
    /// See [`crate::Maps`].
    pub frontends: MemoryHash<FrontendKey, FrontendEntry>,
    /// See [`crate::Maps`].
    pub services: MemoryArray<ServiceEntry>,
    /// See [`crate::Maps`].
    pub labels: MemoryArray<ServiceLabel>,
    /// See [`crate::Maps`].
    pub slots: MemoryArray<u32>,
    /// See [`crate::Maps`].
    pub backends: MemoryArray<BackendEntry>,
    /// See [`crate::Maps`].
    pub local_backends: MemoryHash<BackendKey, u32>,
    /// Source ranges, each with its service id.
    pub source_ranges: MemoryHash<(u32, IpNet), ()>,
    /// See [`crate::Maps`].
    pub members: MemoryHash<MemberKey, u32>,
    /// See [`crate::Maps`].
    pub connections: MemoryHash<FlowKey, CtEntry>,
    /// See [`crate::Maps`].
    pub sockets: MemoryHash<SocketKey, SocketEntry>,
    /// Counters of services.
    pub service_traffic: MemoryArray<Traffic>,
    /// Counters of backends.
    pub backend_traffic: MemoryArray<Traffic>,
    /// See [`crate::Maps`].
    pub takeover: MemoryArray<Takeover>,
    /// The sockets that were to be ended.
    pub ended_sockets: Arc<Mutex<BTreeSet<Connected>>>,
    observer: Observer,
}

impl MemoryMaps {
    /// Returns empty maps of these sizes.
    pub fn new(sizes: &MapSizes) -> Self {
        let observer = Observer::default();
        let MapSizes {
            frontends,
            services,
            backends,
            ..
        } = *sizes;
        Self {
            addresses: MemoryHash::new(names::ADDRESSES, frontends, &observer),
            frontends: MemoryHash::new(names::FRONTENDS, frontends, &observer),
            services: MemoryArray::new(names::SERVICES, services, Default::default(), &observer),
            labels: MemoryArray::new(
                names::SERVICE_LABELS,
                services,
                ServiceLabel::EMPTY,
                &observer,
            ),
            slots: MemoryArray::new(names::SLOTS, sizes.slots, 0, &observer),
            backends: MemoryArray::new(names::BACKENDS, backends, Default::default(), &observer),
            local_backends: MemoryHash::new(names::LOCAL_BACKENDS, backends, &observer),
            source_ranges: MemoryHash::new(names::SOURCE_RANGES, sizes.source_ranges, &observer),
            members: MemoryHash::new(names::AFFINITY_MEMBERS, sizes.members, &observer),
            connections: MemoryHash::new(names::CONNTRACK, sizes.connections, &observer),
            sockets: MemoryHash::new(names::SOCKETS, sizes.sockets, &observer),
            service_traffic: MemoryArray::new(
                names::SERVICE_TRAFFIC,
                services,
                Default::default(),
                &observer,
            ),
            backend_traffic: MemoryArray::new(
                names::BACKEND_TRAFFIC,
                backends,
                Default::default(),
                &observer,
            ),
            takeover: MemoryArray::new(names::TAKEOVER, 1, Takeover::DONE, &observer),
            ended_sockets: Arc::default(),
            observer,
        }
    }

    /// Calls `observer` after each write, as a packet may come in between any two. It must not write.
    pub fn observe(&self, observer: impl FnMut() + Send + 'static) {
        *lock(&self.observer) = Some(Box::new(observer));
    }
}

impl From<MemoryMaps> for AgentMaps {
    fn from(maps: MemoryMaps) -> Self {
        let ended = maps.ended_sockets;
        let capacities = Capacities {
            addresses: maps.addresses.capacity as u32,
            frontends: maps.frontends.capacity as u32,
            source_ranges: maps.source_ranges.capacity as u32,
            members: maps.members.capacity as u32,
        };
        Self {
            addresses: Box::new(maps.addresses),
            frontends: Box::new(maps.frontends),
            services: Box::new(maps.services),
            labels: Box::new(maps.labels),
            slots: Box::new(maps.slots),
            backends: Box::new(maps.backends),
            local_backends: Box::new(maps.local_backends),
            source_ranges: Box::new(maps.source_ranges),
            members: Box::new(maps.members),
            connections: Box::new(maps.connections),
            takeover: Box::new(maps.takeover),
            sockets: Box::new(maps.sockets),
            service_traffic: Box::new(maps.service_traffic),
            backend_traffic: Box::new(maps.backend_traffic),
            destroy_udp: Box::new(move |sockets| {
                lock(&ended).extend(sockets);
                Ok(sockets.len())
            }),
            capacities,
        }
    }
}

/// A hash map in memory.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "the observer has none")]
pub struct MemoryHash<K, V> {
    name: &'static str,
    capacity: usize,
    entries: Arc<Mutex<HashMap<K, V>>>,
    observer: Observer,
}

impl<K: Copy + Eq + Hash, V: Copy> MemoryHash<K, V> {
    fn new(name: &'static str, capacity: u32, observer: &Observer) -> Self {
        Self {
            name,
            capacity: capacity as usize,
            entries: Arc::default(),
            observer: observer.clone(),
        }
    }

    /// Returns a copy of all entries.
    pub fn entries(&self) -> HashMap<K, V> {
        lock(&self.entries).clone()
    }

    /// Adds or replaces an entry; false if the map is full.
    pub fn insert(&self, key: K, value: V) -> bool {
        let mut entries = lock(&self.entries);
        let fits = entries.len() < self.capacity || entries.contains_key(&key);
        if fits {
            entries.insert(key, value);
        }
        fits
    }

    /// Removes an entry; false if it was missing.
    pub fn delete(&self, key: &K) -> bool {
        lock(&self.entries).remove(key).is_some()
    }

    fn put(&self, key: K, value: V) -> Result<(), Error> {
        if !self.insert(key, value) {
            return Err(Error::NoRoom { name: self.name });
        }
        report(&self.observer);
        Ok(())
    }

    fn remove(&self, key: &K) {
        self.delete(key);
        report(&self.observer);
    }
}

impl<K: Copy + Eq + Hash + Send + 'static, V: Copy + Send + 'static> HashStore<K, V>
    for MemoryHash<K, V>
{
    fn get(&self, key: &K) -> Result<Option<V>, Error> {
        Ok(lock(&self.entries).get(key).copied())
    }

    fn put(&mut self, key: &K, value: V) -> Result<(), Error> {
        Self::put(self, *key, value)
    }

    fn add(&mut self, key: &K, value: V) -> Result<(), Error> {
        match self.get(key)? {
            Some(_) => Ok(()),
            None => Self::put(self, *key, value),
        }
    }

    fn replace(&mut self, key: &K, value: V) -> Result<(), Error> {
        match self.get(key)? {
            Some(_) => Self::put(self, *key, value),
            None => Ok(()),
        }
    }

    fn remove(&mut self, key: &K) -> Result<(), Error> {
        Self::remove(self, key);
        Ok(())
    }

    fn scan(&self) -> Result<Scan<K, V>, Error> {
        Ok(Box::new(self.entries().into_iter().map(Ok)))
    }
}

impl RangeStore for MemoryHash<(u32, IpNet), ()> {
    fn put(&mut self, service: u32, range: &IpNet) -> Result<(), Error> {
        Self::put(self, (service, *range), ())
    }

    fn remove(&mut self, service: u32, range: &IpNet) -> Result<(), Error> {
        Self::remove(self, &(service, *range));
        Ok(())
    }

    fn read(&self) -> Result<Vec<(u32, IpNet)>, Error> {
        Ok(self.entries().into_keys().collect())
    }
}

/// An array map in memory.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "the observer has none")]
pub struct MemoryArray<T> {
    name: &'static str,
    elements: Arc<Mutex<Vec<T>>>,
    observer: Observer,
}

impl<T: Copy> MemoryArray<T> {
    fn new(name: &'static str, len: u32, element: T, observer: &Observer) -> Self {
        Self {
            name,
            elements: Arc::new(Mutex::new(vec![element; len as usize])),
            observer: observer.clone(),
        }
    }

    /// Returns the element at `index`, or `None` if there is no such index.
    pub fn at(&self, index: u32) -> Option<T> {
        lock(&self.elements).get(index as usize).copied()
    }

    /// Replaces the element at `index`; false if there is no such index.
    #[must_use]
    pub fn replace(&self, index: u32, element: T) -> bool {
        let mut elements = lock(&self.elements);
        let found = elements.get_mut(index as usize);
        found.map(|found| *found = element).is_some()
    }
}

impl<T: Copy + Send + 'static> ArrayStore<T> for MemoryArray<T> {
    fn len(&self) -> u32 {
        lock(&self.elements).len() as u32
    }

    fn get(&self, index: u32) -> Option<T> {
        self.at(index)
    }

    fn set(&mut self, index: u32, element: T) -> Result<(), Error> {
        full_unless(self.replace(index, element), self.name, self.len())?;
        report(&self.observer);
        Ok(())
    }
}
