//! The cases of direct server return through host and kernel.

use headgate_prog::load;

#[path = "../../../ebpf/packets/cases/dsr.rs"]
mod dsr;
