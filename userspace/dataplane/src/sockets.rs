//! Ends connected UDP sockets to removed backends.
//!
//! The kernel runs the socket hooks once, at connect. Without this, the process would send to the removed
//! backend for ever; now it gets an error (`ECONNABORTED`) and connects again. `SOCK_DESTROY` of sock_diag(7)
//! is in Linux 4.5, with `CONFIG_INET_DIAG_DESTROY`.

use std::{
    collections::{BTreeSet, HashSet},
    convert::Infallible,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};

use crate::netlink::Netlink;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `struct inet_diag_sockid`: ports, addresses, device and cookie.
const ID: usize = 48;
/// Offset of the cookie in the id.
const COOKIE: usize = 40;
/// Offset of the id in `struct inet_diag_msg`.
const ID_IN_ANSWER: usize = 4;
const ESTABLISHED: u32 = 1 << 1;

/// Ends the connected UDP sockets with these cookies, in the network namespaces of all processes. Returns their
/// number.
pub(crate) fn destroy_udp(cookies: &BTreeSet<u64>) -> io::Result<usize> {
    let mut ended = 0;
    for netns in namespaces()? {
        let cookies = cookies.clone();
        // Namespaces are a property of threads.
        let worker = thread::spawn(move || -> io::Result<usize> {
            setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
            destroy_here(&cookies)
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

fn destroy_here(cookies: &BTreeSet<u64>) -> io::Result<usize> {
    let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for id in connected(&netlink, family, cookies)? {
            match netlink.order(Diag::request(SOCK_DESTROY, family, &id)) {
                Ok(()) => ended += 1,
                // The process closed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

/// Returns the ids of the connected UDP sockets with these cookies.
fn connected(
    netlink: &Netlink<Diag>,
    family: u8,
    cookies: &BTreeSet<u64>,
) -> io::Result<Vec<[u8; ID]>> {
    let sockets = netlink.list(Diag::request(SOCK_DIAG_BY_FAMILY, family, &[0; ID]))?;
    let ids = sockets.iter().filter_map(|socket| {
        let id = socket.body.get(ID_IN_ANSWER..)?.first_chunk::<ID>()?;
        let cookie = id.get(COOKIE..)?.first_chunk()?;
        cookies
            .contains(&u64::from_ne_bytes(*cookie))
            .then_some(*id)
    });
    Ok(ids.collect())
}

/// A message of sock_diag(7). No library has `SOCK_DESTROY`.
struct Diag {
    kind: u16,
    body: Vec<u8>,
}

impl Diag {
    /// `struct inet_diag_req_v2`.
    fn request(kind: u16, family: u8, id: &[u8; ID]) -> Self {
        let mut body = vec![family, libc::IPPROTO_UDP as u8, 0, 0];
        body.extend(ESTABLISHED.to_ne_bytes());
        body.extend(id);
        Self { kind, body }
    }
}

impl NetlinkSerializable for Diag {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Diag {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}
