//! Random packets through the datapath, on the host and in the kernel.

mod check;
mod make;
mod run;
mod state;
mod steps;

use crate::Target;

/// The datapath on the host: no panic, and an independent packet parser finds every outcome correct.
pub(crate) const HOST: Target = Target {
    name: "packet-host",
    needs_root: false,
    make: make::host,
    runner: run::host,
};

/// The programs in the kernel do what the datapath does on the host, byte for byte.
pub(crate) const KERNEL: Target = Target {
    name: "packet-kernel",
    needs_root: true,
    make: make::kernel,
    runner: run::kernel,
};
