//! The network devices of this node: their names, and word that they changed.

use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

/// Groups of rtnetlink(7) that libc lacks: rules of both families.
const RTMGRP_IPV4_RULE: libc::c_int = 1 << 7;
const RTMGRP_IPV6_RULE: libc::c_int = 1 << 18;
/// Multicast groups of rtnetlink(7): links, and addresses, routes and rules of both families.
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE
    | RTMGRP_IPV4_RULE
    | RTMGRP_IPV6_RULE) as u32;

/// Reports changes of devices, addresses and routes in one network namespace.
#[allow(missing_debug_implementations, reason = "the socket has none")]
pub struct LinkChanges {
    socket: TokioSocket,
}

impl LinkChanges {
    /// Subscribes to the changes in this thread's network namespace. Changes from now on are reported.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a netlink socket.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O.
    pub fn subscribe() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self { socket })
    }

    /// Waits until something changed. Changes that come together are reported once.
    ///
    /// # Errors
    ///
    /// If the socket cannot be read.
    pub async fn changed(&mut self) -> io::Result<()> {
        // Which messages came does not matter: the kernel drops some when there are too many (ENOBUFS).
        let mut buffer = [0; 4096];
        let mut result = self.socket.recv(&mut &mut buffer[..]).await;
        loop {
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_harmless(&error) => {}
                Err(error) => return Err(error),
            }
            let socket = self.socket.socket_ref();
            result = socket.recv(&mut &mut buffer[..], 0).map(drop);
        }
    }
}

fn is_harmless(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::LinkChanges;

    #[tokio::test]
    async fn nothing_is_reported_while_nothing_changes() {
        let mut changes = LinkChanges::subscribe().unwrap();
        // Other tests of this machine may change devices meanwhile; none does so all the time.
        for _ in 0..100 {
            let change = timeout(Duration::from_millis(50), changes.changed()).await;
            if change.is_err() {
                return;
            }
        }
        panic!("reports without end");
    }
}
