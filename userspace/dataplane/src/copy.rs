//! Copies the entries of a map to the one that succeeds it, while programs write.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
};

use aya::maps::MapType;

use crate::{
    error::Error,
    layouts::Parts,
    raw::{Batches, PART_ALIGN, RawMap},
    sys::now_s,
};

/// A map, and its successor.
pub(crate) struct Copy {
    from: RawMap,
    to: RawMap,
    key: Parts,
    value: Parts,
    progress: Progress,
}

enum Progress {
    /// Programs do not write the map, or what they write is only counted: it is copied once.
    Once { is_done: bool },
    /// Programs write it.
    Followed(Followed),
}

/// What is known about the entries of a map that programs write.
pub(crate) struct Followed {
    /// Hashes of the keys that were copied, and of their values and identities: 32 bytes for each entry.
    copied: HashMap<u64, (u64, u64)>,
    /// Bytes in which the successor's values for two connections with the same key differ.
    identity: Vec<Range<usize>>,
    /// Where values have the second of their last change, so that older ones need not be compared.
    seen_at: Option<usize>,
    /// Entries that changed before this second are copied.
    copied_until_s: Option<u32>,
}

impl Followed {
    pub(crate) fn new(seen_at: Option<usize>, identity: Vec<Range<usize>>) -> Self {
        Self {
            copied: HashMap::new(),
            identity,
            seen_at,
            copied_until_s: None,
        }
    }

    /// Whether a value has not changed since it was copied.
    fn is_old(&self, value: &[u8]) -> bool {
        let seen = { self.seen_at }.and_then(|at| value.get(at..at + size_of::<u32>()));
        let seen = seen.and_then(|bytes| bytes.try_into().ok());
        match (seen.map(u32::from_ne_bytes), self.copied_until_s) {
            (Some(seen_s), Some(until_s)) => seen_s < until_s,
            _ => false,
        }
    }
}

impl Copy {
    /// `followed` if programs write the map.
    pub(crate) fn new(
        from: RawMap,
        to: RawMap,
        (key, value): (Parts, Parts),
        followed: Option<Followed>,
    ) -> Self {
        Self {
            from,
            to,
            key,
            value,
            progress: match followed {
                Some(followed) => Progress::Followed(followed),
                None => Progress::Once { is_done: false },
            },
        }
    }

    /// Copies what has changed since the last call, or everything. What the successor's own programs have written is newer
    /// and stays.
    pub(crate) fn step(&mut self) -> Result<(), Error> {
        let Self {
            from,
            to,
            key,
            value,
            progress,
        } = self;
        let align = match from.kind() {
            MapType::PerCpuArray => PART_ALIGN,
            _ => 1,
        };
        // Before the bytes of a trie's key are the bits of its prefix.
        let is_raw = from.kind() == MapType::LpmTrie;
        match progress {
            Progress::Once { is_done: true } => Ok(()),
            Progress::Once { is_done } => {
                let mut batches = Batches::to(to);
                from.visit(|k, v| match is_raw {
                    true => batches.add(k, &value.convert(v, align)),
                    false => batches.add(&key.convert(k, 1), &value.convert(v, align)),
                })?;
                *is_done = true;
                batches.write()
            }
            Progress::Followed(followed) => {
                /// The programs' clock is behind by a tick, and rounds.
                const MARGIN_S: u32 = 3;
                let start_s = now_s();
                // Elsewhere a missing entry is one that was evicted.
                let removes = from.kind() == MapType::Hash;
                let mut present = HashSet::new();
                from.visit(|k, v| {
                    if followed.is_old(v) {
                        return Ok(());
                    }
                    let Followed {
                        copied, identity, ..
                    } = &mut *followed;
                    let identity = |value: &[u8]| hash_of(value, identity);
                    let (key, value) = (key.convert(k, 1), value.convert(v, align));
                    let (id, now) = (hash(&key), (hash(&value), identity(&value)));
                    if removes {
                        present.insert(id);
                    }
                    match copied.get(&id) {
                        Some(before) if *before == now => return Ok(()),
                        Some(before) => {
                            // The new programs follow what they find. A connection that has the key since is newer.
                            let is_unchanged = |there: Vec<u8>| {
                                hash(&there) == before.0
                                    || now.1 != before.1 && identity(&there) == before.1
                            };
                            if !to.get(&key)?.is_some_and(is_unchanged) {
                                return Ok(());
                            }
                            to.put(&key, &value)?;
                        }
                        None => to.add(&key, &value)?,
                    }
                    copied.insert(id, now);
                    Ok(())
                })?;
                followed.copied_until_s = Some(start_s.saturating_sub(MARGIN_S));
                if removes && present.len() < followed.copied.len() {
                    remove_gone(to, &mut followed.copied, &present)?;
                }
                Ok(())
            }
        }
    }
}

/// Removes the entries that were copied, and are not present any more.
fn remove_gone(
    to: &RawMap,
    copied: &mut HashMap<u64, (u64, u64)>,
    present: &HashSet<u64>,
) -> Result<(), Error> {
    let mut gone = Vec::new();
    to.visit(|key, _| {
        let id = hash(key);
        if !present.contains(&id) && copied.remove(&id).is_some() {
            gone.push(key.to_vec());
        }
        Ok(())
    })?;
    for key in gone {
        to.remove(&key)?;
    }
    Ok(())
}

fn hash_of(bytes: &[u8], ranges: &[Range<usize>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for range in ranges {
        bytes.get(range.clone()).hash(&mut hasher);
    }
    hasher.finish()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
