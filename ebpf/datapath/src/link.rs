//! Frames that are for another machine, or for all, are left to the kernel, which drops them where
//! it does not bridge them: a switch that floods, or a device that receives everything, would
//! otherwise make each node answer.
//!
//! The kernel compares the destination with the device's addresses, and shows the result at TC
//! alone. So TC notes the destination of a frame that was for this machine, and XDP handles frames
//! with that destination for a second. The first frame after that, and those to another address of
//! the device, go to TC. Nothing has to follow a change of the address.

use headgate_abi::{LinkEntry, Reason};

use crate::{
    context::Hook,
    packet::{Packet, Receiver},
    tables::Tables,
};

/// Seconds for which XDP relies on what TC saw.
const FRESH_S: u32 = 1;

/// Leaves frames that are not for this machine.
#[inline(always)]
pub(crate) fn check_receiver<P: Packet, T: Tables>(
    hook: Hook,
    packet: &P,
    tables: &mut T,
) -> Result<(), Reason> {
    if hook == Hook::Egress || !P::HAS_LINK {
        return Ok(());
    }
    let destination: [u8; 6] = packet.load(0)?;
    let now_s = tables.now_s();
    if P::IS_BEFORE_TC {
        let link = tables.link();
        return match link.address == destination && link.age_s(now_s) <= FRESH_S {
            true => Ok(()),
            false => Err(Reason::LinkUnknown),
        };
    }
    match packet.receiver() {
        Receiver::Host => {}
        // A pod behind a bridge sends to the bridge.
        Receiver::Other if hook == Hook::Pod => return Ok(()),
        Receiver::Group | Receiver::Other => return Err(Reason::OtherHost),
    }
    if hook == Hook::External {
        let link = tables.link();
        if link.address != destination || link.age_s(now_s) != 0 {
            tables.put_link(&LinkEntry {
                seen_s: now_s,
                address: destination,
                ..link
            });
        }
    }
    Ok(())
}
