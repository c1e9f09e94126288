//! The slots that are available.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use headgate_abi::{SlotRange, names};
use headgate_model::QUARANTINE;

use crate::error::Error;

/// The slots that are available, and those in quarantine.
pub(crate) struct Slots {
    capacity: u32,
    /// First slot and number of slots of each gap.
    free: BTreeMap<u32, u32>,
    quarantine: VecDeque<(Instant, SlotRange)>,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            free: BTreeMap::from([(0, capacity)]),
            quarantine: VecDeque::new(),
        }
    }

    /// Adds slots at the end, up to this capacity.
    pub(crate) fn grow(&mut self, capacity: u32) {
        let count = capacity.saturating_sub(self.capacity);
        let first = std::mem::replace(&mut self.capacity, capacity);
        self.release(SlotRange { first, count });
    }

    /// Starts again from the ranges that are in use. Ranges in quarantine stay there.
    pub(crate) fn restore(&mut self, mut used: Vec<SlotRange>) {
        used.extend(self.quarantine.iter().map(|(_, range)| *range));
        used.sort_by_key(|range| range.first);
        self.free.clear();
        let mut first = 0;
        for range in used {
            if range.first > first {
                self.free.insert(first, range.first - first);
            }
            first = first.max(range.first.saturating_add(range.count));
        }
        if first < self.capacity {
            self.free.insert(first, self.capacity - first);
        }
    }

    /// Returns the first gap that is large enough. Without one, [`Error::Full`].
    pub(crate) fn take(&mut self, count: u32) -> Result<SlotRange, Error> {
        if count == 0 {
            return Ok(SlotRange::default());
        }
        while let Some((since, range)) = self.quarantine.front().copied() {
            if since.elapsed() < QUARANTINE {
                break;
            }
            self.quarantine.pop_front();
            self.release(range);
        }
        let mut gaps = self.free.iter();
        let gap = gaps.find(|(_, len)| **len >= count);
        let Some((first, len)) = gap.map(|(first, len)| (*first, *len)) else {
            return Err(Error::Full {
                name: names::SLOTS,
                capacity: self.capacity,
            });
        };
        self.free.remove(&first);
        if len > count {
            self.free.insert(first + count, len - count);
        }
        Ok(SlotRange { first, count })
    }

    /// Puts a range into quarantine.
    pub(crate) fn give_back(&mut self, range: SlotRange) {
        if range.count > 0 {
            self.quarantine.push_back((Instant::now(), range));
        }
    }

    /// Returns a range that was never published.
    pub(crate) fn release(&mut self, range: SlotRange) {
        if range.count == 0 {
            return;
        }
        let (mut first, mut count) = (range.first, range.count);
        if let Some((before, len)) = self.free.range(..first).next_back()
            && before + len == first
        {
            (first, count) = (*before, len + count);
        }
        if let Some(len) = self.free.remove(&(range.first + range.count)) {
            count += len;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::{SlotRange, Slots};

    #[test]
    fn gaps_are_joined_and_taken_again() {
        let mut slots = Slots::new(10);
        let [a, b, c] = [3, 3, 4].map(|count| slots.take(count).unwrap());
        assert_eq!((a.first, b.first, c.first), (0, 3, 6));
        assert!(slots.take(1).is_err());
        for range in [a, c, b] {
            slots.release(range);
        }
        assert_eq!(slots.take(10).unwrap().first, 0);
    }

    #[test]
    fn more_slots_join_the_last_gap() {
        let mut slots = Slots::new(4);
        slots.take(3).unwrap();
        slots.grow(9);
        assert_eq!(slots.take(6).unwrap().first, 3);
    }

    #[test]
    fn freed_slots_rest_before_they_are_taken_again() {
        let mut slots = Slots::new(2);
        let range = slots.take(2).unwrap();
        slots.give_back(range);
        assert!(slots.take(1).is_err());
        slots.restore(vec![]);
        assert!(slots.take(1).is_err(), "restoring forgets nothing");
    }

    #[test]
    fn restored_ranges_are_not_given_out() {
        let mut slots = Slots::new(10);
        slots.restore(vec![
            SlotRange { first: 4, count: 2 },
            SlotRange { first: 0, count: 1 },
        ]);
        assert_eq!(slots.take(3).unwrap().first, 1);
        assert_eq!(slots.take(4).unwrap().first, 6);
        assert!(slots.take(1).is_err());
    }
}
