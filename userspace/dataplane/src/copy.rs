//! Copies the entries of a map to the one that succeeds it, while programs write.

use std::{
    borrow::Cow,
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
    /// Where values of the map, and those of its successor, have the second of their last change.
    seen_at: [Option<usize>; 2],
    /// The second of values that have none: entries of unknown age are new.
    begun_s: u32,
    /// Entries that changed before this second are copied.
    copied_until_s: Option<u32>,
}

impl Followed {
    pub(crate) fn new(seen_at: [Option<usize>; 2], identity: Vec<Range<usize>>) -> Self {
        Self {
            copied: HashMap::new(),
            identity,
            seen_at,
            begun_s: now_s(),
            copied_until_s: None,
        }
    }

    /// Whether a value has not changed since it was copied.
    fn is_old(&self, value: &[u8]) -> bool {
        match (second(value, self.seen_at[0]), self.copied_until_s) {
            (Some(seen_s), Some(until_s)) => seen_s < until_s,
            _ => false,
        }
    }

    /// Writes the second of the last change into a successor's value, if the other version has none. Otherwise the first
    /// sweep would take the entry for one of the time when the machine started.
    fn date(&self, value: &mut Cow<'_, [u8]>) {
        if let [None, Some(at)] = self.seen_at
            && let Some(field) = value.to_mut().get_mut(at..at + size_of::<u32>())
        {
            field.copy_from_slice(&self.begun_s.to_ne_bytes());
        }
    }

    fn identity(&self, value: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for range in &self.identity {
            value.get(range.clone()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Whether a successor's value is to replace the one that is there. The new programs follow what they find, so what
    /// they have changed stays, unless the former ones have given the key to another connection since. If an agent was
    /// killed while it copied, nothing is known about what is there: the later one stays.
    fn replaces(&self, before: Option<&(u64, u64)>, value: &[u8], there: &[u8]) -> bool {
        let (identity, other) = (self.identity(value), self.identity(there));
        let is_copy = before.is_some_and(|(copied, copied_identity)| {
            hash(there) == *copied || identity != *copied_identity && other == *copied_identity
        });
        is_copy || (before.is_none() || identity != other) && self.is_later(value, there)
    }

    /// Whether a successor's value changed later than another one, as far as the former map's values say it.
    fn is_later(&self, value: &[u8], than: &[u8]) -> bool {
        let at = self.seen_at[0].and(self.seen_at[1]);
        second(value, at) > second(than, at)
    }
}

/// Reads the second at this place of a value.
fn second(value: &[u8], at: Option<usize>) -> Option<u32> {
    let bytes = at.and_then(|at| value.get(at..at + size_of::<u32>()))?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
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

    /// Copies what has changed since the last call, or everything, but keeps what the successor's own programs have written
    /// since.
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
                // What has no place in a smaller map is left out.
                let is_smaller = to.capacity() < from.capacity();
                let is_array = matches!(from.kind(), MapType::Array | MapType::PerCpuArray);
                from.visit(|k, v| {
                    // The elements of a new array are zero, and most are not in use.
                    if is_array && v.iter().all(|byte| *byte == 0) {
                        return Ok(());
                    }
                    let value = value.convert(v, align);
                    let key = match is_raw {
                        true => k.into(),
                        false => key.convert(k, 1),
                    };
                    match is_smaller {
                        true if !is_array => to.add(&key, &value).map(drop),
                        true if second(&key, Some(0)) >= Some(to.capacity()) => Ok(()),
                        _ => batches.add(&key, &value),
                    }
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
                    let (key, mut value) = (key.convert(k, 1), value.convert(v, align));
                    followed.date(&mut value);
                    let (id, now) = (hash(&key), (hash(&value), followed.identity(&value)));
                    if removes {
                        present.insert(id);
                    }
                    let before = followed.copied.get(&id);
                    if before == Some(&now) {
                        return Ok(());
                    }
                    let is_added = before.is_none() && to.add(&key, &value)?;
                    if !is_added {
                        let there = to.get(&key)?;
                        let is_replaced =
                            there.is_some_and(|there| followed.replaces(before, &value, &there));
                        if is_replaced {
                            to.put(&key, &value)?;
                        } else if before.is_some() {
                            return Ok(());
                        }
                    }
                    followed.copied.insert(id, now);
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

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::{Followed, hash};

    /// A value of a connection: where it leads, and the second of its last packet.
    fn value(identity: u8, seen_s: u32) -> Vec<u8> {
        [&[identity, 0, 0, 0], &seen_s.to_ne_bytes()[..]].concat()
    }

    #[test]
    fn s197_the_later_of_two_entries_is_kept() {
        let followed = Followed::new([Some(12), Some(4)], once(0..1).collect());
        let copied = value(1, 10);
        let before = (hash(&copied), followed.identity(&copied));
        for (is_copied, now, there, is_replaced) in [
            // Copied by an agent that was killed, whatever happened since.
            (false, (2, 20), (1, 10), true),
            (false, (1, 20), (1, 10), true),
            (false, (1, 10), (2, 20), false),
            (false, (1, 10), (1, 20), false),
            (false, (2, 10), (1, 10), false),
            // Copied by this agent: the former programs have changed it, the new ones, or both.
            (true, (1, 20), (1, 10), true),
            (true, (2, 20), (1, 10), true),
            (true, (1, 20), (1, 11), false),
            (true, (2, 20), (1, 30), true),
            (true, (3, 20), (2, 15), true),
            (true, (3, 20), (2, 25), false),
        ] {
            let [now, there] = [now, there].map(|(identity, seen_s)| value(identity, seen_s));
            let before = is_copied.then_some(&before);
            let found = followed.replaces(before, &now, &there);
            assert_eq!(found, is_replaced, "{is_copied}: {now:?} {there:?}");
        }
        // Without a time of both, what is there stays, if it is not known to be a copy.
        for seen_at in [[None, Some(4)], [Some(12), None], [None, None]] {
            let followed = Followed::new(seen_at, once(0..1).collect());
            assert!(!followed.replaces(None, &value(2, 20), &value(1, 10)));
            assert!(followed.replaces(Some(&before), &value(2, 20), &copied));
        }
    }

    #[test]
    fn s203_entries_of_unknown_age_are_new() {
        for (seen_at, is_dated) in [
            ([None, Some(4)], true),
            ([Some(12), Some(4)], false),
            ([None, None], false),
        ] {
            let mut followed = Followed::new(seen_at, Vec::new());
            followed.begun_s = 77;
            let mut found = value(1, 0).into();
            followed.date(&mut found);
            assert_eq!(*found, *value(1, if is_dated { 77 } else { 0 }));
        }
    }
}
