//! Sets of addresses (`ip_set`).

use std::io;

use super::{HEADER, attribute, find_text, list, message, open, removed, text};
use netlink_packet_core::DefaultNla;

const IPSET: u16 = 6;
/// Commands (`IPSET_CMD_…`).
const DESTROY: u16 = 3;
const LIST: u16 = 7;
/// Attributes (`IPSET_ATTR_…`).
const PROTOCOL: u16 = 1;
const SET_NAME: u16 = 2;
/// The oldest protocol that every kernel of ours speaks.
const VERSION: u8 = 6;

fn protocol() -> DefaultNla {
    attribute(PROTOCOL, [VERSION])
}

/// Returns the names of the sets of this thread's network namespace.
///
/// # Errors
///
/// If the kernel refuses the list: `CAP_NET_ADMIN` is missing. A kernel without sets has none.
pub fn sets() -> io::Result<Vec<String>> {
    let list = list(message(IPSET, LIST, libc::AF_INET as u8, &[protocol()]))?;
    let names = list
        .iter()
        .filter_map(|message| find_text(message.body.get(HEADER..)?, SET_NAME));
    let mut names: Vec<String> = names.collect();
    // A large set comes in several messages.
    names.dedup();
    Ok(names)
}

/// Destroys a set. A missing one is as wanted.
///
/// # Errors
///
/// If the kernel refuses it: the set is in use.
pub fn destroy_set(name: &str) -> io::Result<()> {
    let attributes = [protocol(), text(SET_NAME, name)];
    let order = message(IPSET, DESTROY, libc::AF_INET as u8, &attributes);
    removed(open().and_then(|netlink| netlink.order(order)))
}
