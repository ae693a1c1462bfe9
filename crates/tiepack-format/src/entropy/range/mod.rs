//! Binary arithmetic coding: a range coder with carry propagation and 16-bit probabilities.
//!
//! The shape is LZMA's (Subbotin's range coder with Pavlov's carry cache): the encoder keeps the low end of the current
//! interval and its width; a byte leaves as soon as no later carry can change it. Unlike LZMA the split is computed
//! with a 64-bit product, so that 16-bit probabilities lose nothing when the range is small.

mod decoder;
mod encoder;

pub use decoder::Decoder;
pub use encoder::Encoder;

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
