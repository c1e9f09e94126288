//! Maps whose layout is not known when this crate is compiled: keys and values are bytes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};

use crate::{error::Error, sys};

/// The size of one CPU's part of a value is a multiple of this.
pub(crate) const PART_ALIGN: usize = 8;

/// Entries in a batch. A bucket never has more.
const AT_ONCE: usize = 1024;

/// A pinned map of any layout.
pub(crate) struct RawMap {
    path: PathBuf,
    map: MapData,
    kind: MapType,
    key_size: usize,
    /// Size of a value as the kernel reads and writes it: one part for each CPU, if there are such.
    value_size: usize,
    /// Size of a value as programs see it.
    element_size: usize,
    capacity: u32,
    flags: u32,
}

impl RawMap {
    /// Opens the map pinned at a path.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let foreign = |reason: String| Error::ForeignPin {
            path: path.clone(),
            reason,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let map = MapData::from_pin(&path).map_err(|source| Error::map(&name, source))?;
        let info = map.info().map_err(|source| foreign(source.to_string()))?;
        let kind = info.map_type();
        let kind = kind.map_err(|source| foreign(source.to_string()))?;
        let element_size = info.value_size() as usize;
        let value_size = match kind {
            MapType::PerCpuArray => {
                let cpus = nr_cpus().map_err(|(_, source)| foreign(source.to_string()))?;
                element_size.next_multiple_of(PART_ALIGN) * cpus
            }
            _ => element_size,
        };
        Ok(Self {
            kind,
            key_size: info.key_size() as usize,
            value_size,
            element_size,
            capacity: info.max_entries(),
            flags: info.map_flags(),
            map,
            path,
        })
    }

    pub(crate) fn kind(&self) -> MapType {
        self.kind
    }

    pub(crate) fn key_size(&self) -> usize {
        self.key_size
    }

    pub(crate) fn value_size(&self) -> usize {
        self.value_size
    }

    /// Returns the size of a value as programs see it: that of one CPU.
    pub(crate) fn element_size(&self) -> usize {
        self.element_size
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Returns the flags that it was made with, as bpf(2) has them.
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    fn failed(&self) -> impl Fn(io::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Pin {
            path: path.clone(),
            source,
        }
    }

    /// Pins the map at one more path.
    pub(crate) fn pin(&self, path: &Path) -> Result<(), Error> {
        sys::pin(self.fd(), path).map_err(|source| Error::Pin {
            path: path.to_owned(),
            source,
        })
    }

    /// Returns the value of a key, if it has one.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.check(key.len(), self.key_size)?;
        let mut value = vec![0; self.value_size];
        let found = sys::lookup(self.fd(), key, &mut value).map_err(self.failed())?;
        Ok(found.then_some(value))
    }

    /// Adds an entry or replaces its value.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.check(key.len(), self.key_size)?;
        self.check(value.len(), self.value_size)?;
        sys::update(self.fd(), key, value, 0).map_err(self.failed())
    }

    /// Adds an entry, unless the key has one or the map is full. Returns whether it did.
    pub(crate) fn add(&self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        /// `BPF_NOEXIST` of bpf(2).
        const NOEXIST: u64 = 1;
        self.check(key.len(), self.key_size)?;
        self.check(value.len(), self.value_size)?;
        match sys::update(self.fd(), key, value, NOEXIST) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::E2BIG)) => {
                Ok(false)
            }
            result => result.map(|()| true).map_err(self.failed()),
        }
    }

    /// Removes an entry, if it exists.
    pub(crate) fn remove(&self, key: &[u8]) -> Result<(), Error> {
        self.check(key.len(), self.key_size)?;
        match sys::delete(self.fd(), key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(self.failed()),
        }
    }

    /// Adds these entries, or replaces their values.
    pub(crate) fn put_all(&self, keys: &[u8], values: &[u8]) -> Result<(), Error> {
        // A ring has no keys.
        if keys.is_empty() {
            return Ok(());
        }
        let count = keys.len() / self.key_size;
        self.check(keys.len(), count * self.key_size)?;
        self.check(values.len(), count * self.value_size)?;
        if matches!(self.kind, MapType::Hash | MapType::Array) {
            return sys::update_batch(self.fd(), keys, values, count).map_err(self.failed());
        }
        let values = values.chunks_exact(self.value_size);
        for (key, value) in keys.chunks_exact(self.key_size).zip(values) {
            self.put(key, value)?;
        }
        Ok(())
    }

    /// Calls `visit` for the key and value of each entry. Entries that change meanwhile may be old, new or missing. Maps
    /// of other kinds than those of entries have none.
    pub(crate) fn visit(
        &self,
        visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self.kind {
            MapType::Hash | MapType::LruHash | MapType::Array => self.visit_in_batches(visit),
            MapType::PerCpuArray => self.visit_elements(visit),
            MapType::LpmTrie => self.visit_keys(visit),
            _ => Ok(()),
        }
    }

    fn visit_in_batches(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut keys = vec![0; AT_ONCE * self.key_size];
        let mut values = vec![0; AT_ONCE * self.value_size];
        let mut next = None;
        loop {
            let read = sys::lookup_batch(self.fd(), next, &mut keys, &mut values, AT_ONCE);
            let (count, following) = read.map_err(self.failed())?;
            let found = keys.chunks_exact(self.key_size).take(count);
            for (key, value) in found.zip(values.chunks_exact(self.value_size)) {
                visit(key, value)?;
            }
            match following {
                Some(following) => next = Some(following),
                None => return Ok(()),
            }
        }
    }

    /// Reads the elements of an array one by one: kernels before 5.13 read those of each CPU in no batches.
    fn visit_elements(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut value = vec![0; self.value_size];
        for index in 0..self.capacity {
            let key = index.to_ne_bytes();
            self.check(key.len(), self.key_size)?;
            if sys::lookup(self.fd(), &key, &mut value).map_err(self.failed())? {
                visit(&key, &value)?;
            }
        }
        Ok(())
    }

    fn visit_keys(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut key: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0; self.key_size];
            let found = sys::next_key(self.fd(), key.as_deref(), &mut next);
            if !found.map_err(self.failed())? {
                return Ok(());
            }
            if let Some(value) = self.get(&next)? {
                visit(&next, &value)?;
            }
            key = Some(next);
        }
    }

    /// The kernel reads and writes as many bytes as the map's entries have.
    fn check(&self, found: usize, wanted: usize) -> Result<(), Error> {
        match found == wanted {
            true => Ok(()),
            false => Err(Error::ForeignPin {
                path: self.path.clone(),
                reason: format!("{found} bytes where it has {wanted}"),
            }),
        }
    }
}

/// Collects entries, and writes them in batches.
pub(crate) struct Batches<'a> {
    map: &'a RawMap,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl<'a> Batches<'a> {
    pub(crate) fn to(map: &'a RawMap) -> Self {
        Self {
            map,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
        match self.keys.len() < AT_ONCE * self.map.key_size {
            true => Ok(()),
            false => self.write(),
        }
    }

    pub(crate) fn write(&mut self) -> Result<(), Error> {
        let written = self.map.put_all(&self.keys, &self.values);
        self.keys.clear();
        self.values.clear();
        written
    }
}
