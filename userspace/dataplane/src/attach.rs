//! Attaches programs by pinned links. A link that is pinned already gets the new program in one step, so an
//! upgrade or a restart loses no packet. TC has links only in kernels with TCX.

use std::{
    collections::BTreeSet,
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
use nix::net::if_::{if_indextoname, if_nameindex, if_nametoindex};

use crate::{
    clsact::{self, Filter},
    error::Error,
    kernel::Feature,
    load::{Loadable, Programs, host_netns_cookie},
    pin::pin_folder,
    probe::loaded_config,
    sys,
};

/// A network device that gets programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its name, which may change.
    pub name: String,
    /// Its number. Another device with the same name has another one.
    pub index: u32,
    /// Where it leads.
    pub role: Role,
    /// Whether XDP is wanted, if its driver has it.
    pub wants_xdp: bool,
}

/// Where a device leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Out of the node.
    External,
    /// Out of the node, in frames without link header: WireGuard, IPIP, tun, ppp.
    ExternalL3,
    /// To a pod of this node: it is the host's end.
    Pod,
}

impl Device {
    /// Whether it leads out of the node.
    pub fn is_external(&self) -> bool {
        self.role != Role::Pod
    }

    /// The TC programs of its two sides: ingress, egress.
    fn programs(&self) -> [&'static str; 2] {
        match self.role {
            Role::External => [names::TC_EXTERNAL, names::TC_EGRESS],
            Role::ExternalL3 => [names::TC_L3, names::TC_L3_EGRESS],
            Role::Pod => [names::TC_POD, names::TC_EGRESS],
        }
    }
}

/// A program, and where it is attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// Name of the program.
    pub program: String,
    /// Name of the device, or [`Self::CGROUP`] or [`Self::NETNS`].
    pub place: String,
    /// Number of the device; 0 for other places.
    pub index: u32,
}

impl Attachment {
    /// Programs of sockets.
    pub const CGROUP: &str = "cgroup";
    /// Socket lookup.
    pub const NETNS: &str = "netns";
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

/// The folder of the pinned links below that of a version.
const LINKS: &str = "links";

fn links(pins: &Path) -> PathBuf {
    pin_folder(pins).join(LINKS)
}

/// Whether a version has attached programs by links.
pub(crate) fn has_links(folder: &Path) -> bool {
    let entries = fs::read_dir(folder.join(LINKS));
    entries.is_ok_and(|mut entries| entries.next().is_some())
}

/// Makes the links of one version those of another, unless this has links.
pub(crate) fn move_links(from: &Path, to: &Path) -> Result<(), Error> {
    if has_links(to) {
        return Ok(());
    }
    let (from, to) = (from.join(LINKS), to.join(LINKS));
    // In the way there may be an empty folder.
    let _absent = fs::remove_dir(&to);
    fs::rename(&from, &to).map_err(|source| Error::Pin { path: from, source })
}

/// Returns the names of the programs that a version has attached.
pub(crate) fn attached_programs(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Pin {
        path: folder.join(LINKS),
        source,
    };
    let pinned = pinned(&folder.join(LINKS)).map_err(failed)?;
    let by_link = pinned.into_iter().map(|(_, program, _)| program);
    let filters = all_filters().map_err(failed)?;
    let by_filter = filters.into_iter().map(|(_, filter)| filter.program);
    let names: BTreeSet<String> = by_link.chain(by_filter).collect();
    Ok(names.into_iter().collect())
}

/// What programs decide about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    Sockets,
    Packets,
}

/// Puts programs of this kind behind the links of a version, and in the place of the filters. Links of programs that
/// these do not have are removed.
pub(crate) fn swap(programs: &mut Programs, folder: &Path, site: Site) -> Result<(), Error> {
    let failed = |source| Error::Pin {
        path: folder.join(LINKS),
        source,
    };
    let is_packets = |name: &str| names::TC.contains(&name) || name == names::XDP_EXTERNAL;
    let mut pinned = pinned(&folder.join(LINKS)).map_err(failed)?;
    pinned.retain(|(_, name, _)| is_packets(name) == (site == Site::Packets));
    // A connection that ours open at ingress has replies that they know at egress.
    pinned.sort_by_key(|(_, name, _)| INGRESS.contains(&name.as_str()));
    for (path, name, _) in pinned {
        let is_replaced = match programs.fd(&name) {
            Some(fd) => replace(&path, fd)?,
            None => false,
        };
        if !is_replaced {
            remove(&path)?;
        }
    }
    if site == Site::Sockets {
        return Ok(());
    }
    let filters = all_filters().map_err(failed)?;
    replace_filters(filters, |device, filter| {
        let program = programs.tc(&filter.program)?;
        let attached = clsact::attach(program, device, filter.side);
        attached.map_err(|source| Error::program(&filter.program, source))
    })
}

