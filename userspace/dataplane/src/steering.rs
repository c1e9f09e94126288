//! Steering: connections to a port of the node, whatever its address, go to a socket that the L7
//! proxy listens on. Client and server see the addresses that are on the wire.
//!
//! A process needs no capability for it, only leave to write the pinned map, to pass the folders above
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
    maps::{pin_folder, typed},
};

/// The map of sockets that connections are steered to.
#[allow(missing_debug_implementations, reason = "aya's socket maps have none")]
pub struct Steering {
    map: SockHash<MapData, ListenerKey>,
}

impl Steering {
    /// Gives the map pinned below `pins` to a user, who may then take any port of the node.
    pub fn allow(pins: &Path, user: u32) -> Result<(), Error> {
        let path = pin_folder(pins).join(names::LISTENERS);
        give(&path, user).map_err(|source| Error::Pin { path, source })
    }

    /// Opens the map pinned below `pins`.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        let map = typed(&pin_folder(pins), names::LISTENERS)?;
        Ok(Self { map })
    }

    /// Steers new connections to `port` to a TCP socket that listens, those of its own family alone,
    /// until it closes or another takes its place. Bind it to a free port of loopback: nobody else
    /// reaches it there but the node itself.
    ///
    /// A socket that was replaced still gets the connections whose handshake it began. To lose none,
    /// go on accepting for some round trips before closing it.
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

/// The kernel refuses sockets of further families itself.
fn family(listener: BorrowedFd<'_>) -> io::Result<AddressFamily> {
    let address: SockaddrStorage = getsockname(listener.as_raw_fd())?;
    Ok(match address.family() {
        Some(Family::Inet6) => AddressFamily::INET6,
        _ => AddressFamily::INET,
    })
}

/// Root's group keeps its access: an agent that has no capability to overrule permissions opens the
/// pin again when it restarts.
fn give(path: &Path, user: u32) -> io::Result<()> {
    const SHARED: u32 = 0o660;
    let now = fs::metadata(path)?;
    // Only the owner may, which is root before it gives the map away.
    if now.mode() & 0o777 != SHARED {
        fs::set_permissions(path, Permissions::from_mode(SHARED))?;
    }
    if now.uid() != user {
        chown(path, Some(user), None)?;
    }
    Ok(())
}
