//! Ending connected UDP sockets whose backend is gone.
//!
//! The kernel asks the socket hooks once, at connect. A process that goes on sending to a removed
//! backend gets an error instead (`ECONNABORTED`) and connects anew (`SOCK_DESTROY` of sock_diag(7),
//! Linux 4.5, where the kernel has `CONFIG_INET_DIAG_DESTROY`).

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        socket,
    },
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const HEADER: usize = 16;
/// `struct inet_diag_sockid`: ports, addresses, device and cookie.
const ID: usize = 48;
/// Where in the id the cookie is.
const COOKIE: usize = 40;
/// Where in `struct inet_diag_msg` the id is.
const ID_IN_MESSAGE: usize = HEADER + 4;
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
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for id in connected(&socket, family, cookies)? {
            let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
            send(&socket, SOCK_DESTROY, flags, family, &id)?;
            match answers(&socket)?.first().map(|answer| error_of(answer)) {
                Some(Some(0)) => ended += 1,
                // It was closed meanwhile.
                Some(Some(libc::ENOENT)) => {}
                Some(Some(number)) => return Err(io::Error::from_raw_os_error(number)),
                Some(None) | None => return Err(io::Error::other("no answer to SOCK_DESTROY")),
            }
        }
    }
    Ok(ended)
}

/// Ids of connected UDP sockets with these cookies.
fn connected(socket: &OwnedFd, family: u8, cookies: &BTreeSet<u64>) -> io::Result<Vec<[u8; ID]>> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    send(socket, SOCK_DIAG_BY_FAMILY, flags, family, &[0; ID])?;
    let mut found = Vec::new();
    loop {
        for message in answers(socket)? {
            if kind_of(&message) == libc::NLMSG_DONE as u16 {
                return Ok(found);
            }
            if let Some(number) = error_of(&message) {
                return Err(io::Error::from_raw_os_error(number));
            }
            let id = message
                .get(ID_IN_MESSAGE..)
                .and_then(|tail| tail.first_chunk::<ID>());
            let cookie = id.and_then(|id| id.get(COOKIE..)?.first_chunk::<8>());
            if let (Some(id), Some(cookie)) = (id, cookie)
                && cookies.contains(&u64::from_ne_bytes(*cookie))
            {
                found.push(*id);
            }
        }
    }
}

/// A request with a `struct inet_diag_req_v2`.
fn send(socket: &OwnedFd, kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> io::Result<()> {
    let len = (HEADER + 8 + ID) as u32;
    let mut message = Vec::new();
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, libc::IPPROTO_UDP as u8, 0, 0]);
    message.extend(ESTABLISHED.to_ne_bytes());
    message.extend(id);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    Ok(())
}

/// The messages of one datagram.
fn answers(socket: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; 64 * 1024];
    let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(len);
    let mut messages = Vec::new();
    let mut rest = buffer.as_slice();
    while let Some(len) = rest
        .first_chunk()
        .map(|len| u32::from_ne_bytes(*len) as usize)
    {
        let Some(message) = rest.get(..len).filter(|_| len >= HEADER) else {
            break;
        };
        messages.push(message.to_vec());
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn kind_of(message: &[u8]) -> u16 {
    let kind = message.get(4..).and_then(|tail| tail.first_chunk());
    kind.map_or(0, |kind| u16::from_ne_bytes(*kind))
}

/// The number in an error message; 0 is an acknowledgment.
fn error_of(message: &[u8]) -> Option<i32> {
    if kind_of(message) != libc::NLMSG_ERROR as u16 {
        return None;
    }
    let number = message.get(HEADER..)?.first_chunk()?;
    Some(-i32::from_ne_bytes(*number))
}
