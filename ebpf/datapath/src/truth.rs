//! Conditions as numbers.

use core::{
    hint::black_box,
    ops::{BitAnd, BitOr, Not},
};

/// Whether something is so, computed without a branch.
///
/// VERIFIER: BPF has no instruction that stores the result of a comparison, so each `bool` is made by a branch, and the
/// verifier walks all that follows for both outcomes. A truth is an unknown number for it, 0 or 1. The black boxes keep
/// the compiler from making it a comparison again; each costs a store and a load.
#[derive(Clone, Copy)]
pub(crate) struct Truth(u64);

impl Truth {
    /// The highest bit of a difference.
    #[inline(always)]
    fn sign(difference: u64) -> Self {
        Self(black_box(black_box(difference) >> 63))
    }

    #[inline(always)]
    pub(crate) fn of(is_so: bool) -> Self {
        Self(black_box(is_so as u64))
    }

    #[inline(always)]
    pub(crate) fn nonzero(number: u32) -> Self {
        Self::sign(0u64.wrapping_sub(number.into()))
    }

    #[inline(always)]
    pub(crate) fn equal(one: u32, other: u32) -> Self {
        !Self::nonzero(one ^ other)
    }

    #[inline(always)]
    pub(crate) fn at_most(one: u32, most: u32) -> Self {
        !Self::sign(u64::from(most).wrapping_sub(one.into()))
    }

    /// `one` if it is so, else `other`.
    #[inline(always)]
    pub(crate) fn choose(self, one: u32, other: u32) -> u32 {
        let mask = (self.0 as u32).wrapping_neg();
        other ^ ((one ^ other) & mask)
    }

    /// For the branch that decides.
    #[inline(always)]
    pub(crate) fn holds(self) -> bool {
        self.0 != 0
    }
}

impl BitAnd for Truth {
    type Output = Self;

    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Truth {
    type Output = Self;

    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for Truth {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(self.0 ^ 1)
    }
}
