//! Netfilter over nfnetlink: what the kernel tracks and translates, and the tables of rules.
//!
//! No library reads these messages; each is a header, `struct nfgenmsg`, and attributes.

mod conntrack;
mod ipset;
mod nftables;
mod xtables;

use std::io;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_sys::protocols::NETLINK_NETFILTER;

pub use conntrack::{KernelConnection, create, delete, translated};
pub use ipset::{destroy_set, sets};
pub use nftables::{NftFamily, delete_table, has_chain, keep_translating, tables};
pub use xtables::legacy_chains;

use crate::netlink::{Netlink, RawMessage, bytes, find, text};

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

/// Opens a socket for requests, in this thread's network namespace.
fn open() -> io::Result<Netlink<RawMessage>> {
    Netlink::open(NETLINK_NETFILTER)
}

/// Returns the answers to a request; none if the kernel lacks this part of netfilter, which then has nothing to list.
fn list(request: RawMessage) -> io::Result<Vec<RawMessage>> {
    match open().and_then(|netlink| netlink.list(request)) {
        Err(error) if is_of_missing_part(&error) => Ok(Vec::new()),
        list => list,
    }
}

/// Whether the kernel lacks the part of netfilter that was asked, or all of nfnetlink: then there is no socket.
fn is_of_missing_part(error: &io::Error) -> bool {
    let numbers = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT];
    numbers.map(Some).contains(&error.raw_os_error())
}

/// The result of a removal. A missing object is as wanted, and so is a kernel without nfnetlink, which has none.
fn removed(result: io::Result<()>) -> io::Result<()> {
    let is_missing = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(libc::EPROTONOSUPPORT)
    };
    match result {
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SeccompCondition,
        SeccompFilter, SeccompRule, apply_filter,
    };

    use headgate_abi::FlowKey;

    use super::{
        NETLINK_NETFILTER, NftFamily, delete, delete_table, destroy_set, has_chain, open, sets,
        tables, translated,
    };

    /// As on a kernel without nfnetlink, this thread cannot open sockets for it.
    fn remove_nfnetlink() {
        let condition = |index, value| SeccompCondition::new(index, Dword, Eq, value).unwrap();
        let netlink = condition(0, libc::AF_NETLINK as u64);
        let netfilter = condition(2, NETLINK_NETFILTER as u64);
        let socket = SeccompRule::new(vec![netlink, netfilter]).unwrap();
        let filter = SeccompFilter::new(
            [(libc::SYS_socket, vec![socket])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPROTONOSUPPORT as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let filter = BpfProgram::try_from(filter.unwrap()).unwrap();
        apply_filter(&filter).unwrap();
    }

    #[test]
    fn s207_a_kernel_without_netfilter_has_no_rules_to_take_over() {
        remove_nfnetlink();
        let error = open().err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT));
        assert_eq!(tables().unwrap(), []);
        assert!(!has_chain(NftFamily::Ip, "nat", "KUBE-SERVICES").unwrap());
        assert_eq!(sets().unwrap(), [""; 0]);
        assert_eq!(translated().unwrap(), []);
        // And nothing to remove.
        delete_table(NftFamily::Inet, "headgate-takeover").unwrap();
        destroy_set("KUBE-LOOP-BACK").unwrap();
        delete(&FlowKey::default()).unwrap();
    }
}
