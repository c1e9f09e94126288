//! Reads all entries of a hash map, in batches.

use std::{os::fd::AsFd, path::Path, vec};

use aya::maps::MapData;

use crate::{error::Error, pin::open, sys::next_entries};

/// Entries in a batch. A bucket never has more: the kernel reads whole buckets.
const AT_ONCE: usize = 1024;

/// The entries of a hash map, bucket by bucket. Each entry that stays is returned once. One system call reads
/// many (Linux 5.6). The other way (`BPF_MAP_GET_NEXT_KEY`) begins again whenever its current entry was
/// evicted, so under a flood it may never end.
#[derive(Debug)]
pub struct Entries<K, V> {
    name: &'static str,
    map: MapData,
    /// The next bucket; `None` at the end.
    bucket: Option<Bucket>,
    keys: Vec<K>,
    values: Vec<V>,
    read: vec::IntoIter<(K, V)>,
}

#[derive(Clone, Copy, Debug)]
enum Bucket {
    First,
    Later(u32),
}

impl<K: aya::Pod, V: aya::Pod> Entries<K, V> {
    pub(crate) fn of(folder: &Path, name: &'static str) -> Result<Self, Error> {
        let map = open(folder, name)?;
        let info = map.info().map_err(|source| Error::map(name, source))?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        // The kernel writes as many bytes as the map's entries have.
        if (key, value) != (size_of::<K>(), size_of::<V>()) {
            return Err(Error::ForeignPin {
                path: folder.join(name),
                reason: format!("its entries have {key} and {value} bytes"),
            });
        }
        Ok(Self {
            name,
            map,
            bucket: Some(Bucket::First),
            keys: Vec::with_capacity(AT_ONCE),
            values: Vec::with_capacity(AT_ONCE),
            read: Vec::new().into_iter(),
        })
    }

    fn read_more(&mut self, bucket: Bucket) -> Result<(), Error> {
        let from = match bucket {
            Bucket::First => None,
            Bucket::Later(bucket) => Some(bucket),
        };
        let map = self.map.fd().as_fd();
        let next = next_entries(map, from, &mut self.keys, &mut self.values);
        let next = next.map_err(|source| Error::Read {
            name: self.name,
            source,
        })?;
        self.bucket = next.map(Bucket::Later);
        let read: Vec<(K, V)> = self.keys.drain(..).zip(self.values.drain(..)).collect();
        self.read = read.into_iter();
        Ok(())
    }
}

impl<K: aya::Pod, V: aya::Pod> Iterator for Entries<K, V> {
    type Item = Result<(K, V), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.read.next() {
                return Some(Ok(entry));
            }
            let bucket = self.bucket.take()?;
            if let Err(error) = self.read_more(bucket) {
                return Some(Err(error));
            }
        }
    }
}
