//! Loading the object, with the maps that are pinned already.

use std::{fs, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{CgroupSockAddr, ProgramError, SchedClassifier, SkLookup, Xdp},
};
use aya_log::EbpfLogger;
use headgate_abi::{DatapathConfig, names};

use crate::{
    error::Error,
    kernel,
    maps::{pin_folder, typed},
    object, sys,
};

/// Sizes of the maps, in entries. They take effect when a map is made, not when it is found pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Read-only configuration of the programs.
    pub config: DatapathConfig,
    /// Frontends.
    pub frontends: u32,
    /// Services.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Slots of all services together.
    pub slots: u32,
    /// Source ranges of all services together.
    pub source_ranges: u32,
    /// Clients of services with affinity.
    pub affinities: u32,
    /// Connection entries, two for each connection.
    pub connections: u32,
    /// Translated sockets.
    pub sockets: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: DatapathConfig::default(),
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

/// The loaded object.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

/// Cookie of the calling thread's network namespace; 0, which stands for the kernel's first one, if
/// the kernel does not tell.
pub fn host_netns_cookie() -> u64 {
    sys::netns_cookie().unwrap_or_default()
}

/// Loads the object. Maps pinned below `pins` are used again, others are made and pinned there.
/// Programs are loaded when they are first asked for.
pub fn load(pins: &Path, options: &Options) -> Result<Programs, Error> {
    let object = object::read()?;
    let folder = pin_folder(pins);
    fs::create_dir_all(&folder).map_err(|source| Error::Pin {
        path: folder.clone(),
        source,
    })?;
    sys::lift_memory_limit();
    let helpers = kernel::helpers();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(names::CONFIG, &options.config, true)
        .override_global(names::HELPERS, &helpers, true)
        .map_max_entries(names::FRONTENDS, options.frontends)
        .map_max_entries(names::ADDRESSES, options.frontends)
        .map_max_entries(names::SOURCE_RANGES, options.source_ranges)
        .map_max_entries(names::AFFINITY, options.affinities)
        .map_max_entries(names::AFFINITY_MEMBERS, options.backends)
        .map_max_entries(names::SERVICES, options.services)
        .map_max_entries(names::SERVICE_LABELS, options.services)
        .map_max_entries(names::SERVICE_TRAFFIC, options.services)
        .map_max_entries(names::BACKENDS, options.backends)
        .map_max_entries(names::LOCAL_BACKENDS, options.backends)
        .map_max_entries(names::BACKEND_TRAFFIC, options.backends)
        .map_max_entries(names::SLOTS, options.slots)
        .map_max_entries(names::CONNTRACK, options.connections)
        .map_max_entries(names::SOCKETS, options.sockets);
    for name in names::MAPS {
        loader.map_pin_path(name, folder.join(name));
    }
    let ebpf = loader
        .load(&object)
        .map_err(|source| Error::Load(Box::new(source)))?;
    let mut loaded: Array<MapData, DatapathConfig> = typed(&folder, names::LOADED)?;
    let result = loaded.set(0, options.config, 0);
    result.map_err(|source| Error::map(names::LOADED, source))?;
    Ok(Programs::new(ebpf))
}

impl Programs {
    pub(crate) fn new(ebpf: Ebpf) -> Self {
        Self { ebpf }
    }

    fn get<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Error>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let missing = || Error::program(name, ProgramError::NotLoaded);
        let program = self.ebpf.program_mut(name).ok_or_else(missing)?;
        program
            .try_into()
            .map_err(|source: ProgramError| Error::program(name, source))
    }

    /// What reads the log of programs that were built to trace (`cargo xtask build --trace`). There
    /// is one for each loaded object, to be kept as long as that.
    pub fn logger(&mut self) -> Result<Option<EbpfLogger<&'static dyn log::Log>>, Error> {
        match EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => Ok(Some(logger)),
            Err(aya_log::Error::MapNotFound) => Ok(None),
            Err(error) => Err(Error::Trace(error)),
        }
    }

    /// An XDP program, loaded.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp, Error> {
        let program = self.get::<Xdp>(name)?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(|source| Error::program(name, source))?;
        }
        Ok(program)
    }

    /// A TC program, loaded.
    pub fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier, Error> {
        let program = self.get::<SchedClassifier>(name)?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(|source| Error::program(name, source))?;
        }
        Ok(program)
    }

    /// The socket look-up, loaded.
    pub fn lookup(&mut self, name: &str) -> Result<&mut SkLookup, Error> {
        let program = self.get::<SkLookup>(name)?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(|source| Error::program(name, source))?;
        }
        Ok(program)
    }

    /// A socket hook, loaded.
    pub fn socket_hook(&mut self, name: &str) -> Result<&mut CgroupSockAddr, Error> {
        let program = self.get::<CgroupSockAddr>(name)?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(|source| Error::program(name, source))?;
        }
        Ok(program)
    }
}
