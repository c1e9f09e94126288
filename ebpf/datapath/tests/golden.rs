//! The golden cases on the host. `tests/prog` runs the same cases through the kernel as well.

use headgate_packets::{Replica, State};

/// No kernel: the host alone.
fn load(_name: &str, _state: &State) -> Option<Box<dyn Replica>> {
    None
}

#[path = "../../packets/cases/connections.rs"]
mod connections;
#[path = "../../packets/cases/devices.rs"]
mod devices;
#[path = "../../packets/cases/dsr.rs"]
mod dsr;
#[path = "../../packets/cases/frames.rs"]
mod frames;
#[path = "../../packets/cases/golden.rs"]
mod golden;
#[path = "../../packets/cases/services.rs"]
mod services;
