//! Makes the maps that the agent writes larger while traffic flows: larger maps, new programs over them, the contents,
//! the links, and then the pins.
//!
//! At every moment all attached programs see the same contents: from the copy on, nothing is written until all of them
//! use the larger maps, or none. Connections are in maps that stay.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, MapData, MapError, PerCpuArray},
};
use headgate_abi::{
    Addr, AddressEntry, BackendEntry, BackendKey, DatapathConfig, FrontendEntry, FrontendKey,
    MemberKey, RangeKey, ServiceEntry, ServiceLabel, Traffic, names,
};

use crate::{
    array::{ReadOnly, ReadWrite, SharedArray},
    entries::Entries,
    error::Error,
    load::{MapSizes, Programs, load_with, make_folder},
    maps::{capacity, memory},
    pin::{array, hash, open, per_cpu, pin_folder, typed},
    store::full_unless,
};

/// Makes larger maps, of at least these sizes and still empty, and loads programs over them: those that `former` has
/// loaded. This takes seconds, in which the present maps can be written. [`Larger::copy`] then fills the maps, the
/// programs are to be attached everywhere, and [`Larger::keep`] replaces the pins.
///
/// # Errors
///
/// If the maps that the agent writes would take more than `most_bytes` of memory, or there is too little, or the kernel
/// refuses a program.
pub fn grow(
    pins: &Path,
    config: &DatapathConfig,
    sizes: &MapSizes,
    most_bytes: u64,
    former: &[String],
) -> Result<(Programs, Larger), Error> {
    let folder = pin_folder(pins);
    let mut larger = Larger::below(&folder);
    let mut bytes = 0;
    for (name, size) in sizes.of_agent() {
        let map = open(&folder, name)?;
        let (now, used) = (capacity(&map, name)?, memory(&map).unwrap_or(0));
        bytes += used * u64::from(size.max(now)) / u64::from(now.max(1));
        if size > now {
            larger.names.push(name);
        }
    }
    if bytes > most_bytes {
        return Err(Error::MemoryLimit {
            wanted: bytes >> 20,
            most: most_bytes >> 20,
        });
    }
    larger.discard()?;
    make_folder(&larger.folder)?;
    let mut programs = Programs::new(load_with(config, sizes, |name| larger.pin(name))?);
    programs.load_all(former)?;
    Ok((programs, larger))
}

/// Larger maps, pinned beside those that they are to replace. Dropped, they are given up.
#[derive(Debug)]
pub struct Larger {
    /// Where the maps in use are pinned.
    present: PathBuf,
    folder: PathBuf,
    names: Vec<&'static str>,
}

impl Larger {
    pub(crate) fn below(present: &Path) -> Self {
        Self {
            present: present.to_owned(),
            folder: present.join("larger"),
            names: Vec::new(),
        }
    }

    fn pin(&self, name: &str) -> PathBuf {
        match self.names.contains(&name) {
            true => self.folder.join(name),
            false => self.present.join(name),
        }
    }

    /// Copies what the present maps hold.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn copy(&self) -> Result<(), Error> {
        for name in &self.names {
            copy(name, &self.present, &self.folder)?;
        }
        Ok(())
    }

    /// Replaces the pins of the present maps by those of the larger ones. An agent that ends between two of them leaves
    /// maps of the same contents.
    ///
    /// # Errors
    ///
    /// If a pin cannot be replaced.
    pub fn keep(self) -> Result<(), Error> {
        for name in &self.names {
            let (from, path) = (self.folder.join(name), self.present.join(name));
            // The BPF file system has no exchange; programs hold their maps meanwhile.
            fs::rename(from, &path).map_err(|source| Error::Pin { path, source })?;
        }
        Ok(())
    }

    /// Removes the pins.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub(crate) fn discard(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
                path: self.folder.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }
}

impl Drop for Larger {
    fn drop(&mut self) {
        // What is left is removed before the maps become larger again.
        let _left = self.discard();
    }
}

/// Copies the entries of a map.
fn copy(name: &'static str, from: &Path, to: &Path) -> Result<(), Error> {
    match name {
        names::FRONTENDS => copy_hash::<FrontendKey, FrontendEntry>(name, from, to),
        names::ADDRESSES => copy_hash::<Addr, AddressEntry>(name, from, to),
        names::LOCAL_BACKENDS => copy_hash::<BackendKey, u32>(name, from, to),
        names::AFFINITY_MEMBERS => copy_hash::<MemberKey, u32>(name, from, to),
        names::SERVICES => copy_array::<ServiceEntry>(name, from, to),
        names::SERVICE_LABELS => copy_array::<ServiceLabel>(name, from, to),
        names::BACKENDS => copy_array::<BackendEntry>(name, from, to),
        names::SLOTS => copy_array::<u32>(name, from, to),
        names::SERVICE_TRAFFIC | names::BACKEND_TRAFFIC => copy_traffic(name, from, to),
        _ => copy_ranges(name, from, to),
    }
}

fn copy_hash<K: Pod, V: Pod>(name: &'static str, from: &Path, to: &Path) -> Result<(), Error> {
    let mut target: HashMap<MapData, K, V> = hash(to, name)?;
    for entry in Entries::of(from, name)? {
        let (key, value): (K, V) = entry?;
        let copied = target.insert(key, value, 0);
        copied.map_err(|source| Error::map(name, source))?;
    }
    Ok(())
}

fn copy_array<T: Pod>(name: &'static str, from: &Path, to: &Path) -> Result<(), Error> {
    let source: SharedArray<T, ReadOnly> = array(from, name)?;
    let target: SharedArray<T, ReadWrite> = array(to, name)?;
    for index in 0..source.len() {
        if let Some(element) = source.get(index) {
            let fits = target.set(index, element);
            full_unless(fits, name, target.len())?;
        }
    }
    Ok(())
}

fn copy_traffic(name: &'static str, from: &Path, to: &Path) -> Result<(), Error> {
    let source: PerCpuArray<MapData, Traffic> = per_cpu(from, name)?;
    let mut target: PerCpuArray<MapData, Traffic> = per_cpu(to, name)?;
    let failed = |source: MapError| Error::map(name, source);
    for index in 0..source.len() {
        let values = source.get(&index, 0).map_err(failed)?;
        if values.iter().any(|traffic| *traffic != Traffic::default()) {
            target.set(index, values, 0).map_err(failed)?;
        }
    }
    Ok(())
}

fn copy_ranges(name: &'static str, from: &Path, to: &Path) -> Result<(), Error> {
    let source: LpmTrie<MapData, RangeKey, u32> = typed(from, name)?;
    let mut target: LpmTrie<MapData, RangeKey, u32> = typed(to, name)?;
    let failed = |source: MapError| Error::map(name, source);
    for key in source.keys() {
        target.insert(&key.map_err(failed)?, 0, 0).map_err(failed)?;
    }
    Ok(())
}
