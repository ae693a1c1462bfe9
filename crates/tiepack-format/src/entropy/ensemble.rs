//! Counted bit probabilities and their logistic mixing (Mahoney, PAQ and lpaq), in integers only: the learner for data
//! of which nothing is known beforehand. Where a trained shape exists, [`super::mixing`] learns faster.

use std::sync::LazyLock;

/// Log-odds are in 1/256 nat and lie in -LIMIT..=LIMIT.
const LIMIT: i32 = 3071;

struct Tables {
    squash: Vec<u16>,
    stretch: Vec<i16>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    // exp(-1/256) in units of 2^-64.
    const STEP: u128 = 18_374_827_034_086_858_296;
    let mut power = 1u128 << 64;
    let mut upper = Vec::new();
    for _ in 0..=LIMIT {
        upper.push(((1u128 << 80) / ((1 << 64) + power)).min(65_535) as u16);
        power = (power * STEP) >> 64;
    }
    let lower = upper[1..].iter().rev().map(|&p| (65_536 - u32::from(p)) as u16);
    let squash: Vec<u16> = lower.chain(upper.iter().copied()).collect();
    let stretch =
        (0..4096u16).map(|i| squash.partition_point(|&p| p < i * 16 + 8).min(2 * LIMIT as usize) as i16 - LIMIT as i16);
    Tables { stretch: stretch.collect(), squash }
});

/// Probability in 1/65536 of log-odds.
#[inline]
pub fn squash(s: i32) -> u32 {
    u32::from(TABLES.squash[(s.clamp(-LIMIT, LIMIT) + LIMIT) as usize])
}

/// Log-odds of a probability in 1/65536.
#[inline]
pub fn stretch(p: u32) -> i32 {
    i32::from(TABLES.stretch[(p >> 4) as usize])
}

/// An adaptive probability: 22 bits of it, and 10 bits of how often it was updated.
#[derive(Clone, Copy)]
pub struct Counter(u32);

impl Counter {
    pub const NEW: Counter = Counter(1 << 31);

    #[inline]
    pub fn p(self) -> u32 {
        self.0 >> 16
    }

    #[inline]
    pub fn update(&mut self, bit: bool) {
        let n = self.0 & 1023;
        let p = i64::from(self.0 >> 10);
        let target = if bit { (1i64 << 22) - 1 } else { 0 };
        let p = p + (target - p) * 2 / (2 * i64::from(n) + 3);
        self.0 = (p as u32) << 10 | (n + u32::from(n < 1000));
    }
}

/// Weighs N opinions in the logistic domain, with a set of weights for every situation.
pub struct Mixer<const N: usize> {
    weights: Vec<[i32; N]>,
}

impl<const N: usize> Mixer<N> {
    pub fn new(sets: usize, first: [i32; N]) -> Self {
        Mixer { weights: vec![first; sets] }
    }

    #[inline]
    pub fn mix(&self, set: usize, opinions: &[i32; N]) -> u32 {
        let dot: i64 = self.weights[set].iter().zip(opinions).map(|(&w, &s)| i64::from(w) * i64::from(s)).sum();
        squash((dot >> 16).clamp(-4096, 4096) as i32)
    }

    #[inline]
    pub fn update(&mut self, set: usize, opinions: &[i32; N], bit: bool, p: u32) {
        let error = (i64::from(bit) << 16) - i64::from(p);
        for (w, &s) in self.weights[set].iter_mut().zip(opinions) {
            *w = w.saturating_add(((error * i64::from(s) + (1 << 16)) >> 17) as i32);
        }
    }
}
