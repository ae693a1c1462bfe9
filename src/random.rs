//! splitmix64: everything random follows from one number, the same on every machine.

use serde::{Deserialize, Serialize};

/// From one state to the next: 2^64 over the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A reproducible stream of random numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A stream of its own for every purpose of a seed.
    pub fn of(seed: u64, purpose: u64) -> Random {
        let mut random = Random(seed ^ purpose.wrapping_mul(0xA076_1D64_78BD_642F));
        random.bits();
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In [0, 1), the number at a place: a function of both.
    pub fn uniform_at(seed: u64, place: u64) -> f64 {
        let start = Random::new(seed).bits();
        Random(start.wrapping_add(place.wrapping_sub(1).wrapping_mul(STEP))).uniform()
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Mean 0, variance 1 (Box and Muller).
    pub fn gaussian(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// ±1 in every place.
    pub fn signs(&mut self, out: &mut [f32]) {
        for chunk in out.chunks_mut(64) {
            let bits = self.bits();
            for (i, v) in chunk.iter_mut().enumerate() {
                *v = if bits >> i & 1 == 1 { 1.0 } else { -1.0 };
            }
        }
    }
}
