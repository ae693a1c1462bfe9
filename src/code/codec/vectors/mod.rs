//! All control tensors in one stream (codec 2): integers on power-of-two steps, predicted across layers.
//!
//! Tensors are cut into vectors along their last dimension. A vector is a centre, plus a multiple of an earlier vector
//! of the same width (the same part of an earlier layer is often much alike), plus a remainder. The remainders of all
//! vectors of one width are coded like a matrix whose columns they are ([`crate::code::entropy::indices`] on the plain uniform grid).

mod decode;
mod encode;

pub use decode::decode;
pub use encode::{Coded, EQUAL_SLOPE, Tensor, encode};

use crate::code::entropy::indices::Layout;
use crate::code::grid::trellis::Trellis;

/// Steps are 2^e with e in −STEP_LIMIT..=STEP_LIMIT.
const STEP_LIMIT: i32 = 100;
/// Integers stay below this, so that f32 holds them exactly.
const VALUE_LIMIT: i64 = 1 << 24;
/// How far back a vector may look for one that is like it.
const REACH: usize = 255;
/// Gains are in sixteenths.
const GAIN_SHIFT: u32 = 4;
/// How one vector is made from an earlier one.
#[derive(Debug, Clone, Copy, Default)]
struct Recipe {
    step: i32,
    centre: i64,
    /// How many vectors of the same width back the reference is; 0 for none.
    back: usize,
    gain: i64,
}

/// A vector as integers, and what it was made with.
struct Done {
    recipe: Recipe,
    values: Vec<i64>,
}

impl Recipe {
    /// What the reference says about element `i`, in steps of this vector.
    fn predict(&self, reference: Option<&Done>, i: usize) -> i64 {
        let Some(reference) = reference else { return self.centre };
        let product = self.gain * (reference.values[i] - reference.recipe.centre);
        let shift = reference.recipe.step - self.step - GAIN_SHIFT as i32;
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
fn widths(shapes: &[(usize, usize)]) -> Vec<usize> {
    let mut seen = Vec::new();
    for (n, w) in shapes {
        if *w > 0 && *n > 0 && !seen.contains(w) {
            seen.push(*w);
        }
    }
    seen
}

fn reference(done: &[Done], back: usize) -> Option<&Done> {
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

    #[test]
    fn like_vectors_cost_little_and_values_are_near() {
        let a: Vec<f32> = (0..256).map(|i| 1.0 + (i as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = a.iter().map(|v| 0.5 * v - 3.0).collect();
        let f = vec![1e-3f32; 256];
        let tensor = |data| Tensor { data, curvature: (&f[..]).into(), width: 256 };
        let c = 1e-4;
        let one = encode(&[tensor(&a)], c);
        let two = encode(&[tensor(&a), tensor(&b)], c);
        assert!(two.bytes.len() < one.bytes.len() * 7 / 4, "{} after {}", two.bytes.len(), one.bytes.len());
        let back = decode(&two.bytes, &[(256, 256), (256, 256)]).unwrap();
        let step = 2f32.powi(encode::step_of(&a, &f, c));
        assert!(a.iter().zip(&back[0]).all(|(a, b)| (a - b).abs() <= step / 2.0));
    }

    proptest! {
        #[test]
        fn round_trip(
            a in prop::collection::vec(-1e3f32..1e3, 12),
            b in prop::collection::vec(-1e-3f32..1e-3, 12),
            d in prop::collection::vec(-1f32..1.0, 4),
            c in 1e-6f64..1e3,
        ) {
            let f = [0.5f32; 12];
            let tensors = [
                Tensor { data: &a, curvature: (&f[..]).into(), width: 6 },
                Tensor { data: &b, curvature: (&f[..]).into(), width: 6 },
                Tensor { data: &d, curvature: (&f[..4]).into(), width: 4 },
            ];
            let coded = encode(&tensors, c);
            let back = decode(&coded.bytes, &[(12, 6), (12, 6), (4, 4)]).unwrap();
            // What was decoded lies on the grid, so coding it again at the same steps gives it back.
            let loss: f64 = [&a, &b, &d].iter().zip(&back).map(|(x, y)| {
                x.iter().zip(y).map(|(x, y)| 0.25 * (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>()
            }).sum();
            prop_assert!((loss - coded.loss).abs() <= 1e-6 * (1.0 + loss), "{} against {}", loss, coded.loss);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, &[(12, 6), (12, 6), (4, 4)]);
        }
    }
}
