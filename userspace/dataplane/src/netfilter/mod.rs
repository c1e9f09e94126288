//! Netfilter over nfnetlink: what the kernel tracks and translates, and the tables of rules.
//!
//! No library reads these messages; each is a header, `struct nfgenmsg`, and attributes.

mod conntrack;
mod ipset;
mod nftables;
mod xtables;

use std::io;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};

pub use conntrack::{KernelConnection, create, delete, translated};
pub use ipset::{destroy_set, sets};
pub use nftables::{NftFamily, delete_table, has_chain, keep_translating, tables};
pub use xtables::legacy_chains;

use crate::netlink::{RawMessage, bytes, find, text};

/// Length of `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;

/// Builds a message for a part of netfilter (`NFNL_SUBSYS_…`).
fn message(part: u16, command: u16, family: u8, attributes: &[DefaultNla]) -> RawMessage {
    let mut body = vec![family, 0, 0, 0];
    body.extend(bytes(attributes));
    RawMessage {
        kind: part << 8 | command,
        body,
    }
}

fn attribute(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
    DefaultNla::new(kind, value.into())
}

fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, bytes(inside))
}

fn find_text(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = find(attributes, kind)?;
    let text = bytes.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Returns an empty list if the kernel lacks this part of netfilter: then it has nothing to list.
fn list_or_none(list: io::Result<Vec<RawMessage>>) -> io::Result<Vec<RawMessage>> {
    let numbers = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT];
    match list {
        Err(error) if numbers.map(Some).contains(&error.raw_os_error()) => Ok(Vec::new()),
        list => list,
    }
}

/// The result of a removal. A missing object is as wanted.
fn removed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
