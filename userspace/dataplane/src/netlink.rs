//! Requests by netlink(7) that neither nix nor aya offers.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    socket,
};

const HEADER: usize = 16;

/// What the kernel answered.
pub(crate) struct Message {
    kind: u16,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

/// A socket of netlink.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Asks for something to be done.
    pub(crate) fn order(&self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, libc::NLM_F_ACK, body)?;
        match self.receive()?.first().map(Message::error) {
            Some(Some(0)) => Ok(()),
            Some(Some(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(None) | None => Err(io::Error::other("no answer over netlink")),
        }
    }

    /// Asks for a list.
    pub(crate) fn list(&self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        self.send(kind, libc::NLM_F_DUMP, body)?;
        let mut list = Vec::new();
        loop {
            for message in self.receive()? {
                if message.kind == libc::NLMSG_DONE as u16 {
                    return Ok(list);
                }
                if let Some(number) = message.error() {
                    return Err(io::Error::from_raw_os_error(number));
                }
                list.push(message);
            }
        }
    }

    fn send(&self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::new();
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// The messages of one datagram.
    fn receive(&self) -> io::Result<Vec<Message>> {
        let mut buffer = vec![0; 64 * 1024];
        let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(len);
        let mut messages = Vec::new();
        let mut rest = buffer.as_slice();
        while let Some(len) = rest
            .first_chunk()
            .map(|len| u32::from_ne_bytes(*len) as usize)
        {
            let Some(body) = rest.get(HEADER..len) else {
                break;
            };
            let kind = rest.get(4..).and_then(|tail| tail.first_chunk());
            messages.push(Message {
                kind: kind.map_or(0, |kind| u16::from_ne_bytes(*kind)),
                body: body.to_vec(),
            });
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

impl Message {
    /// The number in an error message; 0 is an acknowledgment.
    fn error(&self) -> Option<i32> {
        if self.kind != libc::NLMSG_ERROR as u16 {
            return None;
        }
        Some(-i32::from_ne_bytes(*self.body.first_chunk()?))
    }
}

/// The value of the first attribute of this kind.
pub(crate) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEADER: usize = 4;
    /// Two bits say how the value is written.
    const KIND: u16 = 0x3fff;
    loop {
        let [len_a, len_b, kind_a, kind_b] = *attributes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([len_a, len_b]));
        let kind = u16::from_ne_bytes([kind_a, kind_b]) & KIND;
        let value = attributes.get(HEADER..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}
