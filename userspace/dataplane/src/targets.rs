//! Devices that XDP sends frames of other devices to.

use std::{collections::BTreeSet, io, path::Path};

use aya::maps::{
    MapData, MapError,
    xdp::{DevMapHash, XdpMapError},
};
use headgate_abi::names;
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::{
    error::Error,
    netlink::{Netlink, RawMessage, bytes, find, text},
    pin::{pin_folder, typed},
};

/// Length of `struct genlmsghdr`: command, version, reserved.
const HEADER: usize = 4;
/// The family that names the others, and what is asked of it (`CTRL_CMD_…`, `CTRL_ATTR_…`).
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// The family of devices (`NETDEV_CMD_…`, `NETDEV_A_DEV_…`).
const DEVICES: &str = "netdev";
const GET_DEVICE: u8 = 1;
const INDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const TAKES_FRAMES: u64 = 4;

/// Returns the numbers of the devices whose drivers take frames from XDP programs of other devices, in this thread's
/// network namespace. Before Linux 6.3 the kernel does not say it: none.
///
/// # Errors
///
/// If the kernel does not answer.
pub fn xdp_targets() -> io::Result<BTreeSet<u32>> {
    let netlink: Netlink<RawMessage> = Netlink::open(NETLINK_GENERIC)?;
    let message = |kind, command, attributes: &[_]| RawMessage {
        kind,
        body: [&[command, 1, 0, 0][..], &bytes(attributes)].concat(),
    };
    let family = netlink.get(message(CONTROL, GET_FAMILY, &[text(FAMILY_NAME, DEVICES)]));
    let family = match family {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        family => family?,
    };
    let id = attribute(&family, FAMILY_ID).map(u16::from_ne_bytes);
    let id = id.ok_or_else(|| io::Error::other("a family of generic netlink without a number"))?;
    let devices = netlink.list(message(id, GET_DEVICE, &[]))?;
    let target = |device: &RawMessage| {
        let features = attribute(device, XDP_FEATURES).map(u64::from_ne_bytes)?;
        let index = attribute(device, INDEX).map(u32::from_ne_bytes)?;
        (features & TAKES_FRAMES != 0).then_some(index)
    };
    Ok(devices.iter().filter_map(target).collect())
}

/// A number among the attributes of a message.
fn attribute<const N: usize>(message: &RawMessage, kind: u16) -> Option<[u8; N]> {
    let value = find(message.body.get(HEADER..)?, kind)?;
    value.try_into().ok()
}

/// Writes the numbers of the devices that XDP may send to, instead of those before. There are 64 entries. The kernel
/// removes the entry of a device that is deleted.
///
/// # Errors
///
/// If there is no such map, or it cannot be written.
pub fn write_xdp_targets(pins: &Path, targets: &BTreeSet<u32>) -> Result<(), Error> {
    let failed = |source| Error::map(names::XDP_DEVICES, source);
    let mut map: DevMapHash<MapData> = typed(&pin_folder(pins), names::XDP_DEVICES)?;
    let old = map.keys().collect::<Result<BTreeSet<u32>, MapError>>();
    let old = old.map_err(failed)?;
    for index in old.difference(targets) {
        match map.remove(*index) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    for index in targets.difference(&old) {
        map.insert(*index, *index, None, 0)
            .map_err(|error| match error {
                XdpMapError::MapError(source) => failed(source),
                XdpMapError::ChainedProgramNotSupported => Error::ForeignPin {
                    path: pin_folder(pins).join(names::XDP_DEVICES),
                    reason: error.to_string(),
                },
            })?;
    }
    Ok(())
}
