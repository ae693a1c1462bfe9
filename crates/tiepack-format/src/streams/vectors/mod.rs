//! All control tensors in one stream (codec 2): integers on power-of-two steps, predicted across layers.
//!
//! Tensors are cut into vectors along their last dimension. A vector is a centre, plus a multiple of an earlier vector
//! of the same width (the same part of an earlier layer is often much alike), plus a remainder. The remainders of all
//! vectors of one width are coded like a matrix whose columns they are ([`crate::entropy::indices`] on the plain uniform grid).

mod read;
mod write;

pub use read::decode;
pub use write::write;

use crate::entropy::indices::Layout;
use crate::grid::trellis::Trellis;

/// Steps are 2^e with e in −STEP_LIMIT..=STEP_LIMIT.
pub const STEP_LIMIT: i32 = 100;
/// Integers stay below this, so that f32 holds them exactly.
pub const VALUE_LIMIT: i64 = 1 << 24;
/// Greatest distance to the reference of a vector.
pub const REACH: usize = 255;
/// Gains are in sixteenths.
pub const GAIN_SHIFT: u32 = 4;

/// The prediction of one vector from an earlier one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prediction {
    /// Its step is 2 to this power.
    pub step: i32,
    pub centre: i64,
    /// Distance to the reference, in vectors of the same width; 0 for none.
    pub back: usize,
    /// The factor of the reference, in units of 2^-[`GAIN_SHIFT`].
    pub gain: i64,
}

/// A vector as integers, and what it was made with.
pub struct Vector {
    pub prediction: Prediction,
    pub values: Vec<i64>,
}

impl Prediction {
    /// The prediction of element `i`, in steps of this vector.
    #[inline]
    pub fn predict(&self, reference: Option<&Vector>, i: usize) -> i64 {
        let Some(reference) = reference else { return self.centre };
        let product = self.gain * (reference.values[i] - reference.prediction.centre);
        let shift = reference.prediction.step - self.step - GAIN_SHIFT as i32;
        let scaled = match shift {
            0..=24 => product << shift,
            25.. => 0,
            -40..=-1 => (product + (1 << (-shift - 1))) >> -shift,
            _ => 0,
        };
        (self.centre + scaled).clamp(-VALUE_LIMIT, VALUE_LIMIT)
    }
}

/// Different widths in the order in which they first occur; empty tensors and those without a width are left out.
pub fn widths(shapes: &[(usize, usize)]) -> Vec<usize> {
    let mut seen = Vec::new();
    for (n, w) in shapes {
        if *w > 0 && *n > 0 && !seen.contains(w) {
            seen.push(*w);
        }
    }
    seen
}

/// The vector that one made after `done` refers to by `back`.
pub fn reference(done: &[Vector], back: usize) -> Option<&Vector> {
    (back > 0).then(|| &done[done.len() - back])
}

/// Runs a coder over the remainders of `count` vectors of one width.
fn code<T>(width: usize, count: usize, f: impl FnOnce(&Layout) -> T) -> T {
    let trellis = Trellis::uniform();
    let (rows, cols) = (vec![0i16; width], vec![0i16; count]);
    f(&Layout { rows: width, cols: count, row_exp: &rows, col_exp: &cols, trellis: &trellis })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, &[(12, 6), (12, 6), (4, 4)]);
        }
    }
}
