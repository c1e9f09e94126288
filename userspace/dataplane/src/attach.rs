//! Attaching programs by pinned links. A link that is pinned already gets the new program in one
//! step, so an upgrade or a restart loses no packet. TC has links only where it has TCX.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::{
    CgroupAttachMode, LinkOrder, ProgramFd, SchedClassifier, TcAttachType, XdpMode,
    links::{FdLink, LinkError},
    tc::TcAttachOptions,
};
use headgate_abi::names;

use crate::{clsact, error::Error, kernel::Feature, load::Programs, maps::pin_folder, sys};

/// A device and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// Out of the node.
    External(String),
    /// To a pod of this node: the host's end.
    Pod(String),
}

impl Device {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::External(name) | Self::Pod(name) => name,
        }
    }
}

/// How programs of TC are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcAttach {
    /// By pinned links.
    Tcx,
    /// As filters of the qdisc `clsact`.
    Clsact,
}

impl TcAttach {
    /// The better one of those that the kernel has.
    pub fn best() -> Result<Self, Error> {
        match Feature::Tcx.is_there() {
            Ok(true) => Ok(Self::Tcx),
            Ok(false) => Ok(Self::Clsact),
            Err(source) => Err(Error::program(names::TC_EXTERNAL, source)),
        }
    }
}

/// What became of a device.
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

/// Attaches what translates packets that leave by a device, or replaces the program that is there. To be
/// done on every device before [`attach_ingress`]: what that leaves to the way out may leave by any.
pub fn attach_egress(
    programs: &mut Programs,
    pins: &Path,
    device: &Device,
    how: TcAttach,
) -> Result<(), Error> {
    let side = TcAttachType::Egress;
    tc(programs, pins, device.name(), names::TC_EGRESS, side, how)
}

/// Attaches what takes packets that come in on a device, or replaces the programs that are there.
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

/// Whether all programs of TC are on a device, by what [`attached`] says.
pub fn is_attached(attached: &[String], device: &Device) -> bool {
    let mut wanted = [ingress(device), names::TC_EGRESS].into_iter();
    wanted.all(|program| attached.contains(&format!("{program}@{}", device.name())))
}

fn xdp(programs: &mut Programs, pins: &Path, device: &str) -> Result<Attached, Error> {
    let program = programs.xdp(names::XDP_EXTERNAL)?;
    let path = link_path(pins, names::XDP_EXTERNAL, device)?;
    let fd = program_fd(names::XDP_EXTERNAL, program.fd())?;
    if replace(&path, &fd)? {
        return Ok(Attached::Native);
    }
    // Without XDP in the driver the generic one would only repeat what TC does, later.
    let Ok(id) = program.attach(device, XdpMode::Driver) else {
        return Ok(Attached::TcOnly);
    };
    let link = program
        .take_link(id)
        .map_err(|source| Error::program(names::XDP_EXTERNAL, source))?;
    pin(link.try_into(), names::XDP_EXTERNAL, &path)?;
    Ok(Attached::Native)
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
    // First the one way, then not the other any more: between them a packet may meet both, of which
    // the second finds nothing left to do.
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
    let fd = program_fd(name, program.fd())?;
    if replace(path, &fd)? {
        return Ok(());
    }
    // Others see what is translated on this side of the node.
    let order = match side {
        TcAttachType::Egress => LinkOrder::last(),
        _ => LinkOrder::first(),
    };
    let options = TcAttachOptions::TcxOrder(order);
    let id = program
        .attach_with_options(device, side, options)
        .map_err(|source| Error::program(&format!("{name} on {device}"), source))?;
    let link = program
        .take_link(id)
        .map_err(|source| Error::program(name, source))?;
    pin(link.try_into(), name, path)
}

/// Attaches the socket hooks to a cgroup, or replaces those that are there.
pub fn attach_cgroup(programs: &mut Programs, pins: &Path, cgroup: &Path) -> Result<(), Error> {
    let open = File::open(cgroup).map_err(|source| Error::Open {
        path: cgroup.into(),
        source,
    })?;
    for name in names::SOCKET_HOOKS {
        let program = programs.socket_hook(name)?;
        let path = link_path(pins, name, "cgroup")?;
        let fd = program_fd(name, program.fd())?;
        if replace(&path, &fd)? {
            continue;
        }
        let id = program
            // Links allow others beside them by themselves, and take no flag that says so.
            .attach(&open, CgroupAttachMode::Single)
            .map_err(|source| Error::program(name, source))?;
        let link = program
            .take_link(id)
            .map_err(|source| Error::program(name, source))?;
        pin(link.try_into(), name, &path)?;
    }
    Ok(())
}

/// Attaches the socket look-up to this thread's network namespace, or replaces the program that is
/// there.
pub fn attach_lookup(programs: &mut Programs, pins: &Path) -> Result<(), Error> {
    const NETNS: &str = "/proc/thread-self/ns/net";
    let program = programs.lookup(names::SK_LOOKUP)?;
    let path = link_path(pins, names::SK_LOOKUP, "netns")?;
    let fd = program_fd(names::SK_LOOKUP, program.fd())?;
    if replace(&path, &fd)? {
        return Ok(());
    }
    let netns = File::open(NETNS).map_err(|source| Error::Open {
        path: NETNS.into(),
        source,
    })?;
    let id = program
        .attach(netns)
        .map_err(|source| Error::program(names::SK_LOOKUP, source))?;
    let link = program
        .take_link(id)
        .map_err(|source| Error::program(names::SK_LOOKUP, source))?;
    pin(Ok(link.into()), names::SK_LOOKUP, &path)
}

/// Where cgroup2 is mounted, if it is: not everywhere at the same place.
pub fn cgroup_root() -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    Ok(fields.find_map(|mut fields| {
        let path = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| path.into())
    }))
}

/// What is attached in this thread's network namespace: `program@device`, where a device may also be
/// `cgroup` or `netns`.
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

/// Removes the links and filters of a device; the kernel detaches the programs.
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

fn program_fd(
    name: &str,
    fd: Result<&ProgramFd, aya::programs::ProgramError>,
) -> Result<OwnedFd, Error> {
    let fd = fd.map_err(|source| Error::program(name, source))?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|source| Error::Open {
            path: name.into(),
            source,
        })
}

/// Puts the program behind the link pinned at `path`. False if there is none, or if what it was
/// attached to is gone: then the pin is removed.
fn replace(path: &Path, program: &OwnedFd) -> Result<bool, Error> {
    let failed = |source| Error::Pin {
        path: path.into(),
        source,
    };
    let link = match sys::open_pin(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match sys::replace_program(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(path).map_err(failed)?;
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}

fn pin(link: Result<FdLink, LinkError>, name: &str, path: &Path) -> Result<(), Error> {
    let link = link.map_err(|source| Error::ForeignPin {
        path: path.into(),
        reason: format!("the kernel has no links for {name}: {source}"),
    })?;
    link.pin(path).map_err(|source| Error::PinFailed {
        path: path.into(),
        source: Box::new(source),
    })?;
    Ok(())
}
