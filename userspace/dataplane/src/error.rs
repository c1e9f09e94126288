//! What can go wrong, with the name of the thing it went wrong with.

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
        /// What the kernel said.
        source: io::Error,
    },
    /// The object could not be loaded; a missing kernel feature shows here.
    #[error("cannot load the BPF object: {0}")]
    Load(#[source] Box<EbpfError>),
    /// The verifier or the kernel refused a program.
    #[error("cannot load or attach program {name}: {source}")]
    Program {
        /// Name of the program.
        name: String,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A map could not be read or written.
    #[error("cannot access map {name}: {source}")]
    Map {
        /// Name of the map.
        name: String,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// The entries of a map could not be read.
    #[error("cannot read map {name}: {source}")]
    Read {
        /// Name of the map.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no room left in a map.
    #[error("map {name} is full: it takes {capacity} entries")]
    Full {
        /// Name of the map.
        name: &'static str,
        /// Its size.
        capacity: u32,
    },
    /// A hash map takes no more; its size is an option of the agent.
    #[error("map {name} is full")]
    NoRoom {
        /// Name of the map.
        name: &'static str,
    },
    /// A pin could not be made or read.
    #[error("cannot use pin {}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map at a pin is not ours.
    #[error("pin {} is not a map of Headgate: {reason}", path.display())]
    ForeignPin {
        /// The pin.
        path: PathBuf,
        /// In what it differs.
        reason: String,
    },
    /// The BPF file system could not be written to.
    #[error("cannot pin to {}: {source}", path.display())]
    PinFailed {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: Box<PinError>,
    },
    /// Events are told once, and somebody else listens.
    #[error("somebody else looks at events; one can at a time")]
    MonitorTaken,
    /// The log of the programs could not be read.
    #[error("cannot read the log of the programs: {0}")]
    Trace(#[source] aya_log::Error),
    /// A file could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Sockets of a removed backend could not be ended.
    #[error("cannot end UDP sockets of removed backends: {0}")]
    Sockets(#[source] io::Error),
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
