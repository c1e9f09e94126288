//! Addresses, ports and protocols as on the wire. No other file mentions byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// An IPv6 address, or an IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2), as four words in
/// network order. One type, and so one map, serves both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct Addr([u32; 4]);

const MAPPED_PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// An IPv4 address from its four bytes on the wire, read as one word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED_PREFIX, word])
    }

    /// An IPv6 address from its sixteen bytes on the wire, read as four words.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Stands for a client in a network namespace whose address is not known yet: a multicast
    /// address, which is never a source.
    #[inline(always)]
    pub const fn of_netns(cookie: u64) -> Self {
        Self([u32::MAX, 0, (cookie >> 32) as u32, cookie as u32])
    }

    /// Returns the cookie in an address made by [`Addr::of_netns`].
    pub const fn netns(self) -> Option<u64> {
        match self.0 {
            [u32::MAX, 0, high, low] => Some((high as u64) << 32 | low as u64),
            _ => None,
        }
    }

    /// Returns the four words in network order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// Returns the last word: the whole address if it is IPv4.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED_PREFIX
    }

    /// The family of this address.
    #[inline(always)]
    pub const fn family(self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// Whether this is in `127.0.0.0/8`, or `::1`.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            self.0[3].to_ne_bytes()[0] == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1u32.to_be()
        }
    }

    /// Whether a packet may have this source: the address of one host other than the receiver (RFC
    /// 1122, 3.2.1.3; RFC 4291, 2.7).
    #[inline(always)]
    pub const fn is_host(self) -> bool {
        let [first, ..] = self.0[if self.is_v4() { 3 } else { 0 }].to_ne_bytes();
        let is_group = if self.is_v4() {
            first == 0 || first >= 224
        } else {
            first == 255
        };
        !is_group && !self.is_loopback() && !self.is_unspecified()
    }

    /// Whether this is the all-zero address of either family.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0
            && self.0[1] == 0
            && (self.0[2] == 0 || self.0[2] == MAPPED_PREFIX)
            && self.0[3] == 0
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        let v6 = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v6.octets();
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }
}

impl From<Addr> for IpAddr {
    fn from(address: Addr) -> Self {
        if address.is_v4() {
            return Ipv4Addr::from(address.0[3].to_ne_bytes()).into();
        }
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(address.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(bytes).into()
    }
}

/// A port in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    /// From the number in host order.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// From the two bytes on the wire, read as one word.
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(word)
    }

    /// The two bytes on the wire as one word.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0
    }

    /// Returns the number in host order.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An IP protocol number (IANA).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
}
