//! Writes bits.

use super::{BitIo, LOOKAHEAD, PROBABILITY_BITS, REFILL, TRIM};

/// Writes bits.
pub struct Encoder {
    low: u64,
    range: u32,
    /// The last byte that a carry could still change, and the number of 0xFF bytes waiting behind it.
    cache: u8,
    waiting: usize,
    started: bool,
    out: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    pub fn new() -> Self {
        Self { low: 0, range: u32::MAX, cache: 0, waiting: 0, started: false, out: Vec::new() }
    }

    /// Moves the top byte of `low` towards the output.
    fn shift(&mut self) {
        let top = (self.low >> 24) as u8;
        let carry = (self.low >> 32) as u8;
        if carry == 1 || top != 0xFF {
            // The byte before the first is always 0 and is never written: no carry can reach it.
            if self.started {
                self.out.push(self.cache.wrapping_add(carry));
            }
            self.out.extend(std::iter::repeat_n(0xFFu8.wrapping_add(carry), self.waiting));
            self.waiting = 0;
            self.cache = top;
            self.started = true;
        } else {
            self.waiting += 1;
        }
        self.low = (self.low << 8) & 0xFFFF_FFFF;
    }

    /// The finished stream: the value in the last interval with the most trailing zeros, which are then left out.
    pub fn finish(mut self) -> Vec<u8> {
        let last = self.low + u64::from(self.range) - 1;
        // The shortest value: keep the highest bit in which the two ends differ, as the upper end has it.
        let differing = 64 - (self.low ^ last).leading_zeros();
        if self.low > 0 && differing > 0 {
            self.low = last & !((1u64 << (differing - 1)) - 1);
        }
        let used = self.out.len() + self.waiting + usize::from(self.started);
        for _ in 0..=LOOKAHEAD {
            self.shift();
        }
        let keep = used.saturating_sub(TRIM);
        while self.out.len() > keep && self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

impl BitIo for Encoder {
    #[inline]
    fn bit(&mut self, p: u32, bit: bool) -> bool {
        let bound = ((u64::from(self.range) * u64::from(p)) >> PROBABILITY_BITS) as u32;
        if bit {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < REFILL {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}
