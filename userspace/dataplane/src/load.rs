//! Loads the object over the maps that are pinned already.

use std::{fs, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{
        CgroupSock, CgroupSockAddr, Program, ProgramError, ProgramFd, SchedClassifier, SkLookup,
        Xdp,
    },
};
#[cfg(feature = "trace")]
use aya_log::EbpfLogger;
use headgate_abi::{DatapathConfig, names};

use crate::{
    error::Error,
    kernel, object,
    pin::{pin_folder, typed},
    sys,
};

/// Sizes of the maps, in entries. They take effect when a map is created, not when it is found pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Frontends, and their addresses.
    pub frontends: u32,
    /// Services, plus one: id 0 is not used.
    pub services: u32,
    /// Backends, plus one: id 0 is not used.
    pub backends: u32,
    /// Slots of all Services together. A table that is replaced still occupies its slots for some seconds.
    pub slots: u32,
    /// Source ranges of all Services together.
    pub source_ranges: u32,
    /// Clients of Services with affinity.
    pub affinities: u32,
    /// Connection entries, two for each connection.
    pub connections: u32,
    /// Translated sockets.
    pub sockets: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            frontends: 1 << 16,
            services: 1 << 16,
            backends: 1 << 17,
            slots: 1 << 20,
            source_ranges: 1 << 16,
            affinities: 1 << 16,
            connections: 1 << 18,
            sockets: 1 << 16,
        }
    }
}

/// The programs of the object.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

/// Returns the cookie of this thread's network namespace; 0 before Linux 5.14. It stands for the kernel's first
/// namespace.
pub fn host_netns_cookie() -> u64 {
    sys::netns_cookie().unwrap_or_default()
}

/// Reads the object with this read-only configuration. Maps that are pinned below `pins` are used again;
/// others are created in these sizes and pinned there. Each program is loaded when it is first asked for.
///
/// # Errors
///
/// If there is no object, or the kernel lacks a feature or refuses a map, or a map pinned below `pins` is of
/// another kind.
pub fn load(pins: &Path, config: &DatapathConfig, sizes: &MapSizes) -> Result<Programs, Error> {
    let helpers = kernel::helpers();
    let object = object::read(&helpers)?;
    let folder = pin_folder(pins);
    fs::create_dir_all(&folder).map_err(|source| Error::Pin {
        path: folder.clone(),
        source,
    })?;
    sys::lift_memory_limit();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(names::CONFIG, config, true)
        .override_global(names::HELPERS, &helpers, true)
        .map_max_entries(names::FRONTENDS, sizes.frontends)
        .map_max_entries(names::ADDRESSES, sizes.frontends)
        .map_max_entries(names::SOURCE_RANGES, sizes.source_ranges)
        .map_max_entries(names::AFFINITY, sizes.affinities)
        .map_max_entries(names::AFFINITY_MEMBERS, sizes.backends)
        .map_max_entries(names::SERVICES, sizes.services)
        .map_max_entries(names::SERVICE_LABELS, sizes.services)
        .map_max_entries(names::SERVICE_TRAFFIC, sizes.services)
        .map_max_entries(names::BACKENDS, sizes.backends)
        .map_max_entries(names::LOCAL_BACKENDS, sizes.backends)
        .map_max_entries(names::BACKEND_TRAFFIC, sizes.backends)
        .map_max_entries(names::SLOTS, sizes.slots)
        .map_max_entries(names::CONNTRACK, sizes.connections)
        .map_max_entries(names::SOCKETS, sizes.sockets);
    for name in names::MAPS {
        loader.map_pin_path(name, folder.join(name));
    }
    let ebpf = loader
        .load(&object)
        .map_err(|source| Error::Load(Box::new(source)))?;
    let mut loaded: Array<MapData, DatapathConfig> = typed(&folder, names::LOADED)?;
    let result = loaded.set(0, config, 0);
    result.map_err(|source| Error::map(names::LOADED, source))?;
    Ok(Programs::new(ebpf))
}

impl Programs {
    pub(crate) fn new(ebpf: Ebpf) -> Self {
        Self { ebpf }
    }

    /// Returns a program of this kind, loaded.
    fn get<'a, P: Loadable>(&'a mut self, name: &str) -> Result<&'a mut P, Error>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let failed = |source: ProgramError| Error::program(name, source);
        let program = self.ebpf.program_mut(name);
        let program = program.ok_or_else(|| failed(ProgramError::NotLoaded))?;
        let program: &mut P = program.try_into().map_err(failed)?;
        if program.fd().is_err() {
            program.load().map_err(failed)?;
        }
        Ok(program)
    }

    /// Returns the reader of the programs' log, if they were built to trace (`cargo xtask build --trace`). Keep
    /// it while the programs run: there is one for each loaded object.
    ///
    /// # Errors
    ///
    /// If the log cannot be opened.
    #[cfg(feature = "trace")]
    pub fn logger(&mut self) -> Result<Option<EbpfLogger<&'static dyn log::Log>>, Error> {
        match EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => Ok(Some(logger)),
            Err(aya_log::Error::MapNotFound) => Ok(None),
            Err(error) => Err(Error::Trace(error)),
        }
    }

    /// Returns an XDP program, loaded.
    ///
    /// # Errors
    ///
    /// If there is no such program, or the kernel refuses it.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp, Error> {
        self.get(name)
    }

    /// Returns a TC program, loaded.
    ///
    /// # Errors
    ///
    /// As [`Programs::xdp`].
    pub fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier, Error> {
        self.get(name)
    }

    /// Returns the program that looks up sockets, loaded.
    ///
    /// # Errors
    ///
    /// As [`Programs::xdp`].
    pub fn lookup(&mut self, name: &str) -> Result<&mut SkLookup, Error> {
        self.get(name)
    }

    /// Returns the socket hook that forgets closed sockets, loaded.
    ///
    /// # Errors
    ///
    /// As [`Programs::xdp`].
    pub fn release_hook(&mut self) -> Result<&mut CgroupSock, Error> {
        self.get(names::SOCK_RELEASE)
    }

    /// Returns a socket hook that translates, loaded.
    ///
    /// # Errors
    ///
    /// As [`Programs::xdp`].
    pub fn socket_hook(&mut self, name: &str) -> Result<&mut CgroupSockAddr, Error> {
        self.get(name)
    }
}

/// A kind of program that needs nothing but its code to be loaded.
pub(crate) trait Loadable {
    /// Returns the descriptor, which a program has once it is loaded.
    fn fd(&self) -> Result<&ProgramFd, ProgramError>;
    fn load(&mut self) -> Result<(), ProgramError>;
}

macro_rules! loadable {
    ($($program:ty),*) => {
        $(impl Loadable for $program {
            fn fd(&self) -> Result<&ProgramFd, ProgramError> {
                self.fd()
            }

            fn load(&mut self) -> Result<(), ProgramError> {
                self.load()
            }
        })*
    };
}

loadable!(Xdp, SchedClassifier, SkLookup, CgroupSock, CgroupSockAddr);
