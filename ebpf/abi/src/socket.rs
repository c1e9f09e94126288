//! Translated sockets.

use crate::{Addr, Port, Protocol};

/// A socket and one of its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SocketKey {
    /// `bpf_get_socket_cookie`: unique until reboot.
    pub cookie: u64,
    /// Address of the peer.
    pub address: Addr,
    /// Port of the peer.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What the peer is: [`SocketKey::BACKEND`] or [`SocketKey::FRONTEND`].
    pub peer: u8,
    /// Always zero.
    pub zero: [u8; 4],
}

impl SocketKey {
    /// The backend that the socket was sent to; the entry has the frontend.
    pub const BACKEND: u8 = 0;
    /// The frontend that an unconnected UDP socket sends to; the entry has the backend that it got last.
    pub const FRONTEND: u8 = 1;
}

/// The other name of a socket's peer: the frontend of a backend, or the backend of a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SocketEntry {
    /// Address.
    pub address: Addr,
    /// Port.
    pub port: Port,
    /// Always zero.
    pub zero: [u8; 2],
    /// The service that the socket was translated for.
    pub service: u32,
    /// The selected backend.
    pub backend: u32,
}
