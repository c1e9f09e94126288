//! Loads the object over the maps that are pinned already.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

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
    error::Error, grow::grow_caches, kernel, migrate::Migration, pin::typed, raw::RawMap,
    state_file::TextMap, sys, version::Version,
};

/// Sizes of the maps, in entries. Those that the agent writes have them at first, and become larger when they are full
/// ([`grow()`](crate::grow())). Those that programs write become as large when programs are loaded, but not smaller.
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
    /// Pairs of a Service with affinity and a backend.
    pub members: u32,
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
            members: 1 << 17,
            affinities: 1 << 16,
            connections: 1 << 18,
            sockets: 1 << 16,
        }
    }
}

impl MapSizes {
    /// Makes the size of a map at least this.
    pub(crate) fn raise(&mut self, name: &str, entries: u32) {
        let size = match name {
            names::FRONTENDS | names::ADDRESSES => &mut self.frontends,
            names::SOURCE_RANGES => &mut self.source_ranges,
            names::AFFINITY_MEMBERS => &mut self.members,
            names::SERVICES | names::SERVICE_LABELS | names::SERVICE_TRAFFIC => &mut self.services,
            names::BACKENDS
            | names::LOCAL_BACKENDS
            | names::PAUSED_BACKENDS
            | names::BACKEND_TRAFFIC => &mut self.backends,
            names::SLOTS => &mut self.slots,
            names::AFFINITY => &mut self.affinities,
            names::CONNTRACK => &mut self.connections,
            names::SOCKETS => &mut self.sockets,
            // The others have the sizes of the object.
            _ => return,
        };
        *size = entries.max(*size);
    }

    /// The sizes of the maps that programs write.
    pub(crate) fn of_programs(&self) -> [(&'static str, u32); 3] {
        [
            (names::AFFINITY, self.affinities),
            (names::CONNTRACK, self.connections),
            (names::SOCKETS, self.sockets),
        ]
    }

    /// The sizes of the maps that the agent writes.
    pub(crate) fn of_agent(&self) -> [(&'static str, u32); 12] {
        [
            (names::FRONTENDS, self.frontends),
            (names::ADDRESSES, self.frontends),
            (names::SOURCE_RANGES, self.source_ranges),
            (names::AFFINITY_MEMBERS, self.members),
            (names::SERVICES, self.services),
            (names::SERVICE_LABELS, self.services),
            (names::SERVICE_TRAFFIC, self.services),
            (names::BACKENDS, self.backends),
            (names::LOCAL_BACKENDS, self.backends),
            (names::PAUSED_BACKENDS, self.backends),
            (names::BACKEND_TRAFFIC, self.backends),
            (names::SLOTS, self.slots),
        ]
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
/// If programs of another version are attached, they are replaced, and what its maps hold is taken over.
///
/// # Errors
///
/// If there is no object, or the kernel lacks a feature or refuses a map or program, or a map pinned below `pins` is of
/// another kind.
pub fn load(pins: &Path, config: &DatapathConfig, sizes: &MapSizes) -> Result<Programs, Error> {
    load_as(&Version::ours(), pins, config, sizes)
}

/// Loads the programs of a version.
pub(crate) fn load_as(
    version: &Version,
    pins: &Path,
    config: &DatapathConfig,
    sizes: &MapSizes,
) -> Result<Programs, Error> {
    let folder = version.folder(pins);
    check(version, &folder)?;
    let programs = match Migration::find(pins, version)? {
        Some(migration) => migration.run(config, sizes)?,
        None => match grow_caches(version, &folder, config, sizes)? {
            Some(programs) => programs,
            None => {
                make_folder(&folder)?;
                Programs::new(load_with(version, config, sizes, |name| folder.join(name))?)
            }
        },
    };
    let mut loaded: Array<MapData, DatapathConfig> = typed(&folder, names::LOADED)?;
    let result = loaded.set(0, config, 0);
    result.map_err(|source| Error::map(names::LOADED, source))?;
    TextMap::open(folder.join(names::LAYOUT))?.write(&version.layouts)?;
    Ok(programs)
}

/// Checks that the pinned maps of a version have the layouts that it has. Those of a build that had the same number before
/// may not: its connections would be misread.
fn check(version: &Version, folder: &Path) -> Result<(), Error> {
    let made = version.made()?;
    for name in names::MAPS {
        let path = folder.join(name);
        if path.exists() && !made.has_shape_of(name, &RawMap::open(path.clone())?) {
            let number = version.number;
            let reason = format!(
                "its kind or its sizes are not those of version {number}; if an earlier build made it, run the \
                 `headgate cleanup` of that build"
            );
            return Err(Error::ForeignPin { path, reason });
        }
    }
    Ok(())
}

/// Reads the object over maps that are pinned at these paths, or are created there.
pub(crate) fn load_with(
    version: &Version,
    config: &DatapathConfig,
    sizes: &MapSizes,
    pin: impl Fn(&str) -> PathBuf,
) -> Result<Ebpf, Error> {
    let helpers = kernel::helpers();
    let object = version.object(&helpers)?;
    sys::lift_memory_limit();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(names::CONFIG, config, true)
        .override_global(names::HELPERS, &helpers, true);
    for (name, size) in sizes.of_agent().into_iter().chain(sizes.of_programs()) {
        loader.map_max_entries(name, size);
    }
    for name in names::MAPS {
        loader.map_pin_path(name, pin(name));
    }
    let ebpf = loader.load(&object);
    ebpf.map_err(|source| Error::Load(Box::new(source)))
}

pub(crate) fn make_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|source| Error::Pin {
        path: folder.to_owned(),
        source,
    })
}

impl Programs {
    pub(crate) fn new(ebpf: Ebpf) -> Self {
        Self { ebpf }
    }

    /// Returns the descriptor of a program; `None` if it is not loaded.
    pub(crate) fn fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        Some(self.ebpf.program(name)?.fd().ok()?.as_fd())
    }

    /// The names of the programs that are loaded.
    pub fn loaded(&self) -> Vec<String> {
        let programs = self.ebpf.programs();
        let loaded = programs.filter(|(_, program)| program.fd().is_ok());
        loaded.map(|(name, _)| name.to_owned()).collect()
    }

    /// Loads these programs.
    pub(crate) fn load_all(&mut self, names: &[String]) -> Result<(), Error> {
        for (name, program) in self.ebpf.programs_mut() {
            if names.iter().any(|wanted| wanted == name) {
                let loaded = match program {
                    Program::Xdp(program) => program.load(),
                    Program::SchedClassifier(program) => program.load(),
                    Program::SkLookup(program) => program.load(),
                    Program::CgroupSock(program) => program.load(),
                    Program::CgroupSockAddr(program) => program.load(),
                    _ => Err(ProgramError::UnexpectedProgramType),
                };
                loaded.map_err(|source| Error::program(name, source))?;
            }
        }
        Ok(())
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
