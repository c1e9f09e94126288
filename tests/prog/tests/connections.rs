//! The cases of connections through host and kernel.

use headgate_prog::load;

#[path = "../../../ebpf/packets/cases/connections.rs"]
mod connections;
