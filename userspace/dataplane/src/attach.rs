//! Attaches programs by pinned links. A link that is pinned already gets the new program in one step, so an
//! upgrade or a restart loses no packet. TC has links only in kernels with TCX.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::programs::{
    CgroupAttachMode, LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode,
    links::{FdLink, LinkError},
    tc::TcAttachOptions,
};
use headgate_abi::names;

use crate::{
    clsact,
    error::Error,
    kernel::Feature,
    load::{Loadable, Programs},
    pin::pin_folder,
    sys,
};

/// A device, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// It leads out of the node.
    External(String),
    /// The host's end of a device of a pod of this node.
    Pod(String),
}

impl Device {
    /// Returns the name of the device.
    pub fn name(&self) -> &str {
        match self {
            Self::External(name) | Self::Pod(name) => name,
        }
    }
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcAttach {
    /// By pinned links (Linux 6.6).
    Tcx,
    /// As filters of the qdisc `clsact`.
    Clsact,
}

impl TcAttach {
    /// Returns `Tcx` if the kernel has it, else `Clsact`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to answer.
    pub fn best() -> Result<Self, Error> {
        match Feature::Tcx.is_there() {
            Ok(true) => Ok(Self::Tcx),
            Ok(false) => Ok(Self::Clsact),
            Err(source) => Err(Error::program(names::TC_EXTERNAL, source)),
        }
    }
}

/// The programs that a device has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// XDP in the driver, and TC.
    Native,
    /// TC only: the driver has no XDP.
    TcOnly,
}

fn links(pins: &Path) -> PathBuf {
    pin_folder(pins).join("links")
}

/// Attaches the program that translates packets which leave by a device, or replaces the attached one. Call
/// it for every device before [`attach_ingress`]: that leaves packets to the egress program of any device.
///
/// # Errors
///
/// If the kernel refuses the program or the pin, or there is no such device.
pub fn attach_egress(
    programs: &mut Programs,
    pins: &Path,
    device: &Device,
    how: TcAttach,
) -> Result<(), Error> {
    let side = TcAttachType::Egress;
    tc(programs, pins, device.name(), names::TC_EGRESS, side, how)
}

/// Attaches the programs for packets that come in on a device, or replaces the attached ones.
///
/// # Errors
///
/// As [`attach_egress`].
pub fn attach_ingress(
    programs: &mut Programs,
    pins: &Path,
    device: &Device,
    how: TcAttach,
) -> Result<Attached, Error> {
    let (program, side) = (ingress(device), TcAttachType::Ingress);
    tc(programs, pins, device.name(), program, side, how)?;
    match device {
        Device::Pod(_) => Ok(Attached::TcOnly),
        Device::External(name) => xdp(programs, pins, name),
    }
}

fn ingress(device: &Device) -> &'static str {
    match device {
        Device::Pod(_) => names::TC_POD,
        Device::External(_) => names::TC_EXTERNAL,
    }
}

/// Returns whether all TC programs are on a device, given the result of [`attached`].
pub fn is_attached(attached: &[String], device: &Device) -> bool {
    let mut wanted = [ingress(device), names::TC_EGRESS].into_iter();
    wanted.all(|program| attached.contains(&format!("{program}@{}", device.name())))
}

fn xdp(programs: &mut Programs, pins: &Path, device: &str) -> Result<Attached, Error> {
    const NAME: &str = names::XDP_EXTERNAL;
    let program = programs.xdp(NAME)?;
    let path = link_path(pins, NAME, device)?;
    let attached = replace_or_attach(program, NAME, &path, |program| {
        // Without XDP in the driver the generic one would only repeat what TC does, later.
        let Ok(id) = program.attach(device, XdpMode::Driver) else {
            return Ok(None);
        };
        Ok(Some(program.take_link(id)?.try_into()?))
    })?;
    Ok(match attached {
        true => Attached::Native,
        false => Attached::TcOnly,
    })
}

fn tc(
    programs: &mut Programs,
    pins: &Path,
    device: &str,
    name: &str,
    side: TcAttachType,
    how: TcAttach,
) -> Result<(), Error> {
    let on_device = format!("{name} on {device}");
    let program = programs.tc(name)?;
    let path = link_path(pins, name, device)?;
    // Attach one way first, then detach the other. Between them a packet may pass both programs; the second
    // finds nothing to do.
    match how {
        TcAttach::Tcx => {
            tcx(program, &path, device, name, side)?;
            let detached = clsact::detach(device, side, name);
            detached.map_err(|source| Error::program(&on_device, source))
        }
        TcAttach::Clsact => {
            let attached = clsact::attach(program, device, side);
            attached.map_err(|source| Error::program(&on_device, source))?;
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(Error::Pin { path, source })
                }
                _ => Ok(()),
            }
        }
    }
}

