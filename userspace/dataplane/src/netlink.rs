//! Requests over netlink(7), each answered before the next.

use std::{convert::Infallible, io, marker::PhantomData};

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator,
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
        self.ask(message, NLM_F_ACK)
    }

    /// Makes the kernel create an object that does not exist yet.
    pub(crate) fn create(&self, message: M) -> io::Result<()> {
        self.ask(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    }

    fn ask(&self, message: M, flags: u16) -> io::Result<()> {
        self.send([(message, flags)])?;
        let answer = self.receive()?.into_iter().next();
        match answer.map(|message| message.payload) {
            Some(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(()),
            Some(NetlinkPayload::Error(error)) => Err(error.to_io()),
            _ => Err(io::Error::other("no answer over netlink")),
        }
    }

    /// Asks the kernel for one object.
    pub(crate) fn get(&self, message: M) -> io::Result<M> {
        self.send([(message, 0)])?;
        let answer = self.receive()?.into_iter().next();
        match answer.map(|message| message.payload) {
            Some(NetlinkPayload::InnerMessage(item)) => Ok(item),
            Some(NetlinkPayload::Error(error)) => Err(error.to_io()),
            _ => Err(io::Error::other("no answer over netlink")),
        }
    }

    /// Asks the kernel for a list, again if it changed while it was read.
    pub(crate) fn list(&self, message: M) -> io::Result<Vec<M>> {
        const ATTEMPTS: usize = 10;
        let request = encode([(message, NLM_F_DUMP)]);
        for _ in 0..ATTEMPTS {
            self.socket.send(&request, 0)?;
            if let Some(list) = self.receive_list()? {
                return Ok(list);
            }
        }
        Err(io::Error::other("a list over netlink changes all the time"))
    }

    /// Returns a list; `None` if it changed while it was read.
    fn receive_list(&self) -> io::Result<Option<Vec<M>>> {
        let mut list = Some(Vec::new());
        loop {
            for message in self.receive()? {
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    list = None;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(list),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(item) => {
                        if let Some(list) = &mut list {
                            list.push(item);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Makes the kernel do several things, or none of them (nfnetlink). `begin` and `end` enclose the others
    /// and have no answer.
    pub(crate) fn order_all(&self, begin: M, orders: Vec<M>, end: M) -> io::Result<()> {
        let count = orders.len();
        let orders = orders
            .into_iter()
            .map(|order| (order, NLM_F_ACK | NLM_F_CREATE));
        self.send([(begin, 0)].into_iter().chain(orders).chain([(end, 0)]))?;
        let mut done = 0;
        while done < count {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => done += 1,
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Sends messages, each with its flags, in one datagram.
    fn send(&self, messages: impl IntoIterator<Item = (M, u16)>) -> io::Result<()> {
        self.socket.send(&encode(messages), 0)?;
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

/// Messages, each with its flags, as one datagram.
fn encode<M: NetlinkSerializable>(messages: impl IntoIterator<Item = (M, u16)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (message, flags) in messages {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }
    bytes
}

/// A message as bytes, of a protocol that no library reads.
#[derive(Debug)]
pub(crate) struct RawMessage {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl NetlinkSerializable for RawMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for RawMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

/// Attributes as bytes.
pub(crate) fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// A string attribute.
pub(crate) fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

/// Returns the value of an attribute.
pub(crate) fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    let found = all.find(|attribute| attribute.kind() == kind)?;
    Some(found.value().to_vec())
}