/// Attaches a program in the place of each filter. A device may vanish meanwhile, as those of pods do: it needs none.
fn replace_filters(
    mut filters: Vec<(Interface, Filter)>,
    mut attach: impl FnMut(&str, &Filter) -> Result<(), Error>,
) -> Result<(), Error> {
    filters.sort_by_key(|(_, filter)| INGRESS.contains(&filter.program.as_str()));
    for (device, filter) in filters {
        match attach(&device.name, &filter) {
            Err(_) if if_nametoindex(device.name.as_str()).ok() != Some(device.index) => {}
            result => result?,
        }
    }
    Ok(())
}

/// A network device.
struct Interface {
    name: String,
    index: u32,
}

/// The programs of packets that come in.
const INGRESS: [&str; 4] = [
    names::TC_EXTERNAL,
    names::TC_L3,
    names::TC_POD,
    names::XDP_EXTERNAL,
];

/// Our filters, with their devices.
fn all_filters() -> io::Result<Vec<(Interface, Filter)>> {
    let mut found = Vec::new();
    for interface in if_nameindex()?.iter() {
        let (name, index) = (interface.name().to_string_lossy(), interface.index());
        let filters = clsact::filters(&name)?;
        let ours = filters.into_iter().filter(Filter::is_ours);
        found.extend(ours.map(|filter| {
            let name = name.clone().into_owned();
            (Interface { name, index }, filter)
        }));
    }
    Ok(found)
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
    let [_, program] = device.programs();
    tc(programs, pins, device, program, TcAttachType::Egress, how)
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
    let [program, _] = device.programs();
    tc(programs, pins, device, program, TcAttachType::Ingress, how)?;
    xdp(programs, pins, device)
}

/// Returns whether all TC programs are on a device, given the result of [`attached`].
pub fn is_attached(attached: &[Attachment], device: &Device) -> bool {
    let is_there = |program: &&str| {
        let mut found = attached.iter();
        found.any(|link| link.index == device.index && link.program == **program)
    };
    device.programs().iter().all(is_there)
}

