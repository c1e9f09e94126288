//! Connections.

use bitflags::bitflags;

use crate::{Addr, Port, Protocol, clock};

/// One direction of a connection as seen on the wire, before translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always zero: the kernel hashes every byte of a key.
    pub zero: [u8; 3],
}

impl FlowKey {
    /// The same exchange seen from the other end.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            zero: [0; 3],
        }
    }
}

/// How to translate packets of one flow. Every connection has two entries, one for each direction,
/// each of which can be computed from the other (`mirror` in the datapath crate).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct CtEntry {
    /// Source address after translation.
    pub source: Addr,
    /// Destination address after translation.
    pub destination: Addr,
    /// Source port after translation.
    pub source_port: Port,
    /// Destination port after translation.
    pub destination_port: Port,
    /// The service that the connection was made to.
    pub service: u32,
    /// The backend that was selected.
    pub backend: u32,
    /// When the last packet was seen, in seconds of the monotonic clock.
    ///
    /// Several CPUs may write it at once; the worst result is a value one second older, far below
    /// every timeout.
    pub seen_s: u32,
    /// TCP: the end of the highest segment that the flow's sender sent; 0 if unknown.
    pub end: u32,
    /// TCP: the last acknowledgment that the flow's sender sent; 0 if unknown.
    pub acknowledged: u32,
    /// TCP: the end of the sender's last segment that fits no known number; 0 if all of them fit.
    pub claimed: u32,
    /// State of the connection, the same in both entries.
    pub state: CtState,
    /// See [`CtFlags`].
    pub flags: CtFlags,
    /// Always zero.
    pub zero: [u8; 2],
}

impl CtEntry {
    /// Returns the seconds since the last packet.
    #[inline(always)]
    pub const fn age_s(&self, now_s: u32) -> u32 {
        clock::age_s(self.seen_s, now_s)
    }
}

/// State of a connection; TCP states as in `nf_conntrack`, merged where the timeout is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct CtState(pub u8);

impl CtState {
    /// The client sent a packet; no reply yet.
    pub const NEW: Self = Self(0);
    /// The backend replied; for TCP the client has not confirmed yet.
    pub const ANSWERED: Self = Self(1);
    /// Both directions were seen.
    pub const ESTABLISHED: Self = Self(2);
    /// The client sent FIN.
    pub const CLIENT_CLOSED: Self = Self(3);
    /// The backend sent FIN.
    pub const BACKEND_CLOSED: Self = Self(4);
    /// Both sent FIN, and one is not acknowledged yet.
    pub const CLOSING: Self = Self(5);
    /// Neither end can send any more: both FINs are acknowledged, or one end sent RST.
    pub const CLOSED: Self = Self(6);

    /// Returns the word that the CLI prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NEW => "new",
            Self::ANSWERED => "answered",
            Self::ESTABLISHED => "established",
            Self::CLIENT_CLOSED => "client-closed",
            Self::BACKEND_CLOSED => "backend-closed",
            Self::CLOSING => "closing",
            Self::CLOSED => "closed",
            _ => "unknown",
        }
    }
}

/// Facts about a connection entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct CtFlags(u8);

bitflags! {
    impl CtFlags: u8 {
        /// This entry is for packets from the backend to the client.
        const REPLY = 1;
        /// Packets are sent on encapsulated and untranslated (DSR): the node of the backend
        /// translates them, and answers the client itself. There is no entry for the other direction.
        const ENCAPSULATES = 2;
        /// The client's packets come encapsulated from another node (DSR).
        const ENCAPSULATED = 4;
        /// The client has a connection past the service as well, from the same port to the same
        /// backend.
        const DOUBLED = 8;
        /// The node, or a pod that the kernel masquerades, opened this flow from a frontend's address
        /// and port: its packets are left to the kernel, and only what leaves the node changes it.
        const OWN = 16;
        /// The service does not send to this backend any more: a SYN opens a new connection.
        const REMOVED = 32;
        /// The kernel has this connection and translates it where that is needed: packets are left to it.
        const KERNEL = 64;
        /// The connection is being handed to the kernel: packets are dropped, and sent again.
        const PAUSED = 128;
    }
}
