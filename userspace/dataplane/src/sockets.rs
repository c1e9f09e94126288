//! Ends connected UDP sockets to removed backends, and those that were connected to a frontend before it was one.
//!
//! The kernel runs the socket hooks once, at connect. Without this, the process would send to the removed
//! backend, or past the Service, for ever; now it gets an error (`ECONNABORTED`) and connects again. `SOCK_DESTROY` of sock_diag(7)
//! is in Linux 4.5, with `CONFIG_INET_DIAG_DESTROY`.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
};

use headgate_abi::{FrontendKey, Protocol};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};

use crate::netlink::{Netlink, RawMessage};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `struct inet_diag_sockid`: ports, addresses, device and cookie.
const ID: usize = 48;
/// Offsets in the id.
const PEER_PORT: usize = 2;
const PEER: usize = 20;
const COOKIE: usize = 40;
/// Offset of the id in `struct inet_diag_msg`.
const ID_IN_ANSWER: usize = 4;
const ESTABLISHED: u32 = 1 << 1;

/// Connected UDP sockets to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connected {
    /// Cookie of the socket; 0 stands for every socket of this thread's network namespace. A cookie alone would
    /// not do: the process may have connected its socket to another peer by now.
    pub cookie: u64,
    /// Address of the peer.
    pub address: IpAddr,
    /// Port of the peer.
    pub port: u16,
}

impl Connected {
    /// The sockets of this network namespace that are connected to a frontend, if it is one of UDP.
    pub(crate) fn to(key: &FrontendKey) -> Option<Self> {
        let is_udp = key.protocol == Protocol::UDP;
        is_udp.then(|| Self {
            cookie: 0,
            address: IpAddr::from(key.address),
            port: key.port.number(),
        })
    }
}

/// Ends these sockets: those with a cookie in the network namespaces of all processes. Returns their number.
pub(crate) fn destroy_udp(wanted: &BTreeSet<Connected>) -> io::Result<usize> {
    let mut ended = 0;
    if wanted.iter().any(|socket| socket.cookie == 0) {
        ended += destroy_here(wanted)?;
    }
    if wanted.iter().all(|socket| socket.cookie == 0) {
        return Ok(ended);
    }
    let known: BTreeSet<Connected> = { wanted.iter().copied() }
        .filter(|socket| socket.cookie != 0)
        .collect();
    for netns in namespaces()? {
        let known = known.clone();
        // Namespaces are a property of threads.
        let worker = thread::spawn(move || -> io::Result<usize> {
            setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
            destroy_here(&known)
        });
        match worker.join() {
            Ok(Ok(count)) => ended += count,
            // The last process of a namespace may end meanwhile.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::Error::other("a thread panicked")),
        }
    }
    Ok(ended)
}

/// One path to each network namespace.
fn namespaces() -> io::Result<Vec<PathBuf>> {
    let mut seen = HashSet::new();
    let mut paths = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path().join("ns/net");
        if let Ok(netns) = fs::metadata(&path)
            && seen.insert(netns.ino())
        {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn destroy_here(wanted: &BTreeSet<Connected>) -> io::Result<usize> {
    let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for id in connected(&netlink, family, wanted)? {
            match netlink.order(request(SOCK_DESTROY, family, &id)) {
                Ok(()) => ended += 1,
                // The process closed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

/// Returns the ids of these sockets. An id has both addresses, both ports and the cookie, and the kernel ends a
/// socket only if all of them fit.
fn connected(
    netlink: &Netlink<RawMessage>,
    family: u8,
    wanted: &BTreeSet<Connected>,
) -> io::Result<Vec<[u8; ID]>> {
    let sockets = netlink.list(request(SOCK_DIAG_BY_FAMILY, family, &[0; ID]))?;
    let ids = sockets.iter().filter_map(|socket| {
        let id = socket.body.get(ID_IN_ANSWER..)?.first_chunk::<ID>()?;
        let found = peer(family, id)?;
        let is_wanted =
            wanted.contains(&found) || wanted.contains(&Connected { cookie: 0, ..found });
        is_wanted.then_some(*id)
    });
    Ok(ids.collect())
}

/// Reads the cookie and the peer of a socket.
fn peer(family: u8, id: &[u8; ID]) -> Option<Connected> {
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::from(*id.get(PEER..)?.first_chunk::<4>()?),
        _ => IpAddr::from(*id.get(PEER..)?.first_chunk::<16>()?).to_canonical(),
    };
    Some(Connected {
        cookie: u64::from_ne_bytes(*id.get(COOKIE..)?.first_chunk()?),
        address,
        port: u16::from_be_bytes(*id.get(PEER_PORT..)?.first_chunk()?),
    })
}

/// `struct inet_diag_req_v2`. No library has `SOCK_DESTROY`.
fn request(kind: u16, family: u8, id: &[u8; ID]) -> RawMessage {
    let mut body = vec![family, libc::IPPROTO_UDP as u8, 0, 0];
    body.extend(ESTABLISHED.to_ne_bytes());
    body.extend(id);
    RawMessage { kind, body }
}
