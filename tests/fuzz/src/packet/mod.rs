//! Packets through the walk, on the host and in the kernel.

mod check;
mod make;
mod run;
mod state;
mod steps;

use crate::Target;

/// The walk on the host: no panic, and every outcome is what an independent reader of packets finds
/// right.
pub(crate) const HOST: Target = Target {
    name: "packet-host",
    needs_root: false,
    make: make::host,
    runner: run::host,
};

/// The kernel's programs do what the walk on the host does, byte for byte.
pub(crate) const KERNEL: Target = Target {
    name: "packet-kernel",
    needs_root: true,
    make: make::kernel,
    runner: run::kernel,
};
