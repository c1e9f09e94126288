//! Steering: connections to a port of the node, at any of its addresses, go to a socket that the L7 proxy
//! listens on. Client and server see the addresses on the wire.
//!
//! The process needs no capability: only the permission to write the pinned map, to search the folders above
//! it, and to call bpf(2), which a seccomp profile may forbid.

use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::Path,
};

use aya::maps::{MapData, SockHash};
use headgate_abi::{AddressFamily, ListenerKey, Port, Protocol, names};
use nix::sys::socket::{AddressFamily as Family, SockaddrLike, SockaddrStorage, getsockname};

use crate::{
    error::Error,
    pin::{pin_folder, typed},
};

/// The map of the sockets that connections are steered to.
#[allow(missing_debug_implementations, reason = "aya's socket maps have none")]
pub struct Steering {
    map: SockHash<MapData, ListenerKey>,
}

impl Steering {
    /// Makes a user the owner of the map pinned below `pins`. That user can then take any port of the node.
    ///
    /// # Errors
    ///
    /// If there is no such pin, or its owner or mode cannot be changed.
    pub fn allow(pins: &Path, user: u32) -> Result<(), Error> {
        let path = pin_folder(pins).join(names::LISTENERS);
        give(&path, user).map_err(|source| Error::Pin { path, source })
    }

    /// Opens the map pinned below `pins`.
    ///
    /// # Errors
    ///
    /// If it is missing, or this user may not write it.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        let map = typed(&pin_folder(pins), names::LISTENERS)?;
        Ok(Self { map })
    }

    /// Steers new connections to `port` to a listening TCP socket, those of its family alone, until it closes
    /// or another replaces it. Bind it to a free port of loopback: there, only the node itself reaches it.
    ///
    /// A replaced socket still gets the connections whose handshake it began. To lose none, accept for some
    /// more round trips before you close it.
    ///
    /// # Errors
    ///
    /// If it is not a listening TCP socket, or the map is full.
    pub fn steer(&mut self, port: u16, listener: impl AsFd) -> Result<(), Error> {
        let listener = listener.as_fd();
        let failed = |source: io::Error| Error::map(names::LISTENERS, source);
        let key = ListenerKey {
            port: Port::new(port),
            protocol: Protocol::TCP,
            family: family(listener).map_err(failed)?,
        };
        let result = self.map.insert(key, listener.as_raw_fd(), 0);
        result.map_err(|source| Error::map(names::LISTENERS, source))
    }
}

/// Returns the family of a socket. The kernel refuses sockets of further families.
fn family(listener: BorrowedFd<'_>) -> io::Result<AddressFamily> {
    let address: SockaddrStorage = getsockname(listener.as_raw_fd())?;
    Ok(match address.family() {
        Some(Family::Inet6) => AddressFamily::INET6,
        _ => AddressFamily::INET,
    })
}

/// Root's group keeps its access: a restarted agent opens the pin again, and may have no capability to overrule
/// permissions.
fn give(path: &Path, user: u32) -> io::Result<()> {
    const SHARED: u32 = 0o660;
    let now = fs::metadata(path)?;
    // Only the owner can change the mode: root, before it gives the map away.
    if now.mode() & 0o777 != SHARED {
        fs::set_permissions(path, Permissions::from_mode(SHARED))?;
    }
    if now.uid() != user {
        chown(path, Some(user), None)?;
    }
    Ok(())
}
