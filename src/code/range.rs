//! Binary arithmetic coding: a range coder with carry propagation and 16-bit probabilities.
//!
//! The shape is LZMA's (Subbotin's range coder with Pavlov's carry cache): the encoder keeps the low end of the current
//! interval and its width; a byte leaves as soon as no later carry can change it. Unlike LZMA the split is computed
//! with a 64-bit product, so that 16-bit probabilities lose nothing when the range is small.

/// Bits of a probability: `p` is the probability of a one in units of 2^-16, always in 1..=65535.
pub const PROBABILITY_BITS: u32 = 16;

/// The range is refilled when it falls below this, so it always holds at least 24 significant bits.
const REFILL: u32 = 1 << 24;

/// Bytes the decoder holds ahead of what it has used, and hence reads past the end of an honest stream.
const LOOKAHEAD: usize = 4;

/// How many zero bytes beyond [`LOOKAHEAD`] the encoder leaves out at most; a longer overrun proves a damaged stream.
const TRIM: usize = 4;

/// One side of the coder, so that a model is written once: the encoder is given the bit, the decoder finds it.
pub trait BitIo {
    /// Codes one bit whose probability of being one is `p` / 2^16; `bit` is ignored by a decoder.
    fn bit(&mut self, p: u32, bit: bool) -> bool;

    /// Codes one bit at probability one half.
    fn even_bit(&mut self, bit: bool) -> bool {
        self.bit(1 << (PROBABILITY_BITS - 1), bit)
    }
}

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

    /// Whether the stream cannot have come from [`Encoder`]: read far past its end, or not to its end.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(bits: &[(u32, bool)]) -> Vec<u8> {
        let mut encoder = Encoder::new();
        for &(p, bit) in bits {
            encoder.bit(p, bit);
        }
        encoder.finish()
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(bits in prop::collection::vec((1u32..=65535, any::<bool>()), 0..3000)) {
            let bytes = code(&bits);
            let mut decoder = Decoder::new(&bytes);
            for &(p, bit) in &bits {
                prop_assert_eq!(decoder.bit(p, false), bit);
            }
            prop_assert!(!decoder.damaged());
        }

        #[test]
        fn likely_bits_cost_what_they_should(bits in prop::collection::vec((1u32..=65535, 0u32..65536), 500..3000)) {
            let bits: Vec<(u32, bool)> = bits.into_iter().map(|(p, draw)| (p, draw < p)).collect();
            let ideal: f64 = bits.iter().map(|&(p, bit)| -(f64::from(if bit { p } else { 65536 - p }) / 65536.0).log2()).sum();
            prop_assert!((code(&bits).len() as f64) < ideal / 8.0 * 1.0001 + 2.0);
        }
    }

    #[test]
    fn carries_run_through_waiting_bytes() {
        // Ends of the interval close below a carry: first far up, then up again by almost nothing.
        for run in 1..64 {
            let bits: Vec<(u32, bool)> =
                (0..run).map(|k| (if k % 9 == 8 { 1 } else { 65535 }, k % 9 == 8 || k % 2 == 0)).collect();
            let bytes = code(&bits);
            let mut decoder = Decoder::new(&bytes);
            assert!(bits.iter().all(|&(p, bit)| decoder.bit(p, false) == bit) && !decoder.damaged());
        }
    }

    #[test]
    fn nothing_takes_no_bytes() {
        assert!(code(&[]).is_empty());
        assert!(code(&[(65535, true); 100]).is_empty());
    }
}
