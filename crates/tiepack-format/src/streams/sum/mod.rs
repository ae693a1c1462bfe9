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

mod low_rank;
mod read;
mod write;

pub use low_rank::{LowRank, MOST, SPREAD};
pub use read::{Terms, decode, read_start, terms};
pub use write::write;

/// Bits of the first byte.
const REFERENCE: u8 = 1;
const LOW_RANK: u8 = 2;
const RESIDUAL: u8 = 4;
/// 1 in units of the gain α.
pub const GAIN_ONE: f32 = 4096.0;

/// α of a stored gain.
pub fn gain_value(gain: i16) -> f32 {
    f32::from(gain) / GAIN_ONE
}

/// The matrix (R, C) row-major of these terms, bit for bit as it is decoded; zeros where there is none.
pub fn add_up(
    [rows, cols]: [usize; 2],
    reference: Option<(&[f32], i16)>,
    term: Option<&LowRank>,
    residual: Option<Vec<f32>>,
) -> Vec<f32> {
    let mut sum = reference.map(|(reference, gain)| scaled(reference, gain));
    if let Some(term) = term {
        add(&mut sum, term.product(rows, cols));
    }
    if let Some(residual) = residual {
        add(&mut sum, residual);
    }
    sum.unwrap_or_else(|| vec![0.0; rows * cols])
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), with in any::<bool>()) {
            let p = [1.0; 30];
            let _ = decode(&bytes, 6, 5, with.then_some(&p[..]));
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let all = write([2, 2], Some(7), None, Some(&[1, 2]));
        let found = terms(&all).unwrap();
        assert_eq!((found.gain, found.rank(), found.residual), (Some(7), 0, Some(&[1, 2][..])));
        // No term at all, a flag that is not known, bytes of a residual that is not there.
        for bytes in [&[0][..], &[8 | REFERENCE, 0, 0], &[REFERENCE, 0, 0, 9], &[]] {
            assert!(terms(bytes).is_none(), "{bytes:?}");
        }
    }
}
