//! Reading an input, and random changes of bytes.

use fastrand::Rng;

/// An input that is read from start to end. Bytes after the end read as zero.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn half(&mut self) -> u16 {
        let high = self.byte();
        u16::from_be_bytes([high, self.byte()])
    }

    /// At most `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A random element of `of`.
pub(crate) fn one<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}

/// Random bytes.
pub(crate) fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.u8(..)).collect()
}

/// Changes, adds or removes some bytes.
pub(crate) fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'\n'];
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..=bytes.len());
        match (rng.u8(..8), bytes.get_mut(at)) {
            (0, _) => bytes.truncate(at),
            (1, _) => {
                let more = rng.usize(1..64);
                bytes.extend(noise(rng, more));
            }
            (2, _) => bytes.insert(at, rng.u8(..)),
            (3, Some(_)) => drop(bytes.remove(at)),
            (4, Some(byte)) => *byte = *one(rng, &EDGES),
            (5, Some(byte)) => *byte ^= 1 << rng.u8(..8),
            (_, Some(byte)) => *byte = rng.u8(..),
            (_, None) => {}
        }
    }
}
