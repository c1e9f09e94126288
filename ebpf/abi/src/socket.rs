//! Translated sockets.

use crate::{Addr, Port, Protocol};

/// A socket and the backend it was sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SocketKey {
    /// `bpf_get_socket_cookie`: unique until reboot.
    pub cookie: u64,
    /// Backend address.
    pub address: Addr,
    /// Backend port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always zero.
    pub zero: [u8; 5],
}

/// The frontend that the application connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SocketEntry {
    /// Frontend address.
    pub address: Addr,
    /// Frontend port.
    pub port: Port,
    /// Always zero.
    pub zero: [u8; 2],
    /// The service that the socket was translated for.
    pub service: u32,
    /// The selected backend.
    pub backend: u32,
}
