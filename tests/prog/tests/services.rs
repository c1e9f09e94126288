//! The cases of services through host and kernel.

use headgate_prog::load;

#[path = "../../../ebpf/packets/cases/frames.rs"]
mod frames;
#[path = "../../../ebpf/packets/cases/services.rs"]
mod services;
