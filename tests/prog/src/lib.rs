//! The walk in the kernel.
//!
//! [`load`] makes a [`Kernel`] for the golden cases of `headgate-packets`, which run each frame on the
//! host and in the kernel and compare.

mod kernel;

use headgate_packets::{Replica, State};
pub use kernel::Kernel;

/// Loads the programs over a state, or returns `None` and says so if this process is not root.
pub fn load(name: &str, state: &State) -> Option<Box<dyn Replica>> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: kernel part of {name}: loading programs needs root");
        return None;
    }
    let kernel = Kernel::new(name, state);
    Some(Box::new(kernel.unwrap_or_else(|error| {
        panic!("loading the programs of {name}: {error:?}")
    })))
}