fn tcx(
    program: &mut SchedClassifier,
    path: &Path,
    device: &str,
    name: &str,
    side: TcAttachType,
) -> Result<(), Error> {
    // Programs of others see packets as they are on this side of the node, not translated.
    let order = match side {
        TcAttachType::Egress => LinkOrder::last(),
        _ => LinkOrder::first(),
    };
    let on_device = format!("{name} on {device}");
    replace_or_attach(program, &on_device, path, |program| {
        let options = TcAttachOptions::TcxOrder(order);
        let id = program.attach_with_options(device, side, options)?;
        Ok(Some(program.take_link(id)?.try_into()?))
    })?;
    Ok(())
}

/// Attaches the socket hooks to a cgroup, or replaces those that are attached.
///
/// # Errors
///
/// If the cgroup cannot be opened, or the kernel refuses a program or a pin.
pub fn attach_cgroup(programs: &mut Programs, pins: &Path, cgroup: &Path) -> Result<(), Error> {
    let open = open(cgroup)?;
    for name in names::SOCKET_HOOKS {
        let program = programs.socket_hook(name)?;
        let path = link_path(pins, name, "cgroup")?;
        replace_or_attach(program, name, &path, |program| {
            // Links allow others beside them; no flag says so.
            let id = program.attach(&open, CgroupAttachMode::Single)?;
            Ok(Some(program.take_link(id)?.try_into()?))
        })?;
    }
    Ok(())
}

/// Attaches the program that looks up sockets to this thread's network namespace, or replaces the one that
/// is attached.
///
/// # Errors
///
/// If the kernel refuses the program (it has none before Linux 5.9) or the pin.
pub fn attach_lookup(programs: &mut Programs, pins: &Path) -> Result<(), Error> {
    const NAME: &str = names::SK_LOOKUP;
    let program = programs.lookup(NAME)?;
    let path = link_path(pins, NAME, "netns")?;
    let netns = open(Path::new("/proc/thread-self/ns/net"))?;
    replace_or_attach(program, NAME, &path, |program| {
        let id = program.attach(&netns)?;
        Ok(Some(program.take_link(id)?.into()))
    })?;
    Ok(())
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Open {
        path: path.into(),
        source,
    })
}

/// Returns where cgroup2 is mounted, if it is.
///
/// # Errors
///
/// If `/proc/mounts` cannot be read.
pub fn cgroup_root() -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    Ok(fields.find_map(|mut fields| {
        let path = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| path.into())
    }))
}

/// Returns what is attached in this thread's network namespace, as `program@device`. The device may also be
/// `cgroup` or `netns`.
///
/// # Errors
///
/// If the pins or the devices cannot be read.
pub fn attached(pins: &Path) -> io::Result<Vec<String>> {
    let mut names = pinned(pins)?;
    for device in clsact::devices()? {
        let filters = clsact::filters(&device)?;
        let ours = filters.iter().filter(|filter| filter.is_ours());
        names.extend(ours.map(|filter| format!("{}@{device}", filter.program)));
    }
    names.sort();
    Ok(names)
}

fn pinned(pins: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(links(pins)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Removes the links and filters of a device; the kernel then detaches the programs.
///
/// # Errors
///
/// If a pin or a filter cannot be removed.
pub fn detach(pins: &Path, device: &str) -> io::Result<()> {
    for name in pinned(pins)? {
        if name.split_once('@').is_some_and(|(_, on)| on == device) {
            fs::remove_file(links(pins).join(name))?;
        }
    }
    clsact::detach_all(device)
}

fn link_path(pins: &Path, program: &str, device: &str) -> Result<PathBuf, Error> {
    let folder = links(pins);
    fs::create_dir_all(&folder).map_err(|source| Error::Pin {
        path: folder.clone(),
        source,
    })?;
    Ok(folder.join(format!("{program}@{device}")))
}

/// Puts the program behind the link pinned at `path`. Without such a link, attaches the program and pins the link.
/// False if `attach` returns none.
fn replace_or_attach<P: Loadable>(
    program: &mut P,
    name: &str,
    path: &Path,
    attach: impl FnOnce(&mut P) -> Result<Option<FdLink>, AttachError>,
) -> Result<bool, Error> {
    let fd = program
        .fd()
        .map_err(|source| Error::program(name, source))?;
    if replace(path, fd.as_fd())? {
        return Ok(true);
    }
    let link = attach(program).map_err(|error| match error {
        AttachError::Program(source) => Error::program(name, source),
        AttachError::Link(source) => Error::ForeignPin {
            path: path.into(),
            reason: format!("the kernel has no links for {name}: {source}"),
        },
    })?;
    let Some(link) = link else {
        return Ok(false);
    };
    link.pin(path).map_err(|source| Error::PinFailed {
        path: path.into(),
        source: Box::new(source),
    })?;
    Ok(true)
}

/// Why a program has no link.
enum AttachError {
    Program(ProgramError),
    Link(LinkError),
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

impl From<LinkError> for AttachError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// Puts the program behind the link pinned at `path`. False without such a link, or if what it was
/// attached to is gone: then the pin is removed.
fn replace(path: &Path, program: BorrowedFd<'_>) -> Result<bool, Error> {
    let failed = |source| Error::Pin {
        path: path.into(),
        source,
    };
    let link = match sys::open_pin(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match sys::replace_program(link.as_fd(), program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(path).map_err(failed)?;
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}
