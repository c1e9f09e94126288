//! Access to the bytes of a packet.

use headgate_abi::Reason;

use crate::{
    checksum::Sum,
    wire::{ETHERTYPE, Family, L3},
};

/// A frame from its link header on. Where the device has none ([`Packet::HAS_LINK`]), offsets and lengths count
/// fourteen bytes that are not there.
///
/// An access outside the frame returns a reason and changes nothing. Loads return values, never
/// references, so no pointer can outlive a change of the frame.
pub trait Packet {
    /// Length of the frame in bytes.
    fn len(&self) -> u32;

    /// The same. Where the first buffer of the frame has the length that the headers claim, that is all of it, and the
    /// kernel need not be asked.
    #[inline(always)]
    fn len_by(&self, _claimed: u32) -> u32 {
        self.len()
    }

    /// Whether the frame is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes at `offset`, or [`Reason::Malformed`].
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], Reason>;

    /// Replaces `N` bytes at `offset`, or [`Reason::RewriteFailed`].
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), Reason>;

    /// Cuts or extends the frame at its end to `len` bytes. On an error nothing has changed.
    fn resize(&mut self, len: u32) -> Result<(), Reason>;

    /// Inserts `len` bytes after the link header, for outer headers: the rest becomes the payload
    /// of a UDP datagram over `family`. On an error nothing has changed. A GSO frame (several
    /// segments in one buffer) may be re-segmented if `is_stream`.
    fn grow(&mut self, family: Family, len: u32, is_stream: bool) -> Result<(), Reason>;

    /// Removes `len` bytes after the link header.
    fn shrink(&mut self, len: u32) -> Result<(), Reason>;

    /// Whether the frame begins with an Ethernet header.
    const HAS_LINK: bool;

    /// The EtherType, or [`Reason::Malformed`].
    #[inline(always)]
    fn ethertype(&self) -> Result<u16, Reason> {
        Ok(u16::from_be_bytes(self.load(ETHERTYPE)?))
    }

    /// Writes the link addresses of the next hop, as the last change: a frame without link header gets one.
    #[inline(always)]
    fn set_link(&mut self, destination: &[u8; 6], source: &[u8; 6]) -> Result<(), Reason> {
        let [a, b, c, d, e, f] = *destination;
        let [g, h, i, j, k, l] = *source;
        self.store(0, &[a, b, c, d, e, f, g, h, i, j, k, l])
    }

    /// Whether this is XDP, so that TC sees the packet next. XDP leaves two kinds of packets to TC
    /// unchanged: those whose checksum a device is to complete (`CHECKSUM_PARTIAL`), because XDP
    /// can neither see nor keep that state, and those that TC would assign to another connection
    /// once XDP has translated them.
    const IS_BEFORE_TC: bool;

    /// The receiver of the frame, by the kernel. Asked at TC alone.
    fn receiver(&self) -> Receiver;

    /// Adds a difference to the TCP or UDP checksum at `offset`. `addresses` is the part of the
    /// difference in the pseudo header, `ports` the part in the segment: a partial checksum covers
    /// only the former.
    #[inline(always)]
    fn adjust_checksum(
        &mut self,
        offset: u32,
        addresses: Sum,
        ports: Sum,
        is_udp: bool,
    ) -> Result<(), Reason> {
        let old = u16::from_ne_bytes(self.load(offset)?);
        if is_udp && old == 0 {
            return Ok(());
        }
        let new = addresses.plus(ports).adjust(old);
        let new = if is_udp && new == 0 { 0xffff } else { new };
        self.store(offset, &new.to_ne_bytes())
    }
}

/// The receiver of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The device that received it.
    Host,
    /// All, or a group.
    Group,
    /// Another device.
    Other,
}

/// A packet in ordinary memory, for tests.
pub struct SlicePacket<'a, const IS_BEFORE_TC: bool, const HAS_LINK: bool = true> {
    bytes: &'a mut [u8],
    len: usize,
    /// Whether a frame without link header has got one.
    got_link: bool,
}

