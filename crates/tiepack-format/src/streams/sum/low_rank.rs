//! The low-rank term A·B of a sum, in integers.
//!
//! Component k is an outer product of integers a (R) and b (C) times 2^e_k. A weight is Σ_k a_ik b_kj 2^(e_k - e), an
//! exact integer with e the least exponent, rounded once to f32 and multiplied by 2^e: the same on every machine.
//!
//! | bytes | what |
//! |---|---|
//! | varint | rank r, 1 to [`MOST_RANK`] |
//! | r | e_k, signed; none more than [`SPREAD`] above the least |
//! | varint, … | length of A, then its integers |
//! | varint, … | length of B, then its integers |
//!
//! A is coded as a matrix (R, r), B as a matrix (C, r), each as the indices of the uniform grid
//! ([`crate::entropy::indices`]) with all scale exponents 0.

use crate::entropy::indices::{self, Layout};
use crate::grid::step_sizes::{FINE, power};
use crate::grid::trellis::Trellis;
use crate::varint::{Reader, put};

/// Highest rank.
pub const MOST_RANK: usize = 4096;
/// Integers of the factors stay below this: r products of two, shifted by [`SPREAD`], stay within 63 bits.
pub const MOST: i32 = 1 << 15;
/// Greatest difference of exponents.
pub const SPREAD: i32 = 20;
/// Exponents lie in −EXPONENT_LIMIT..=EXPONENT_LIMIT.
const EXPONENT_LIMIT: i32 = 100;

/// The term: `a` (r, R) and `b` (r, C) component by component.
pub struct LowRank {
    pub exponents: Vec<i32>,
    pub a: Vec<i32>,
    pub b: Vec<i32>,
}

fn uniform<T>(rows: usize, rank: usize, f: impl FnOnce(&Layout) -> T) -> T {
    let (trellis, row_exp, col_exp) = (Trellis::uniform(), vec![0i16; rows], vec![0i16; rank]);
    f(&Layout { rows, cols: rank, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis })
}

impl LowRank {
    /// The term (R, C) row-major.
    pub fn product(&self, rows: usize, cols: usize) -> Vec<f32> {
        let least = self.exponents.iter().min().copied().unwrap_or(0);
        let unit = power(FINE * least);
        let mut sums = vec![0i64; rows * cols];
        for (k, e) in self.exponents.iter().enumerate() {
            let b = &self.b[k * cols..(k + 1) * cols];
            for (a, row) in self.a[k * rows..(k + 1) * rows].iter().zip(sums.chunks_exact_mut(cols.max(1))) {
                let a = i64::from(*a) << (e - least);
                row.iter_mut().zip(b).for_each(|(s, b)| *s += a * i64::from(*b));
            }
        }
        sums.into_iter().map(|s| s as f32 * unit).collect()
    }

    /// Appends the term to a stream.
    pub fn encode(&self, out: &mut Vec<u8>, rows: usize, cols: usize) {
        let rank = self.exponents.len();
        put(out, rank as u64);
        out.extend(self.exponents.iter().map(|e| *e as i8 as u8));
        for (integers, n) in [(&self.a, rows), (&self.b, cols)] {
            let coded = uniform(n, rank, |layout| indices::encode(integers, layout));
            put(out, coded.len() as u64);
            out.extend(coded);
        }
    }
}

/// A term as [`LowRank::encode`] wrote it.
pub struct CodedFactors<'a> {
    exponents: &'a [u8],
    /// The integers of A and of B.
    factors: [&'a [u8]; 2],
}

impl<'a> CodedFactors<'a> {
    /// Takes a term from a stream of `size` bytes.
    pub fn read(reader: &mut Reader<'a>, size: usize) -> Option<CodedFactors<'a>> {
        let rank = reader.within(1, MOST_RANK, "rank").ok()?;
        let exponents = reader.take(rank, "exponents").ok()?;
        let mut factor = || {
            let length = reader.within(0, size, "length of a factor").ok()?;
            reader.take(length, "factor").ok()
        };
        Some(CodedFactors { exponents, factors: [factor()?, factor()?] })
    }

    pub fn rank(&self) -> usize {
        self.exponents.len()
    }

    /// The term of a matrix (R, C); `None` if it is damaged in a way that shows.
    pub fn decode(&self, rows: usize, cols: usize) -> Option<LowRank> {
        let rank = self.rank();
        let exponents: Vec<i32> = self.exponents.iter().map(|e| i32::from(*e as i8)).collect();
        let (least, most) = (exponents.iter().min()?, exponents.iter().max()?);
        if rank > rows.min(cols) || *least < -EXPONENT_LIMIT || *most > EXPONENT_LIMIT || most - least > SPREAD {
            return None;
        }
        let factor = |coded: &[u8], n: usize| {
            let integers = uniform(n, rank, |layout| indices::decode(coded, layout))?;
            integers.iter().all(|q| q.abs() < MOST).then_some(integers)
        };
        let (a, b) = (factor(self.factors[0], rows)?, factor(self.factors[1], cols)?);
        Some(LowRank { exponents, a, b })
    }
}
