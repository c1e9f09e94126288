//! The ids of services and backends in the maps.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How long an id, or a slot, that is not in use any more stays in quarantine. A program that read
/// it before finishes within microseconds; only a stopped virtual CPU takes longer.
pub const QUARANTINE: Duration = Duration::from_secs(2);

/// Ids by owner, from 1: those in use, and those in quarantine, which no other owner gets.
#[derive(Clone, Debug)]
pub struct Ids<K> {
    /// The highest id in use or in quarantine; 0 without any.
    last: u32,
    /// Available ids below it.
    gaps: BTreeSet<u32>,
    /// Ids in quarantine by their last owner, and since when.
    resting: BTreeMap<K, (u32, Instant)>,
    /// The same in order of time. An owner that got its id back leaves its place.
    queue: VecDeque<(Instant, K)>,
}

impl<K: Ord + Clone> Ids<K> {
    /// Returns the available ids, the lowest first.
    pub fn free(&self) -> impl Iterator<Item = u32> {
        self.gaps.iter().copied().chain(self.last + 1..)
    }

    /// Returns the id in quarantine whose last owner this is: it may get it back at once.
    pub fn resting(&self, owner: &K) -> Option<u32> {
        Some(self.resting.get(owner)?.0)
    }

    pub(crate) fn take(&mut self, owner: &K, id: u32) {
        if self.resting(owner) == Some(id) {
            self.resting.remove(owner);
        } else {
            self.occupy(id);
        }
    }

    /// Takes an id out of the available ones; false if it was in use already.
    fn occupy(&mut self, id: u32) -> bool {
        if id <= self.last {
            return self.gaps.remove(&id);
        }
        self.gaps.extend(self.last + 1..id);
        self.last = id;
        true
    }

    pub(crate) fn give_back(&mut self, owner: &K, id: u32, now: Instant) {
        self.queue.push_back((now, owner.clone()));
        let before = self.resting.insert(owner.clone(), (id, now));
        if let Some((before, _)) = before
            && before != id
        {
            self.release(before);
        }
    }

    /// Makes the ids available whose quarantine is over.
    pub(crate) fn end_quarantine(&mut self, now: Instant) {
        while let Some((since, _)) = self.queue.front()
            && now.saturating_duration_since(*since) >= QUARANTINE
            && let Some((since, owner)) = self.queue.pop_front()
        {
            if let Some((id, began)) = self.resting.get(&owner).copied()
                && began == since
            {
                self.resting.remove(&owner);
                self.release(id);
            }
        }
    }

    /// Keeps the quarantine of other ids that are not in use here.
    pub(crate) fn keep_quarantine(&mut self, of: Self) {
        for (since, owner) in of.queue {
            if let Some((id, began)) = of.resting.get(&owner).copied()
                && began == since
                && self.occupy(id)
            {
                self.queue.push_back((since, owner.clone()));
                self.resting.insert(owner, (id, since));
            }
        }
    }

    fn release(&mut self, id: u32) {
        self.gaps.insert(id);
        while self.gaps.remove(&self.last) {
            self.last -= 1;
        }
    }
}

impl<K> Default for Ids<K> {
    fn default() -> Self {
        Self {
            last: 0,
            gaps: BTreeSet::new(),
            resting: BTreeMap::new(),
            queue: VecDeque::new(),
        }
    }
}

impl<K: Ord + Clone> FromIterator<u32> for Ids<K> {
    fn from_iter<I: IntoIterator<Item = u32>>(used: I) -> Self {
        let mut ids = Self::default();
        for id in used {
            ids.occupy(id);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Ids, QUARANTINE};

    fn first(ids: &Ids<char>) -> u32 {
        ids.free().next().unwrap_or_default()
    }

    #[test]
    fn id_rests_before_another_owner_gets_it() {
        let start = Instant::now();
        let mut ids = Ids::default();
        ids.take(&'a', 1);
        ids.take(&'b', 2);
        ids.give_back(&'a', 1, start);
        assert_eq!((first(&ids), ids.resting(&'a')), (3, Some(1)));
        ids.end_quarantine(start + QUARANTINE / 2);
        assert_eq!((first(&ids), ids.resting(&'a')), (3, Some(1)));
        ids.end_quarantine(start + QUARANTINE);
        assert_eq!((first(&ids), ids.resting(&'a')), (1, None));
    }

    #[test]
    fn owner_that_is_back_gets_its_id_and_a_new_quarantine() {
        let start = Instant::now();
        let mut ids = Ids::default();
        ids.take(&'a', 1);
        ids.give_back(&'a', 1, start);
        ids.take(&'a', 1);
        ids.end_quarantine(start + QUARANTINE);
        assert_eq!(first(&ids), 2, "it is in use");
        ids.give_back(&'a', 1, start + QUARANTINE);
        ids.end_quarantine(start + QUARANTINE * 2 - QUARANTINE / 2);
        assert_eq!(first(&ids), 2, "it rests");
        ids.end_quarantine(start + QUARANTINE * 2);
        assert_eq!(first(&ids), 1);
    }

    #[test]
    fn ids_that_were_read_again_keep_the_quarantine_of_the_others() {
        let start = Instant::now();
        let mut ids = Ids::default();
        for (owner, id) in [('a', 1), ('b', 2), ('c', 5)] {
            ids.take(&owner, id);
        }
        for (owner, id) in [('b', 2), ('c', 5)] {
            ids.give_back(&owner, id, start);
        }
        let mut again: Ids<char> = [1, 2].into_iter().collect();
        again.keep_quarantine(ids);
        let free: Vec<u32> = again.free().take(3).collect();
        assert_eq!(free, [3, 4, 6], "2 is in use, and 5 rests");
        again.end_quarantine(start + QUARANTINE);
        let free: Vec<u32> = again.free().take(3).collect();
        assert_eq!(free, [3, 4, 5]);
    }
}
