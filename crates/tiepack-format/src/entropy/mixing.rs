//! Adaptive probabilities in the logistic domain, in integers only.
//!
//! A bit is predicted by a sum of learned terms, one per context, and `squash` turns the sum into a probability; once
//! the bit is known every term moves along the gradient of the code length. This is the logistic mixing of Mahoney's
//! PAQ and lpaq with the inputs themselves learned (a sparse logistic regression): the first term starts at a trained
//! shape, the others at zero, so that a short stream pays for what it must learn and for nothing else.

/// Fractional bits of a number in the logistic domain, ln(p / (1 - p)).
pub const LOGISTIC_BITS: u32 = 16;

/// Steps of [`SQUASH`] per unit, and its reach: probabilities down to 1.7e-5.
const SQUASH_STEPS: i32 = 256;
const SQUASH_REACH: i32 = 11 * SQUASH_STEPS;

const SQUASH: [u16; 2 * SQUASH_REACH as usize + 1] = squash_table();

/// 2^16 / (1 + exp(-x / 256)) for x = -SQUASH_REACH..=SQUASH_REACH.
const fn squash_table() -> [u16; 2 * SQUASH_REACH as usize + 1] {
    // exp(-1/256) in units of 2^-62; its powers lose less than 2^-49 over all products.
    const DECAY: u128 = 4_593_706_758_521_714_574;
    const ONE: u128 = 1 << 62;
    let reach = SQUASH_REACH as usize;
    let mut table = [0u16; 2 * SQUASH_REACH as usize + 1];
    let mut power = ONE;
    let mut x = 0;
    while x <= reach {
        let p = ((ONE << 16) + (ONE + power) / 2) / (ONE + power);
        table[reach + x] = p as u16;
        table[reach - x] = (65536 - p) as u16;
        power = (power * DECAY) >> 62;
        x += 1;
    }
    table
}

/// Probability in units of 2^-16 (1..=65535) of a logistic value.
#[inline]
pub fn squash(x: i32) -> u32 {
    let step = (x + (1 << (LOGISTIC_BITS - 9))) >> (LOGISTIC_BITS - 8);
    u32::from(SQUASH[(step.clamp(-SQUASH_REACH, SQUASH_REACH) + SQUASH_REACH) as usize])
}

/// Learning rate of a term: it starts as if it had seen `START` bits, and forgets none.
///
/// A bias in the logistic domain has curvature p (1 - p), about 1/5 where it matters: hence the 5.
const fn rates<const N: usize>(start: u32) -> [u16; N] {
    let mut table = [0u16; N];
    let mut n = 0;
    while n < N {
        table[n] = (5 * 65536 / (n as u32 + start)) as u16;
        n += 1;
    }
    table
}

const COUNTS: usize = 1024;
/// Terms with a trained start are trusted like this many bits.
const SHAPE_RATES: [u16; COUNTS] = rates(80);
/// Corrections start at zero and are small: they need more evidence to move.
const CORRECTION_RATES: [u16; COUNTS] = rates(500);

/// Parts of one bit that an interpolated term may get.
pub const PARTS: u32 = 16;

/// One learned term of the sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Term {
    /// Logistic value, [`LOGISTIC_BITS`] fractional bits.
    pub value: i32,
    /// Bits seen, in units of 1 / [`PARTS`].
    count: u32,
}

impl Term {
    pub fn new(value: i32) -> Self {
        Term { value, count: 0 }
    }

    /// Learns as a node of an interpolated shape, of which it made up `part` / [`PARTS`].
    #[inline]
    pub fn learn_part(&mut self, error: i32, part: u32) {
        let rate = i64::from(SHAPE_RATES[(self.count / PARTS) as usize]) * i64::from(part);
        self.value += ((i64::from(error) * rate) >> (16 + PARTS.ilog2())) as i32;
        self.count = (self.count + part).min(PARTS * COUNTS as u32 - 1);
    }

    /// Learns as a correction.
    #[inline]
    pub fn learn(&mut self, error: i32) {
        let rate = i64::from(CORRECTION_RATES[(self.count / PARTS) as usize]);
        self.value += ((i64::from(error) * rate) >> 16) as i32;
        self.count = (self.count + PARTS).min(PARTS * COUNTS as u32 - 1);
    }
}

/// The error from which terms learn: the bit minus its probability, in units of 2^-16.
#[inline]
pub fn error(bit: bool, p: u32) -> i32 {
    (i32::from(bit) << 16) - p as i32
}

/// An adaptive probability for rare bits that need no model.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveBit(u16);

impl AdaptiveBit {
    pub fn new() -> Self {
        AdaptiveBit(1 << 15)
    }

    #[inline]
    pub fn p(self) -> u32 {
        u32::from(self.0)
    }

    #[inline]
    pub fn update(&mut self, bit: bool) {
        // Rate 1/16; stays within 16..=65520.
        if bit {
            self.0 += (65535 - self.0) >> 4;
        } else {
            self.0 -= self.0 >> 4;
        }
        self.0 = self.0.clamp(16, 65520);
    }
}

impl Default for AdaptiveBit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squash_is_the_logistic_function() {
        for x in -12 * 256..=12 * 256 {
            let exact = 65536.0 / (1.0 + (-f64::from(x.clamp(-11 * 256, 11 * 256)) / 256.0).exp());
            assert!((f64::from(squash(x << 8)) - exact).abs() <= 0.5 + 1e-6, "{x}");
        }
        assert!(squash(i32::MIN / 2) >= 1 && squash(i32::MAX / 2) <= 65535);
    }

    #[test]
    fn a_term_finds_the_probability() {
        let mut term = Term::default();
        for k in 0..20_000 {
            let p = squash(term.value);
            term.learn_part(error(k % 10 == 0, p), PARTS);
        }
        assert!((squash(term.value) as i32 - 6554).abs() < 300, "{}", squash(term.value));
    }
}
