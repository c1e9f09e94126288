//! Tables and chains of nftables, which iptables uses as well in its variant `nf_tables`.

use std::io;

use super::{
    HEADER, attribute, find_text, is_of_missing_part, list, message, nested, open, removed, text,
};
use crate::netlink::RawMessage;

const NFTABLES: u16 = 10;
/// Commands (`NFT_MSG_…`).
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
/// Attributes (`NFTA_TABLE_…`, `NFTA_CHAIN_…`, `NFTA_HOOK_…`, `NFTA_RULE_…`, `NFTA_EXPR_…`, `NFTA_CT_…`).
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const CT_TARGET: u16 = 1;
const CT_KEY: u16 = 2;
/// `NFT_REG32_00` and `NFT_CT_STATE`.
const REGISTER: u32 = 8;
const STATE: u32 = 0;
/// `NF_INET_POST_ROUTING`, and the priority that source NAT has there.
const POSTROUTING: u32 = 4;
const SOURCE_NAT: u32 = 100;

/// Protocol family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NftFamily {
    /// Both IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl NftFamily {
    /// Returns its name in nft(8).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// `NFPROTO_…`.
    const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    fn of(number: u8) -> Option<Self> {
        let all = [Self::Inet, Self::Ip, Self::Ip6];
        all.into_iter().find(|family| family.number() == number)
    }
}

/// Returns the tables of this thread's network namespace.
///
/// # Errors
///
/// If the kernel refuses the list: `CAP_NET_ADMIN` is missing. A kernel without nftables has none.
pub fn tables() -> io::Result<Vec<(NftFamily, String)>> {
    let list = list(message(NFTABLES, GET_TABLE, 0, &[]))?;
    let table = |message: &RawMessage| {
        let family = NftFamily::of(*message.body.first()?)?;
        Some((family, find_text(message.body.get(HEADER..)?, TABLE_NAME)?))
    };
    Ok(list.iter().filter_map(table).collect())
}

/// Returns whether a table has a chain of this name.
///
/// # Errors
///
/// As [`tables`].
pub fn has_chain(family: NftFamily, table: &str, chain: &str) -> io::Result<bool> {
    let names = [text(CHAIN_TABLE, table), text(CHAIN_NAME, chain)];
    let request = message(NFTABLES, GET_CHAIN, family.number(), &names);
    match open().and_then(|netlink| netlink.get(request)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if is_of_missing_part(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a table with everything in it. A missing one is as wanted.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn delete_table(family: NftFamily, name: &str) -> io::Result<()> {
    let order = message(
        NFTABLES,
        DELETE_TABLE,
        family.number(),
        &[text(TABLE_NAME, name)],
    );
    removed(change(vec![order]))
}

/// Adds a table so that the kernel continues to translate the connections that rules have translated, when the
/// last of those rules is removed. Its chain keeps the NAT hooks; its rule, which only reads the state of each
/// connection, keeps connection tracking on. An existing table stays as it is.
///
/// # Errors
///
/// If the kernel refuses it, or lacks nftables.
pub fn keep_translating(table: &str) -> io::Result<()> {
    const CHAIN: &str = "connections";
    if tables()?.iter().any(|(_, name)| name == table) {
        return Ok(());
    }
    let hook = [
        attribute(HOOK_NUMBER, POSTROUTING.to_be_bytes()),
        attribute(HOOK_PRIORITY, SOURCE_NAT.to_be_bytes()),
    ];
    let chain = [
        text(CHAIN_TABLE, table),
        text(CHAIN_NAME, CHAIN),
        nested(CHAIN_HOOK, &hook),
        text(CHAIN_TYPE, "nat"),
    ];
    let reads_state = [
        attribute(CT_TARGET, REGISTER.to_be_bytes()),
        attribute(CT_KEY, STATE.to_be_bytes()),
    ];
    let expression = [
        text(EXPRESSION_NAME, "ct"),
        nested(EXPRESSION_DATA, &reads_state),
    ];
    let rule = [
        text(RULE_TABLE, table),
        text(RULE_CHAIN, CHAIN),
        nested(RULE_EXPRESSIONS, &[nested(LIST_ELEMENT, &expression)]),
    ];
    let family = NftFamily::Inet.number();
    change(vec![
        message(NFTABLES, NEW_TABLE, family, &[text(TABLE_NAME, table)]),
        message(NFTABLES, NEW_CHAIN, family, &chain),
        message(NFTABLES, NEW_RULE, family, &rule),
    ])
}

/// Changes the tables in one step.
fn change(orders: Vec<RawMessage>) -> io::Result<()> {
    // `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`; the header names the part of netfilter.
    let [begin, end] = [0x10, 0x11].map(|kind| RawMessage {
        kind,
        body: [&[0, 0][..], &NFTABLES.to_be_bytes()].concat(),
    });
    open()?.order_all(begin, orders, end)
}
