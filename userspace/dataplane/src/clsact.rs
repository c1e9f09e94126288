//! Programs of TC where the kernel has no TCX: filters of the qdisc `clsact`.
//!
//! A filter has no pin. It stays with its device until somebody removes it, and the kernel is what
//! remembers it. The qdisc stays, as others may have filters there.

use std::{ffi::CStr, io, mem};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        qdisc_detach_program,
    },
};
use headgate_abi::names;
use nix::{
    net::if_::{if_nameindex, if_nametoindex},
    sys::socket::SockProtocol,
};

use crate::netlink::{Netlink, attribute};

/// Before all others; of those with one number, the newest comes first.
const PRIORITY: u16 = 1;
/// No one else's: "Head".
const HANDLE: TcHandle = TcHandle::new(0x4865, 0x6164);

/// Where programs can be, and their parent in `struct tcmsg`.
const SIDES: [(TcAttachType, u32); 2] = [
    (TcAttachType::Ingress, 0xffff_fff2),
    (TcAttachType::Egress, 0xffff_fff3),
];

/// Attaches a program, or puts it in the place of the one that is there: no packet sees neither.
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
            // It may be there. If it cannot be made, the filter cannot either, and says why.
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

/// Removes a program from a device, if it is there.
pub(crate) fn detach(device: &str, side: TcAttachType, program: &str) -> io::Result<()> {
    match qdisc_detach_program(device, side, program) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Removes all programs of ours from a device.
pub(crate) fn detach_all(device: &str) -> io::Result<()> {
    for filter in filters(device)?.iter().filter(|filter| filter.is_ours()) {
        detach(device, filter.side, &filter.program)?;
    }
    Ok(())
}

/// Names of the devices of this thread's network namespace.
pub(crate) fn devices() -> io::Result<Vec<String>> {
    let devices = if_nameindex()?;
    let name = |device: &nix::net::if_::Interface| device.name().to_string_lossy().into_owned();
    Ok(devices.iter().map(name).collect())
}

/// A program that is a filter.
pub(crate) struct Filter {
    side: TcAttachType,
    pub(crate) program: String,
}

impl Filter {
    pub(crate) fn is_ours(&self) -> bool {
        [names::TC_EXTERNAL, names::TC_POD, names::TC_EGRESS].contains(&self.program.as_str())
    }
}

/// The programs on a device; none if there is no such device.
pub(crate) fn filters(device: &str) -> io::Result<Vec<Filter>> {
    const RTM_GETTFILTER: u16 = 46;
    /// `struct tcmsg`: family, device, handle, parent, and priority with protocol.
    const TCMSG: usize = 20;
    const TCA_OPTIONS: u16 = 2;
    const TCA_BPF_NAME: u16 = 7;
    let Ok(index) = if_nametoindex(device) else {
        return Ok(Vec::new());
    };
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    let mut found = Vec::new();
    for (side, parent) in SIDES {
        let mut request = [0; TCMSG];
        request[4..8].copy_from_slice(&index.to_ne_bytes());
        request[12..16].copy_from_slice(&parent.to_ne_bytes());
        for filter in netlink.list(RTM_GETTFILTER, &request)? {
            let attributes = filter.body.get(TCMSG..).unwrap_or_default();
            let name = attribute(attributes, TCA_OPTIONS)
                .and_then(|options| attribute(options, TCA_BPF_NAME))
                .and_then(|name| CStr::from_bytes_until_nul(name).ok());
            if let Some(name) = name {
                let program = name.to_string_lossy().into_owned();
                found.push(Filter { side, program });
            }
        }
    }
    Ok(found)
}
