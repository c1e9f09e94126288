//! The golden cases through host and kernel, byte for byte.

use headgate_prog::load;

#[path = "../../../ebpf/packets/cases/golden.rs"]
mod golden;
