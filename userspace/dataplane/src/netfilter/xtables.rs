//! Tables of `iptables-legacy`, which netlink does not list.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; `ip6tables` has the same numbers.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// Length of the names of tables and targets.
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, hooks, entries, underflows, count, size.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
/// Offset of the entries in `struct ipt_get_entries`: name, size, padding.
const ENTRIES: usize = NAME + 8;
/// The name of a chain follows a target of this name and its revision.
const CHAIN_TARGET: &[u8] = b"ERROR\0";
const TARGET_NAME: usize = 30;
const CHAIN_NAME: usize = 30;

/// Returns the names of all chains that users made in the tables of `iptables-legacy`, or of
/// `ip6tables-legacy` if `is_v6`, each with its table.
///
/// # Errors
///
/// If the kernel refuses it: `CAP_NET_ADMIN` or `CAP_NET_RAW` is missing.
pub fn legacy_chains(is_v6: bool) -> io::Result<Vec<(String, String)>> {
    let (path, family, level) = match is_v6 {
        false => (
            "/proc/self/net/ip_tables_names",
            AddressFamily::Inet,
            libc::IPPROTO_IP,
        ),
        true => (
            "/proc/self/net/ip6_tables_names",
            AddressFamily::Inet6,
            libc::IPPROTO_IPV6,
        ),
    };
    // The file is there if the kernel has the module; asking otherwise would load it.
    let names = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let raw = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?;
    let mut chains = Vec::new();
    for table in names.lines() {
        let entries = entries(&raw, level, table)?;
        chains.extend(chains_in(&entries).map(|chain| (table.to_owned(), chain)));
    }
    Ok(chains)
}

fn entries(raw: &OwnedFd, level: libc::c_int, table: &str) -> io::Result<Vec<u8>> {
    let named = |len: usize| {
        let mut bytes = vec![0; len];
        for (byte, from) in bytes.iter_mut().zip(table.bytes().take(NAME - 1)) {
            *byte = from;
        }
        bytes
    };
    let mut info = named(INFO);
    get(raw, level, GET_INFO, &mut info)?;
    let size: [u8; 4] = info[INFO - 4..].try_into().map_err(io::Error::other)?;
    let mut all = named(ENTRIES + u32::from_ne_bytes(size) as usize);
    all[NAME..NAME + 4].copy_from_slice(&size);
    // The table may change in between: EAGAIN.
    get(raw, level, GET_ENTRIES, &mut all)?;
    Ok(all.split_off(ENTRIES))
}

fn get(raw: &OwnedFd, level: libc::c_int, option: libc::c_int, bytes: &mut [u8]) -> io::Result<()> {
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which the slice has.
    let result = unsafe {
        libc::getsockopt(
            raw.as_raw_fd(),
            level,
            option,
            bytes.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The chains that users made: each begins with an entry whose target is named `ERROR` and has the chain's name.
fn chains_in(entries: &[u8]) -> impl Iterator<Item = String> {
    let targets = entries
        .windows(TARGET_NAME + CHAIN_NAME)
        .filter(|bytes| bytes.starts_with(CHAIN_TARGET));
    let names = targets.filter_map(|bytes| {
        let name = bytes[TARGET_NAME..].split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    });
    // The entry at the end of a table.
    names.filter(|name| !name.is_empty() && name != "ERROR")
}
