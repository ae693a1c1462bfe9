//! Reads bits.

use super::{BitIo, LOOKAHEAD, PROBABILITY_BITS, REFILL, TRIM};

/// Reads bits; beyond the end of its input it reads zeros and counts them.
pub struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
    code: u32,
    range: u32,
}

impl<'a> Decoder<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        let mut decoder = Self { input, at: 0, code: 0, range: u32::MAX };
        for _ in 0..LOOKAHEAD {
            decoder.pull();
        }
        decoder
    }

    #[inline]
    fn pull(&mut self) {
        let byte = self.input.get(self.at).copied().unwrap_or(0);
        self.code = (self.code << 8) | u32::from(byte);
        self.at += 1;
    }

    /// Whether the stream cannot have come from [`super::Encoder`]: read far past its end, or not to its end.
    pub fn damaged(&self) -> bool {
        self.at > self.input.len() + LOOKAHEAD + TRIM || self.at < self.input.len()
    }
}

impl BitIo for Decoder<'_> {
    #[inline]
    fn bit(&mut self, p: u32, _: bool) -> bool {
        let bound = ((u64::from(self.range) * u64::from(p)) >> PROBABILITY_BITS) as u32;
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code = self.code.wrapping_sub(bound);
            self.range -= bound;
        }
        while self.range < REFILL {
            self.range <<= 8;
            self.pull();
        }
        bit
    }
}
