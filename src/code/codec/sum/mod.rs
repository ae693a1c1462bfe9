//! A matrix as a sum (codec 4): a multiple of a decoded matrix, a low-rank term, a residual on a grid.
//!
//! W = α·P + A·B + S ∘ Q. Any of the three may be absent, but not all. Terms are added from the left, each sum rounded once
//! to f32.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | which terms: 1 for α·P, 2 for A·B, 4 for S ∘ Q, added up |
//! | 2 | if α·P: α in 4096ths, signed little-endian |
//! | … | if A·B: `low_rank` |
//! | rest | if S ∘ Q: a stream of codec 1 |

mod decode;
mod encode;
mod head;
mod low_rank;
mod terms;

pub use decode::decode;
pub use encode::{Start, coarser, gain, is_coarse, loss, start};
pub use head::{Head, head};
pub use low_rank::{LowRank, MOST};
pub use terms::{add_up, read_start, write};

/// Bits of the first byte.
const REFERENCE: u8 = 1;
const LOW_RANK: u8 = 2;
const RESIDUAL: u8 = 4;
/// 1 in units of the gain α.
const GAIN_ONE: f32 = 4096.0;

/// α of a stored gain.
pub fn gain_value(gain: i16) -> f32 {
    f32::from(gain) / GAIN_ONE
}

/// The first byte of a sum of these terms.
fn kind(reference: bool, low_rank: bool, residual: bool) -> u8 {
    let flag = |there: bool, bit: u8| if there { bit } else { 0 };
    flag(reference, REFERENCE) | flag(low_rank, LOW_RANK) | flag(residual, RESIDUAL)
}

/// Adds the terms that are there, from the left.
fn add(into: &mut Option<Vec<f32>>, term: Vec<f32>) {
    match into {
        Some(sum) => sum.iter_mut().zip(&term).for_each(|(s, t)| *s += t),
        None => *into = Some(term),
    }
}

/// α·P, each product rounded once.
fn scaled(reference: &[f32], gain: i16) -> Vec<f32> {
    let gain = gain_value(gain);
    reference.iter().map(|p| p * gain).collect()
}
