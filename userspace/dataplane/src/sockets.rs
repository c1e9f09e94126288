//! Ending connected UDP sockets whose backend is gone.
//!
//! The kernel asks the socket hooks once, at connect. A process that goes on sending to a removed
//! backend gets an error instead (`ECONNABORTED`) and connects anew (`SOCK_DESTROY` of sock_diag(7),
//! Linux 4.5, where the kernel has `CONFIG_INET_DIAG_DESTROY`).

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::SockProtocol,
};

use crate::netlink::Netlink;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `struct inet_diag_sockid`: ports, addresses, device and cookie.
const ID: usize = 48;
/// Where in the id the cookie is.
const COOKIE: usize = 40;
/// Where in `struct inet_diag_msg` the id is.
const ID_IN_ANSWER: usize = 4;
const ESTABLISHED: u32 = 1 << 1;

/// Ends the connected UDP sockets with these cookies, in the network namespace of every process,
/// and returns how many there were.
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
    let netlink = Netlink::open(SockProtocol::NetlinkSockDiag)?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for id in connected(&netlink, family, cookies)? {
            match netlink.order(SOCK_DESTROY, &request(family, &id)) {
                Ok(()) => ended += 1,
                // It was closed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

/// Ids of connected UDP sockets with these cookies.
fn connected(netlink: &Netlink, family: u8, cookies: &BTreeSet<u64>) -> io::Result<Vec<[u8; ID]>> {
    let sockets = netlink.list(SOCK_DIAG_BY_FAMILY, &request(family, &[0; ID]))?;
    let ids = sockets.iter().filter_map(|socket| {
        let id = socket.body.get(ID_IN_ANSWER..)?.first_chunk::<ID>()?;
        let cookie = id.get(COOKIE..)?.first_chunk()?;
        cookies
            .contains(&u64::from_ne_bytes(*cookie))
            .then_some(*id)
    });
    Ok(ids.collect())
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut request = vec![family, libc::IPPROTO_UDP as u8, 0, 0];
    request.extend(ESTABLISHED.to_ne_bytes());
    request.extend(id);
    request
}
