//! TC programs where the kernel has no TCX: filters of the qdisc `clsact`.
//!
//! A filter has no pin: it stays with its device until it is removed. The qdisc stays, as other programs may
//! have filters there.

use std::{io, mem};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        qdisc_detach_program,
    },
};
use headgate_abi::names;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_nametoindex;

use crate::netlink::Netlink;

/// The first; of the filters with one priority, the newest comes first.
const PRIORITY: u16 = 1;
/// Ours alone: "Head".
const HANDLE: TcHandle = TcHandle::new(0x4865, 0x6164);

/// The two sides of a device, and their parent in `struct tcmsg`.
const SIDES: [(TcAttachType, u32); 2] = [
    (TcAttachType::Ingress, 0xffff_fff2),
    (TcAttachType::Egress, 0xffff_fff3),
];

/// Attaches a program, or replaces the one that is attached in one step: every packet passes one of them.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    device: &str,
    side: TcAttachType,
) -> Result<(), ProgramError> {
    let link = SchedClassifierLink::attached(device, side, PRIORITY, HANDLE, None);
    let link = link.map_err(TcError::IoError)?;
    let id = match program.attach_to_link(link) {
        Ok(id) => id,
        Err(_there_is_none) => {
            // It may exist. If it cannot be made, attaching fails as well, and says why.
            let _exists = qdisc_add_clsact(device);
            let options = NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            };
            program.attach_with_options(device, side, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropped, it would remove the filter.
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// Removes a program from a device, if it is attached.
pub(crate) fn detach(device: &str, side: TcAttachType, program: &str) -> io::Result<()> {
    match qdisc_detach_program(device, side, program) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Removes all our programs from a device.
pub(crate) fn detach_all(device: &str) -> io::Result<()> {
    for filter in filters(device)?.iter().filter(|filter| filter.is_ours()) {
        detach(device, filter.side, &filter.program)?;
    }
    Ok(())
}

/// A program that is attached as a filter.
pub(crate) struct Filter {
    pub(crate) side: TcAttachType,
    pub(crate) program: String,
}

impl Filter {
    pub(crate) fn is_ours(&self) -> bool {
        names::TC.contains(&self.program.as_str())
    }
}

/// Returns the programs on a device; none if there is no such device.
pub(crate) fn filters(device: &str) -> io::Result<Vec<Filter>> {
    let Ok(index) = if_nametoindex(device) else {
        return Ok(Vec::new());
    };
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let mut found = Vec::new();
    for (side, parent) in SIDES {
        let mut request = TcMessage::default();
        request.header.index = index as i32;
        request.header.parent = parent.into();
        let filters = netlink.list(RouteNetlinkMessage::GetTrafficFilter(request))?;
        let programs = filters.into_iter().filter_map(program);
        found.extend(programs.map(|program| Filter { side, program }));
    }
    Ok(found)
}

/// Returns the name of the program that a filter runs.
fn program(filter: RouteNetlinkMessage) -> Option<String> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = filter else {
        return None;
    };
    let options = filter
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
    options?.into_iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name),
        _ => None,
    })
}