impl<'a> SlicePacket<'a, true> {
    /// A frame of the first `len` bytes of `bytes`, as XDP sees it; the rest is space to grow.
    pub fn new(bytes: &'a mut [u8], len: usize) -> Self {
        let len = len.min(bytes.len());
        Self {
            bytes,
            len,
            got_link: false,
        }
    }

    /// The same frame as TC sees it; its link header may be out of reach.
    pub fn at_tc<const HAS_LINK: bool>(self) -> SlicePacket<'a, false, HAS_LINK> {
        SlicePacket {
            bytes: self.bytes,
            len: self.len,
            got_link: false,
        }
    }
}

impl<const IS_BEFORE_TC: bool, const HAS_LINK: bool> SlicePacket<'_, IS_BEFORE_TC, HAS_LINK> {
    /// Link address of the device that receives these frames.
    pub const LINK: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// The frame.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Whether the program may touch the bytes from `offset` on.
    fn is_in_reach(&self, offset: u32) -> bool {
        HAS_LINK || self.got_link || offset >= L3
    }
}

impl<const IS_BEFORE_TC: bool, const HAS_LINK: bool> Packet
    for SlicePacket<'_, IS_BEFORE_TC, HAS_LINK>
{
    const IS_BEFORE_TC: bool = IS_BEFORE_TC;
    const HAS_LINK: bool = HAS_LINK;

    fn len(&self) -> u32 {
        self.len as u32
    }

    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], Reason> {
        let tail = self.frame().get(offset as usize..);
        tail.filter(|_| self.is_in_reach(offset))
            .and_then(|tail| tail.first_chunk().copied())
            .ok_or(Reason::Malformed)
    }

    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), Reason> {
        if !self.is_in_reach(offset) {
            return Err(Reason::RewriteFailed);
        }
        let frame = self.bytes.get_mut(..self.len);
        let tail = frame.and_then(|frame| frame.get_mut(offset as usize..));
        let target = tail.and_then(|tail| tail.first_chunk_mut());
        *target.ok_or(Reason::RewriteFailed)? = *bytes;
        Ok(())
    }

    fn ethertype(&self) -> Result<u16, Reason> {
        let bytes = self.frame().get(ETHERTYPE as usize..);
        let bytes = bytes.and_then(|bytes| bytes.first_chunk());
        bytes
            .map(|bytes| u16::from_be_bytes(*bytes))
            .ok_or(Reason::Malformed)
    }

    fn set_link(&mut self, destination: &[u8; 6], source: &[u8; 6]) -> Result<(), Reason> {
        self.got_link = true;
        self.store(0, destination)?;
        self.store(destination.len() as u32, source)
    }

    fn receiver(&self) -> Receiver {
        match self.frame() {
            frame if frame.starts_with(&Self::LINK) => Receiver::Host,
            [first, ..] if first & 1 != 0 => Receiver::Group,
            _ => Receiver::Other,
        }
    }

    fn resize(&mut self, len: u32) -> Result<(), Reason> {
        let grown = self.bytes.get_mut(self.len..len as usize);
        if let Some(grown) = grown {
            grown.fill(0);
        } else if len as usize > self.bytes.len() {
            return Err(Reason::RewriteFailed);
        }
        self.len = len as usize;
        Ok(())
    }

    fn grow(&mut self, _family: Family, len: u32, _is_stream: bool) -> Result<(), Reason> {
        let end = self.len + len as usize;
        if end > self.bytes.len() {
            return Err(Reason::NoHeadroom);
        }
        self.bytes
            .copy_within(L3 as usize..self.len, (L3 + len) as usize);
        self.len = end;
        Ok(())
    }

    fn shrink(&mut self, len: u32) -> Result<(), Reason> {
        if ((L3 + len) as usize) > self.len {
            return Err(Reason::RewriteFailed);
        }
        self.bytes
            .copy_within((L3 + len) as usize..self.len, L3 as usize);
        self.len -= len as usize;
        Ok(())
    }
}
