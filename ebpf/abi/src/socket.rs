//! Translated sockets.

use crate::{Addr, Port, Protocol};

/// A socket, and the number of one of its peers. The peers of a socket have consecutive numbers from 0 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SocketKey {
    /// `bpf_get_socket_cookie`: unique until reboot.
    pub cookie: u64,
    /// 0 for a connected socket; less than [`SocketKey::PEERS`].
    pub number: u32,
    /// Always zero.
    pub zero: [u8; 4],
}

impl SocketKey {
    /// Frontends of one unconnected UDP socket that are remembered.
    pub const PEERS: u32 = 8;
}

/// A peer of a socket under both of its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SocketEntry {
    /// Address of the frontend, for which the application asked.
    pub frontend: Addr,
    /// Address of the backend, to which the socket sends.
    pub backend: Addr,
    /// Port of the frontend.
    pub frontend_port: Port,
    /// Port of the backend.
    pub backend_port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// 1 if a later datagram went to the same backend by another frontend: answers show that one.
    pub is_hidden: u8,
    /// Always zero.
    pub zero: [u8; 2],
    /// The service that the socket was translated for.
    pub service: u32,
    /// Id of the backend; 0 if the frontend has lost it.
    pub backend_id: u32,
}