fn xdp(programs: &mut Programs, pins: &Path, device: &Device) -> Result<Attached, Error> {
    const NAME: &str = names::XDP_EXTERNAL;
    let path = link_path(pins, NAME, &device.index.to_string())?;
    if !device.wants_xdp || device.role != Role::External {
        remove(&path)?;
        return Ok(Attached::TcOnly);
    }
    let program = programs.xdp(NAME)?;
    let attached = replace_or_attach(program, NAME, &path, |program| {
        // Without XDP in the driver the generic one would only repeat what TC does, later.
        let Ok(id) = program.attach(&device.name, XdpMode::Driver) else {
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
    device: &Device,
    name: &str,
    side: TcAttachType,
    how: TcAttach,
) -> Result<(), Error> {
    let path = link_path(pins, name, &device.index.to_string())?;
    let device = device.name.as_str();
    let on_device = format!("{name} on {device}");
    let program = programs.tc(name)?;
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
            remove(&path)
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
    let release = programs.release_hook()?;
    let path = link_path(pins, names::SOCK_RELEASE, Attachment::CGROUP)?;
    replace_or_attach(release, names::SOCK_RELEASE, &path, |program| {
        let id = program.attach(&open, CgroupAttachMode::Single)?;
        Ok(Some(program.take_link(id)?.try_into()?))
    })?;
    for name in names::SOCKET_HOOKS {
        let program = programs.socket_hook(name)?;
        let path = link_path(pins, name, Attachment::CGROUP)?;
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
    let path = link_path(pins, NAME, Attachment::NETNS)?;
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

/// Returns what is attached, as the kernel has it: a pin whose device is gone does not count. Called from another
/// network namespace than the agent's, it names devices by their numbers.
///
/// # Errors
///
/// If the pins, their links or the devices cannot be read.
pub fn attached(pins: &Path) -> io::Result<Vec<Attachment>> {
    let mut found = Vec::new();
    // Elsewhere the numbers stand for other devices.
    let is_here =
        loaded_config(pins).is_ok_and(|config| config.host_netns_cookie == host_netns_cookie());
    for (path, program, place) in pinned(&links(pins))? {
        if let Some(attachment) = attachment(&path, program, place, is_here)? {
            found.push(attachment);
        }
    }
    let filters = all_filters()?.into_iter();
    found.extend(filters.map(|(device, filter)| Attachment {
        program: filter.program,
        place: device.name,
        index: device.index,
    }));
    found.sort();
    Ok(found)
}

/// Asks the kernel where a pinned link is attached; `None` if what it was attached to is gone.
fn attachment(
    path: &Path,
    program: String,
    place: String,
    is_here: bool,
) -> io::Result<Option<Attachment>> {
    if place.parse::<u32>().is_err() {
        return Ok(Some(Attachment {
            program,
            place,
            index: 0,
        }));
    }
    let index = sys::device_of_link(sys::open_pin(path)?.as_fd())?;
    let name = match is_here {
        true => if_indextoname(index)
            .ok()
            .map(|name| name.to_string_lossy().into_owned()),
        false => (index != 0).then(|| format!("device {index}")),
    };
    Ok(name.map(|place| Attachment {
        program,
        place,
        index,
    }))
}

/// Returns the links pinned in a folder: path, program, and number of the device or the other place.
fn pinned(links: &Path) -> io::Result<Vec<(PathBuf, String, String)>> {
    let entries = match fs::read_dir(links) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((program, place)) = name.split_once('@') {
            let (program, place) = (program.to_owned(), place.to_owned());
            found.push((path, program, place));
        }
    }
    Ok(found)
}

/// Removes the links and filters of all devices but these, links of programs that a device has no more, and the pins of
/// links whose device is gone; the kernel then detaches the programs. Without `with_lookup`, also those of socket
/// lookup.
///
/// # Errors
///
/// If a pin or a filter cannot be removed.
pub fn detach_others(pins: &Path, devices: &BTreeSet<Device>, with_lookup: bool) -> io::Result<()> {
    let is_kept = |index: u32| devices.iter().any(|device| device.index == index);
    let has = |index: u32, program: &str| {
        let device = devices.iter().find(|device| device.index == index);
        device.is_some_and(|device| {
            program == names::XDP_EXTERNAL || device.programs().contains(&program)
        })
    };
    for (path, program, place) in pinned(&links(pins))? {
        let is_kept = match place.as_str() {
            Attachment::CGROUP => true,
            Attachment::NETNS => with_lookup,
            number => match number.parse() {
                Ok(index) => {
                    has(index, &program)
                        && sys::device_of_link(sys::open_pin(&path)?.as_fd())? == index
                }
                Err(_) => false,
            },
        };
        if !is_kept {
            fs::remove_file(path)?;
        }
    }
    for interface in if_nameindex()?.iter() {
        if !is_kept(interface.index()) {
            clsact::detach_all(&interface.name().to_string_lossy())?;
        }
    }
    Ok(())
}

/// Removes a pin, if it is there.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

fn link_path(pins: &Path, program: &str, place: &str) -> Result<PathBuf, Error> {
    let folder = links(pins);
    fs::create_dir_all(&folder).map_err(|source| Error::Pin {
        path: folder.clone(),
        source,
    })?;
    Ok(folder.join(format!("{program}@{place}")))
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

#[cfg(test)]
mod tests {
    use aya::programs::TcAttachType;
    use headgate_abi::names;
    use nix::net::if_::if_nametoindex;

    use super::{Filter, Interface, replace_filters};
    use crate::error::Error;

    #[test]
    fn s201_a_device_that_vanishes_ends_no_takeover() {
        let lo = if_nametoindex("lo").unwrap();
        // The last one: another device has got its name.
        for (name, index, is_gone) in [("lo", lo, false), ("hgnone", 77, true), ("lo", 77, true)] {
            let filters = [names::TC_POD, names::TC_EGRESS].map(|program| {
                let device = Interface {
                    name: name.into(),
                    index,
                };
                let filter = Filter {
                    side: TcAttachType::Ingress,
                    program: program.into(),
                };
                (device, filter)
            });
            let mut asked = 0;
            let result = replace_filters(filters.into(), |_, _| {
                asked += 1;
                Err(Error::NoRoom { name: "any" })
            });
            assert_eq!(
                (result.is_ok(), asked),
                (is_gone, if is_gone { 2 } else { 1 })
            );
        }
    }
}
