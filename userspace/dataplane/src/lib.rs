//! Loads the programs, attaches them and reads and writes their maps: the only crate of userspace
//! that knows BPF, and one that knows nothing of Kubernetes.

mod apply;
mod array;
mod attach;
mod clsact;
mod entries;
mod error;
mod foreign;
mod kernel;
mod load;
mod maps;
mod monitor;
mod netlink;
mod object;
mod probe;
mod report;
mod slots;
mod sockets;
mod steering;
mod sys;

pub use apply::Writer;
pub use array::SharedArray;
pub use attach::{
    Attached, Device, TcAttach, attach_cgroup, attach_egress, attach_ingress, attach_lookup,
    attached, cgroup_root, detach, is_attached,
};
pub use entries::Entries;
pub use error::Error;
pub use foreign::foreign_programs;
pub use kernel::{Feature, OLDEST_KERNEL};
pub use load::{Options, Programs, host_netns_cookie, load};
pub use maps::{Maps, Usage, pin_folder};
pub use monitor::Monitor;
pub use probe::{Probe, Trial, loaded_config};
pub use report::Report;
pub use steering::Steering;
pub use sys::{now_ns, now_s};
