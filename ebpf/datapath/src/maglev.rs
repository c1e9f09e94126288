//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Every backend has its own order of preference over all slots, a permutation made from an offset
//! and a step that has no divisor in common with the prime table size. Backends take turns; each
//! takes the first slot of its order that is still free. So every backend gets the same number of
//! slots, give or take one. The orders do not depend on the other backends, so adding or removing
//! one of n backends moves about 1/n of the slots and few others.
//!
//! With weights (section 3.4 names them, and leaves the way open) each backend gets its weight as credit in every
//! round, and takes a slot for as much credit as the largest weight. Equal weights are the turns above.

use headgate_abi::{Addr, Port};

use crate::hash::mix;

/// Table sizes that may be chosen: primes about twice as large as the one before.
pub const SIZES: [u32; 10] = [
    251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071,
];

/// A backend, and its position in its order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The value of its slots.
    pub id: u32,
    offset: u32,
    step: u32,
    next: u32,
    weight: u32,
    credit: i64,
}

impl Member {
    /// A backend for a table of `size` slots, which must be prime. Its order of preference comes
    /// from address, port and seed alone, so it is the same on every node. Its weight is 1.
    pub fn new(id: u32, address: Addr, port: Port, seed: u32, size: u32) -> Self {
        let hash = |salt: u32| {
            address
                .words()
                .into_iter()
                .chain([u32::from(port.word()), salt])
                .fold(seed, |hash, word| {
                    mix(hash ^ word).wrapping_add(0x9e37_79b9)
                })
        };
        Self {
            id,
            offset: hash(1) % size,
            step: hash(2) % (size - 1) + 1,
            next: 0,
            weight: 1,
            credit: 0,
        }
    }

    /// The same backend with a weight.
    #[must_use]
    pub fn weighing(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    fn preference(&self, size: u32) -> u32 {
        let distance = u64::from(self.next) * u64::from(self.step);
        ((u64::from(self.offset) + distance) % u64::from(size)) as u32
    }
}

/// Fills every slot of `table` with the id of a member, or with 0 if no member has a weight.
///
/// The order of `members` breaks ties, so callers sort them the same way on every node. Weights whose sum is the size
/// of the table are the numbers of slots that the members get.
pub fn fill(table: &mut [u32], members: &mut [Member]) {
    table.fill(0);
    let largest = members.iter().map(|member| member.weight).max();
    let Some(largest @ 1..) = largest else {
        return;
    };
    let size = table.len() as u32;
    let mut free = size;
    while free > 0 {
        for member in members.iter_mut() {
            if free == 0 {
                return;
            }
            member.credit += i64::from(member.weight);
            if member.credit <= 0 {
                continue;
            }
            member.credit -= i64::from(largest);
            if let Some(slot) = first_free(table, member, size) {
                *slot = member.id;
                free -= 1;
            }
        }
    }
}

fn first_free<'a>(table: &'a mut [u32], member: &mut Member, size: u32) -> Option<&'a mut u32> {
    while member.next < size {
        let index = member.preference(size) as usize;
        member.next += 1;
        if table.get(index) == Some(&0) {
            return table.get_mut(index);
        }
    }
    None
}
