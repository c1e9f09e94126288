//! Free memory goes back to the kernel at once.
//!
//! The agent fills its memory once, at the start, and changes little of it afterwards. What the
//! allocator keeps for the next burst, and huge pages with a few used bytes, took more memory than the
//! agent's own data.
#![allow(unsafe_code, reason = "the allocator's options are C functions")]

use libmimalloc_sys::{mi_option_set, mi_option_t};
use nix::sys::prctl;
use tracing::warn;

/// `mi_option_purge_delay` of mimalloc.h: how long free memory is kept, in milliseconds.
const PURGE_DELAY: mi_option_t = 15;

/// Makes this process return free memory at once, and use no huge pages.
pub(super) fn return_at_once() {
    if let Err(error) = prctl::set_thp_disable(true) {
        warn!(%error, "cannot turn huge pages off: the agent takes more memory");
    }
    // SAFETY: the allocator's options may be set at any time.
    unsafe { mi_option_set(PURGE_DELAY, 0) };
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::PURGE_DELAY;

    /// Another version of mimalloc may number its options differently.
    #[test]
    fn option_number_is_that_of_the_purge_delay() {
        // SAFETY: reads a number.
        let before = unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(before, 1000, "milliseconds, the default");
    }
}
