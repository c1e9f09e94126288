//! Time in map entries.

/// Converts nanoseconds of the monotonic clock to seconds; valid for 70 years, off by at most two.
///
/// Kernel and userspace round alike, and a division would cost nanoseconds with every packet.
pub const fn seconds(nanoseconds: u64) -> u32 {
    const UNIT_BITS: u32 = 26;
    const FRACTION_BITS: u32 = 32;
    const UNIT: u64 = (1 << (UNIT_BITS + FRACTION_BITS)) / 1_000_000_000;
    ((nanoseconds >> UNIT_BITS).wrapping_mul(UNIT) >> FRACTION_BITS) as u32
}

/// Returns the seconds between two readings of the clock. A reading in the future, from another
/// CPU, counts as age 0.
#[inline(always)]
pub(crate) const fn age_s(seen_s: u32, now_s: u32) -> u32 {
    match now_s.wrapping_sub(seen_s) {
        age if age < u32::MAX / 2 => age,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn seconds_are_seconds() {
        const YEAR_S: u64 = 366 * 24 * 3600;
        for second in (0..70 * YEAR_S).step_by(1_000_003) {
            for part in [0, 500_000_000, 999_999_999] {
                let off = u64::from(seconds(second * 1_000_000_000 + part)).abs_diff(second);
                assert!(off <= 2, "{second} s, {part} ns: off by {off} s");
            }
        }
    }
}
