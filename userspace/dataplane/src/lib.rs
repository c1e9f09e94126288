//! Loads the programs, attaches them, and reads and writes their maps: the only crate of userspace that knows
//! BPF. It knows nothing of Kubernetes.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use headgate_dataplane::{DatapathConfig, Error, MapSizes, MapWriter, Maps, load};
//! use headgate_model::Dataplane;
//!
//! fn main() -> Result<(), Error> {
//!     let pins = Path::new("/sys/fs/bpf/headgate");
//!     load(pins, &DatapathConfig::default(), &MapSizes::default())?;
//!     let (seed, table_size) = (0, 251);
//!     let mut writer = MapWriter::new(Maps::open_writable(pins)?, seed, table_size);
//!     let found = writer.restore()?;
//!     println!("{} services, {} repairs", found.actual.services.len(), found.repairs);
//!     Ok(())
//! }
//! ```

mod apply;
mod array;
mod attach;
mod clsact;
mod copy;
mod entries;
mod error;
mod foreign;
mod grow;
mod interfaces;
mod kernel;
mod layouts;
mod left_cgroups;
mod links;
mod load;
mod made;
mod maps;
#[cfg(any(test, feature = "memory"))]
mod memory;
mod migrate;
mod monitor;
pub mod netfilter;
mod netlink;
mod object;
#[cfg(any(test, feature = "other-version"))]
mod other;
mod pin;
mod probe;
mod ranges;
mod raw;
mod slots;
mod sockets;
mod sources;
mod state_file;
mod steering;
mod store;
mod sys;
mod takeover;
mod targets;
mod version;

pub use apply::MapWriter;
pub use array::{ReadOnly, ReadWrite, SharedArray};
pub use attach::{
    Attached, Attachment, Device, Role, TcAttach, attach_cgroup, attach_egress, attach_ingress,
    attach_lookup, attached, cgroup_root, detach_others, is_attached,
};
pub use entries::Entries;
pub use error::Error;
pub use foreign::foreign_programs;
pub use grow::{Larger, grow};
pub use headgate_abi::DatapathConfig;
pub use interfaces::{Interface, InterfaceKind, interfaces, sources_with_rules};
pub use kernel::{Feature, OLDEST_KERNEL};
pub use left_cgroups::{pod_cgroup, write_left_cgroups};
pub use links::LinkChanges;
pub use load::{MapSizes, Programs, host_netns_cookie, load};
pub use maps::{Maps, Usage};
#[cfg(feature = "memory")]
pub use memory::{MemoryArray, MemoryHash, MemoryMaps};
pub use migrate::{OtherVersion, other_versions};
pub use monitor::Monitor;
#[cfg(feature = "other-version")]
pub use other::{become_former, load_other_version};
pub use pin::pin_folder;
pub use probe::{Probe, Trial, loaded_config};
pub use ranges::write_service_ranges;
pub use sockets::Connected;
pub use sources::write_sources;
pub use state_file::StateFile;
pub use steering::Steering;
pub use store::AgentMaps;
pub use sys::{now_ns, now_s};
pub use takeover::Handover;
pub use targets::{write_xdp_targets, xdp_targets};
