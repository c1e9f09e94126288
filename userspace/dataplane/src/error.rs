//! The errors of this crate. Each names the map, program, pin or file that it is about.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError};

/// An error of the dataplane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The BPF object could not be read: it was not built, or `HEADGATE_BPF_OBJECT` names no file.
    #[error("no BPF object at {}: {source}; `cargo xtask build` makes it", path.display())]
    NoObject {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The kernel refused a map of the object, or the object cannot be read.
    #[error("cannot load the BPF object: {0}")]
    Load(#[source] Box<EbpfError>),
    /// The verifier or the kernel refused a program.
    #[error("cannot load or attach program {name}: {source}")]
    Program {
        /// Name of the program.
        name: String,
        /// The error of the kernel.
        source: Box<ProgramError>,
    },
    /// A map could not be read or written.
    #[error("cannot access map {name}: {}", with_cause(source))]
    Map {
        /// Name of the map.
        name: String,
        /// The error of the kernel.
        source: Box<MapError>,
    },
    /// The entries of a map could not be read.
    #[error("cannot read map {name}: {source}")]
    Read {
        /// Name of the map.
        name: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
    /// An array is full; its size is an option of the agent.
    #[error("map {name} is full: it takes {capacity} entries")]
    Full {
        /// Name of the map.
        name: &'static str,
        /// Its size.
        capacity: u32,
    },
    /// A hash map is full; its size is an option of the agent.
    #[error("map {name} is full")]
    NoRoom {
        /// Name of the map.
        name: &'static str,
    },
    /// The maps may not become as large as needed.
    #[error("the maps would take {wanted} MiB, and may take {most} (--max-map-memory)")]
    MemoryLimit {
        /// Memory that they would take, in MiB.
        wanted: u64,
        /// Memory that they may take, in MiB.
        most: u64,
    },
    /// Programs of another version are attached, whose maps cannot be taken over.
    #[error(
        "programs of version {version} of the maps are attached, and {reason}: run its `headgate cleanup` first"
    )]
    OtherVersion {
        /// The version.
        version: u32,
        /// Why its maps cannot be taken over.
        reason: String,
    },
    /// The maps could not be replaced by larger ones.
    #[error("cannot replace the maps by larger ones: {0:#}")]
    Grow(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A pin could not be made or read.
    #[error("cannot use pin {}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A map at a pin is not ours.
    #[error("pin {} is not a map of Headgate: {reason}", path.display())]
    ForeignPin {
        /// The pin.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// The BPF file system could not be written to.
    #[error("cannot pin to {}: {source}", path.display())]
    PinFailed {
        /// The pin.
        path: PathBuf,
        /// The error of the kernel.
        source: Box<PinError>,
    },
    /// Another monitor is attached. Each event is sent once, so there is one monitor at a time.
    #[error("another `headgate monitor` is attached already (one at a time)")]
    MonitorTaken,
    /// The log of the programs could not be read.
    #[cfg(feature = "trace")]
    #[error("cannot read the log of the programs: {0}")]
    Trace(#[source] aya_log::Error),
    /// A file could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// Sockets of a removed backend could not be ended.
    #[error("cannot end UDP sockets of removed backends: {0}")]
    Sockets(#[source] io::Error),
    /// The kernel's connections or rules could not be read or changed.
    #[error("cannot read or change the kernel's connections: {0}")]
    Netfilter(#[source] io::Error),
    /// A service's name does not fit into the label map.
    #[error("the name of service {0} is too long")]
    Label(String),
}

impl Error {
    pub(crate) fn program(name: &str, source: impl Into<ProgramError>) -> Self {
        Self::Program {
            name: name.into(),
            source: Box::new(source.into()),
        }
    }

    pub(crate) fn map(name: &str, source: impl Into<MapError>) -> Self {
        Self::Map {
            name: name.into(),
            source: Box::new(source.into()),
        }
    }
}

/// aya's error names the system call alone.
fn with_cause(error: &MapError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
