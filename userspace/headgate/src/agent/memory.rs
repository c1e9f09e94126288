//! Memory that is free goes back to the kernel.
//!
//! An agent fills its memory once, for a second, and then changes little of it. What the allocator keeps
//! for the next burst, and huge pages that are in use by a few bytes, were more than what it needs.
#![allow(unsafe_code, reason = "the allocator's options are functions of C")]

use libmimalloc_sys::{mi_option_set, mi_option_t};
use nix::sys::prctl;
use tracing::warn;

/// `mi_option_purge_delay` of mimalloc.h: for how many milliseconds free memory is kept.
const PURGE_DELAY: mi_option_t = 15;

/// Has this process keep no memory that is free.
pub(crate) fn keep_none() {
    if let Err(error) = prctl::set_thp_disable(true) {
        warn!("huge pages stay on, which takes more memory: {error}");
    }
    // SAFETY: the allocator may be told its options at any time.
    unsafe { mi_option_set(PURGE_DELAY, 0) };
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::PURGE_DELAY;

    /// Options are numbers, which another version may give to others.
    #[test]
    fn the_option_is_the_delay() {
        // SAFETY: reads a number.
        let before = unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(before, 1000, "milliseconds, the default");
    }
}
