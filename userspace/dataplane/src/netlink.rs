//! Requests over netlink(7), each answered before the next.

use std::{io, marker::PhantomData};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// A socket for messages of one protocol.
pub(crate) struct Netlink<M> {
    socket: Socket,
    messages: PhantomData<M>,
}

impl<M: NetlinkSerializable + NetlinkDeserializable> Netlink<M> {
    /// Opens a socket for a protocol of [`netlink_sys::protocols`], in this thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            messages: PhantomData,
        })
    }

    /// Makes the kernel do something.
    pub(crate) fn order(&self, message: M) -> io::Result<()> {
        self.send(message, NLM_F_ACK)?;
        let answer = self.receive()?.into_iter().next();
        match answer.map(|message| message.payload) {
            Some(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(()),
            Some(NetlinkPayload::Error(error)) => Err(error.to_io()),
            _ => Err(io::Error::other("no answer over netlink")),
        }
    }

    /// Asks the kernel for a list.
    pub(crate) fn list(&self, message: M) -> io::Result<Vec<M>> {
        self.send(message, NLM_F_DUMP)?;
        let mut list = Vec::new();
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(list),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(item) => list.push(item),
                    _ => {}
                }
            }
        }
    }

    fn send(&self, message: M, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// Returns the messages of one datagram, but for those that the library cannot read.
    fn receive(&self) -> io::Result<Vec<NetlinkMessage<M>>> {
        const ALIGNMENT: usize = 4;
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut messages = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some(len) = rest.first_chunk() {
            let len = u32::from_ne_bytes(*len) as usize;
            let Some(bytes) = rest.get(..len).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            messages.extend(NetlinkMessage::deserialize(bytes));
            rest = rest
                .get(len.next_multiple_of(ALIGNMENT)..)
                .unwrap_or_default();
        }
        Ok(messages)
    }
}
