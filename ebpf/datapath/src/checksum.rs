//! Internet checksums (RFC 1071) and their incremental update (RFC 1624).
//!
//! The checksum of a run of 16-bit words is the complement of their one's-complement sum. That sum
//! is associative, does not care about byte order as long as sum and words share one, and may be
//! taken over 32-bit words and folded later. So a change of a field from `old` to `new` is the
//! addition of `!old + new` to the sum, at any place in the packet the field is, and several changes
//! are one addition. RFC 1624's equation 3, `HC' = ~(~HC + ~m + m')`, is [`Sum::adjust`].
//!
//! Zero has two forms, `0x0000` and `0xffff`. The sum of a real packet is never `0x0000` because
//! not all its words are zero, so folding (which yields `0xffff` unless everything is zero) picks
//! the right one.

/// A one's-complement sum, or a difference of two, not yet folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds one 32-bit word of the packet.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: u32) -> Self {
        // No overflow: fewer than 2^32 words are ever added.
        Self(self.0 + word as u64)
    }

    /// Adds a 16-bit word of the packet.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, half: u16) -> Self {
        Self(self.0 + half as u64)
    }

    /// Adds the four words of an address.
    #[inline(always)]
    #[must_use]
    pub const fn words(self, [a, b, c, d]: [u32; 4]) -> Self {
        self.word(a).word(b).word(c).word(d)
    }

    /// Adds an even number of bytes.
    #[inline(always)]
    #[must_use]
    pub fn bytes<const N: usize>(self, bytes: &[u8; N]) -> Self {
        let mut sum = self;
        for pair in bytes.as_chunks::<2>().0 {
            sum = sum.half(u16::from_ne_bytes(*pair));
        }
        sum
    }

    /// Subtracts a 32-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn without_word(self, word: u32) -> Self {
        self.word(!word)
    }

    /// Subtracts a 16-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn without_half(self, half: u16) -> Self {
        self.half(!half)
    }

    /// Subtracts the four words of an address.
    #[inline(always)]
    #[must_use]
    pub const fn without_words(self, [a, b, c, d]: [u32; 4]) -> Self {
        self.words([!a, !b, !c, !d])
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Returns the sum folded to 32 bits, as the kernel's `__wsum`.
    #[inline(always)]
    pub const fn fold32(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }

    /// Returns the sum folded to 16 bits, as a packet holds a partial checksum.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let sum = self.fold32();
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// Returns the checksum field for this sum.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Returns a checksum field after this difference.
    #[inline(always)]
    pub const fn adjust(self, checksum: u16) -> u16 {
        self.half(!checksum).checksum()
    }
}
